//! Addresses outside the mesh: of headless services, of services of type ExternalName, and plain text where only mTLS is allowed.

use heddle_policy_compiler::{Call, Compiled, NamespacedName, Stopped, WorldBuilder, compile};
use serde_json::{Value, json};

use crate::cluster::view::{endpoints, on_demand, resource, view};
use crate::cluster::{apply, mesh, pod, service, slice, split};
use crate::{built, caller, http, port};

/// A headless service without a selector. Its slice names an outside address.
fn outside() -> Vec<Value> {
    let mut slice = slice(
        "db-x",
        "db",
        json!({"name": "tcp", "port": 5432}),
        &[("", "192.0.2.10", true)],
    );
    slice["endpoints"][0]
        .as_object_mut()
        .unwrap()
        .remove("targetRef");
    let ports = json!([{"name": "tcp", "port": 5432, "protocol": "TCP"}]);
    vec![
        service("db", "None", json!({}), ports),
        slice,
        caller("caller", "a"),
    ]
}

#[test]
fn outside_addresses_of_a_headless_service_are_destinations_where_unknown_ones_are_refused() {
    let (known, port, ip) = ("192.0.2.10:5432", "192.0.2.10:5433", "192.0.2.11:5432");
    let passes = |compiled: &Compiled, at: &str| {
        on_demand(compiled, "caller", at).contains("load_assignment")
    };
    let mut builder = built(outside());
    let open = compile(&builder.world());
    assert!([known, port, ip].iter().all(|at| passes(&open, at)));
    apply(&mut builder, [mesh(json!({"outbound": "Deny"}))]);
    let denies = open.update(&builder.world());
    assert_eq!(
        [known, port, ip].map(|at| passes(&denies, at)),
        [true, false, false]
    );
    // With an address of its own, the service is the destination of calls.
    let ports = json!([{"name": "tcp", "port": 5432, "protocol": "TCP"}]);
    apply(&mut builder, [service("db", "10.96.3.1", json!({}), ports)]);
    let owned = denies.update(&builder.world());
    assert!(!passes(&owned, known));
    apply(
        &mut builder,
        [
            outside().remove(0),
            mesh(json!({"outbound": "Deny", "mode": "Strict"})),
        ],
    );
    assert!(
        !passes(&owned.update(&builder.world()), known),
        "plain text under Strict"
    );
    let named = json!([{"namespace": "shop", "service": "db"}]);
    apply(
        &mut builder,
        [mesh(
            json!({"outbound": "Deny", "mode": "Strict", "plainDestinations": named}),
        )],
    );
    assert!(passes(&owned.update(&builder.world()), known));
}

/// The explanation of a call by address and the view of the caller come from one rule.
#[test]
fn an_explained_call_to_an_outside_address_ends_as_in_the_view() {
    let mut objects = outside();
    objects.push(mesh(json!({"outbound": "Deny"})));
    let compiled = compile(&built(objects).world());
    for (host, port, passes) in [
        ("192.0.2.10", 5432, true),
        ("192.0.2.10", 5433, false),
        ("192.0.2.11", 5432, false),
    ] {
        let call = Call {
            from: NamespacedName::new("shop", "caller"),
            host: host.to_owned(),
            port,
            tls: false,
            method: "GET".to_owned(),
            path: "/".to_owned(),
            headers: Vec::new(),
        };
        let stopped = compiled.explain(&call).ok().and_then(|e| e.stopped);
        let refused = (!passes).then_some(Stopped::UnknownRefused);
        assert_eq!(stopped, refused, "{host}:{port}");
        let view = on_demand(&compiled, "caller", &format!("{host}:{port}"));
        assert_eq!(view.contains("load_assignment"), passes, "{host}:{port}");
    }
}

#[test]
fn where_only_mtls_and_known_destinations_are_allowed_plain_text_has_to_be() {
    let strict = |services: Value| {
        mesh(json!({"mode": "Strict", "outbound": "Deny", "plainDestinations": services}))
    };
    let pods = [("web-0", "10.0.4.1", true), ("web-1", "10.0.4.2", true)];
    let mut objects = vec![
        service("web", "10.96.4.1", json!({"app": "web"}), http()),
        slice("web-x", "web", port(), &pods),
        caller("caller", "a"),
    ];
    objects.push(pod("web-0", "web", "10.0.4.1", true, true));
    objects.push(pod("web-1", "web", "10.0.4.2", false, true));
    type Case = (
        &'static str,
        Option<Value>,
        &'static [&'static str],
        Option<&'static str>,
    );
    let cases: Vec<Case> = vec![
        (
            "no mesh",
            None,
            &["10.0.4.1:8080", "10.0.4.2:8080 plain"],
            None,
        ),
        (
            "only Strict",
            Some(mesh(json!({"mode": "Strict"}))),
            &["10.0.4.1:8080", "10.0.4.2:8080 plain"],
            None,
        ),
        (
            "only Deny",
            Some(mesh(json!({"outbound": "Deny"}))),
            &["10.0.4.1:8080", "10.0.4.2:8080 plain"],
            None,
        ),
        (
            "both",
            Some(strict(json!([]))),
            &["10.0.4.1:8080"],
            Some("PlainTextRefused"),
        ),
        (
            "another service",
            Some(strict(json!([{"namespace": "shop", "service": "we"}]))),
            &["10.0.4.1:8080"],
            Some("PlainTextRefused"),
        ),
        (
            "the service",
            Some(strict(json!([{"namespace": "shop", "service": "web"}]))),
            &["10.0.4.1:8080", "10.0.4.2:8080 plain"],
            None,
        ),
        (
            "the namespace",
            Some(strict(json!([{"namespace": "shop", "service": "*"}]))),
            &["10.0.4.1:8080", "10.0.4.2:8080 plain"],
            None,
        ),
    ];
    for (case, settings, expected, finding) in cases {
        let mut builder = built(objects.clone());
        let before = compile(&builder.world());
        apply(&mut builder, settings);
        let compiled = before.update(&builder.world());
        let all = view(&compiled, "caller", &[]);
        assert_eq!(endpoints(&all, "out|shop/web|80"), expected, "{case}");
        let codes: Vec<_> = compiled.findings.iter().map(|f| f.code).collect();
        assert_eq!(codes, Vec::from_iter(finding), "{case}");
    }
    // By its own address, where a headless service leads.
    objects[0] = service("web", "None", json!({"app": "web"}), http());
    let mut builder = built(objects);
    let at = "10.0.4.2:8080";
    let refused = |builder: &mut WorldBuilder| {
        let compiled = compile(&builder.world());
        let all = view(&compiled, "caller", &["pod/shop/web-1:8080"]);
        let listener = resource(&all, &format!("Listener dst|{at}")).to_string();
        assert!(listener.len() > 10, "{at} has no listener");
        !listener.contains("pods|shop/web|plain")
    };
    assert!(!refused(&mut builder));
    apply(&mut builder, [strict(json!([]))]);
    assert!(refused(&mut builder));
    apply(
        &mut builder,
        [strict(json!([{"namespace": "shop", "service": "web"}]))],
    );
    assert!(!refused(&mut builder));
}

#[test]
fn an_external_name_is_named_where_its_addresses_are_refused_or_a_split_needs_endpoints() {
    let mut external = service("cloud", "", json!({}), http());
    external["spec"] =
        json!({"type": "ExternalName", "externalName": "cloud.example", "ports": http()});
    let web = service("web", "10.96.5.1", json!({"app": "web"}), http());
    let mut builder = built([web, external]);
    let open = compile(&builder.world());
    assert!(open.findings.is_empty(), "{:?}", open.findings);
    let backends = json!([{"service": "web", "weight": 1}, {"service": "cloud", "weight": 1}]);
    apply(
        &mut builder,
        [
            mesh(json!({"outbound": "Deny"})),
            split("s", json!({"service": "web", "backends": backends})),
        ],
    );
    let denies = open.update(&builder.world());
    let texts: Vec<String> = denies.findings.iter().map(ToString::to_string).collect();
    assert_eq!(texts.len(), 2, "{texts:?}");
    assert!(
        texts.iter().any(|t| t.contains("Service shop/cloud")),
        "{texts:?}"
    );
    assert!(
        texts
            .iter()
            .any(|t| t.contains("is of type ExternalName, which has no endpoints")),
        "{texts:?}"
    );
}
