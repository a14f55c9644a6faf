//! `WeightsHeld`: the weights that are not in force are those that the callers' sidecars have not got.

use heddle_crds::ConditionType;
use heddle_policy_compiler::{Compiled, World, WorldBuilder, compile};
use serde_json::{Value, json};

use crate::cluster::view::{resource, view};
use crate::cluster::{apply, mesh, pod, service, slice};
use crate::{reference, route, spec};

/// A service of these families, without a selector.
fn dual(name: &str, index: u8, families: &[&str]) -> Value {
    let port = json!({"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"});
    let four = format!("10.96.0.{index}");
    let mut service = service(name, &four, json!({"app": name}), json!([port]));
    let six = format!("fd00:96::{index}");
    let ips = families
        .iter()
        .map(|of| if *of == "IPv4" { &four } else { &six });
    service["spec"]["clusterIPs"] = json!(ips.collect::<Vec<_>>());
    service["spec"]["clusterIP"] = service["spec"]["clusterIPs"][0].clone();
    service["spec"]["ipFamilies"] = json!(families);
    service
}

/// The slices of a service, by whether the one pod is ready in each family. None: it has no address of the family.
fn slices(app: &str, index: u8, ready: [Option<bool>; 2]) -> Vec<Value> {
    let port = || json!({"name": "http", "port": 8080, "protocol": "TCP"});
    let pod = format!("{app}-0");
    let addresses = [
        ("IPv4", format!("10.0.{index}.1")),
        ("IPv6", format!("fd00::{index}")),
    ];
    let families = addresses
        .iter()
        .zip(ready)
        .filter_map(|((family, ip), ready)| {
            let name = format!("{app}-{family}").to_lowercase();
            let mut slice = slice(&name, app, port(), &[(&pod, ip, ready?)]);
            slice["addressType"] = json!(family);
            Some(slice)
        });
    families.collect()
}

fn with_addresses(app: &str, index: u8) -> Value {
    let mut pod = pod(
        &format!("{app}-0"),
        app,
        &format!("10.0.{index}.1"),
        true,
        true,
    );
    let both = [format!("10.0.{index}.1"), format!("fd00::{index}")];
    pod["status"]["podIPs"] = json!(both.map(|ip| json!({ "ip": ip })));
    pod
}

fn held(compiled: &Compiled) -> Option<String> {
    let status = &compiled.statuses[&reference()];
    let held = status.condition(ConditionType::WeightsHeld);
    held.map(|held| held.message.clone())
}

/// Whether the routes for calls by IPv4, and by IPv6, lead to a backend.
fn leads_to(compiled: &Compiled, backend: &str) -> [bool; 2] {
    let both = ["service/shop/a:80", "service/shop/a:80/6"];
    let view = view(compiled, "a-0", &both);
    ["Route out|shop/a|80", "Route out|shop/a|80|6"].map(|name| {
        let route = resource(&view, name).to_string();
        route.contains(&format!("out|shop/{backend}|80"))
    })
}

const DUAL: &[&str] = &["IPv4", "IPv6"];
const BOTH: [Option<bool>; 2] = [Some(true), Some(true)];

/// The called service `a` of these families, with a route to the dual-stack services `b` and `c`.
fn builder(called: &[&str], of_b: [Option<bool>; 2]) -> WorldBuilder {
    let mut builder = World::builder();
    let backend = |name: &str, weight: u32| json!({"name": name, "port": 80, "weight": weight});
    let rules = json!([{"backendRefs": [backend("b", 1), backend("c", 3)]}]);
    apply(&mut builder, [route(spec(rules)), dual("a", 1, called)]);
    apply(&mut builder, [dual("b", 2, DUAL), dual("c", 3, DUAL)]);
    for (index, app) in ["a", "b", "c"].into_iter().enumerate() {
        let index = u8::try_from(index).unwrap();
        let ready = if app == "b" { of_b } else { BOTH };
        apply(&mut builder, slices(app, index, ready));
        apply(&mut builder, [with_addresses(app, index)]);
    }
    builder
}

#[test]
fn a_weight_is_held_in_the_families_that_callers_dial_and_that_have_no_ready_endpoint() {
    let text = |calls: &str| {
        Some(format!(
            "spec.rules[0]: shop/b:80 has no ready endpoint{calls}, so its weight 1 of 4 goes to the other backends"
        ))
    };
    let six = || text(" for calls to IPv6 addresses");
    let four = || text(" for calls to IPv4 addresses");
    for (called, ready, expected, leads) in [
        (DUAL, BOTH, None, [true, true]),
        (DUAL, [Some(true), Some(false)], six(), [true, false]),
        (DUAL, [Some(true), None], six(), [true, false]),
        (DUAL, [Some(false), Some(true)], four(), [false, true]),
        (DUAL, [Some(false), Some(false)], text(""), [false, false]),
        // No caller dials the other family.
        (&["IPv4"], [Some(true), Some(false)], None, [true, false]),
        (
            &["IPv4"],
            [Some(false), Some(true)],
            text(""),
            [false, false],
        ),
    ] {
        let cold = compile(&builder(called, ready).world());
        assert_eq!(held(&cold), expected, "{called:?} {ready:?}");
        assert_eq!(leads_to(&cold, "b"), leads, "{called:?} {ready:?}");
        let before = compile(&builder(called, BOTH).world());
        let after = before.update(&builder(called, ready).world());
        assert_eq!(held(&after), expected, "{called:?} {ready:?}: as an update");
    }
}

/// Endpoints outside the mesh, written by hand.
fn by_hand(ready: bool) -> Vec<Value> {
    let mut service = dual("b", 2, &["IPv4"]);
    service["spec"].as_object_mut().unwrap().remove("selector");
    let port = json!({"name": "http", "port": 8080, "protocol": "TCP"});
    let mut slice = slice("b-ipv4", "b", port, &[("x", "192.0.2.7", ready)]);
    slice["endpoints"][0]
        .as_object_mut()
        .unwrap()
        .remove("targetRef");
    vec![service, slice]
}

#[test]
fn a_backend_without_sidecars_is_ready_by_its_endpoints_where_plain_text_may_be_sent() {
    let strict = json!({"mode": "Strict", "outbound": "Deny"});
    let mut listed = strict.clone();
    listed["plainDestinations"] = json!([{"namespace": "shop", "service": "b"}]);
    for (settings, ready, is_held) in [
        (json!({}), true, false),
        (json!({}), false, true),
        (listed.clone(), true, false),
        (listed, false, true),
        (strict, true, true),
    ] {
        let mut builder = builder(&["IPv4"], BOTH);
        apply(&mut builder, by_hand(ready));
        apply(&mut builder, [mesh(settings.clone())]);
        let compiled = compile(&builder.world());
        assert_eq!(held(&compiled).is_some(), is_held, "{settings} {ready}");
        assert_eq!(leads_to(&compiled, "b")[0], !is_held, "{settings} {ready}");
    }
}
