//! Routes of Gateway API beside the goldens: the same configuration as the equal split, the last good spec, and callers that are denied.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

#[path = "../cluster/mod.rs"]
mod cluster;
mod consumers;
mod envoy;
mod fields;
#[path = "../harness/mod.rs"]
mod harness;
mod held;

use std::collections::BTreeSet;
use std::sync::Arc;

use cluster::{apply, http_route, of_namespace, pod, service, slice, split, with_last_good};
use heddle_crds::{ConditionStatus, ConditionType};
use heddle_policy_compiler::traffic::{Request, evaluate};
use heddle_policy_compiler::{
    Call, Compiled, NamespacedName, ObjectKind, ObjectRef, ObjectStatus, Part, World, WorldBuilder,
    compile, print,
};
use serde_json::{Value, json};

fn route(spec: Value) -> Value {
    http_route("s", spec)
}

fn spec(rules: Value) -> Value {
    json!({"parentRefs": [{"group": "", "kind": "Service", "name": "a"}], "rules": rules})
}

fn reference() -> ObjectRef {
    ObjectRef::new(ObjectKind::HTTPRoute, "shop", "s")
}

/// Services `a`, `b` and `c` of a pod each.
fn builder() -> WorldBuilder {
    let mut builder = World::builder();
    for (index, app) in ["a", "b", "c"].into_iter().enumerate() {
        let (name, ip) = (format!("{app}-0"), format!("10.0.{index}.0"));
        let port = || json!({"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"});
        let address = format!("10.96.0.{}", index + 1);
        let objects = [
            service(app, &address, json!({"app": app}), json!([port()])),
            pod(&name, app, &ip, true, true),
            slice(
                &format!("{app}-x"),
                app,
                json!({"name": "http", "port": 8080, "protocol": "TCP"}),
                &[(&name, &ip, true)],
            ),
        ];
        apply(&mut builder, objects);
    }
    builder
}

fn compiled(object: Value) -> Compiled {
    let mut builder = builder();
    apply(&mut builder, [object]);
    compile(&builder.world())
}

/// All resources of all proxies, without the name of the kind.
fn resources(compiled: &Compiled) -> BTreeSet<String> {
    let views = harness::views(compiled);
    let all = views.values().flat_map(|view| view.resources.values());
    let text = |kind: &str| {
        all.clone()
            .map(|resource| {
                let text = format!("{} {}", resource.key, print::to_json(resource));
                text.replace(kind, "KIND")
            })
            .collect()
    };
    let all: BTreeSet<String> = text("HTTPRoute");
    all.into_iter()
        .map(|text| text.replace("TrafficSplit", "KIND"))
        .collect()
}

#[test]
fn a_route_and_the_equal_split_give_the_same_configuration_but_for_the_kind_in_the_names_of_rules()
{
    for weights in [[90, 10], [1, 0], [3, 3]] {
        let [b, c] = weights;
        let routed = compiled(route(spec(json!([{"backendRefs": [
            {"name": "b", "port": 80, "weight": b}, {"name": "c", "port": 80, "weight": c}]}]))));
        let shifted = compiled(split(
            "s",
            json!({"service": "a", "backends": [{"service": "b", "weight": b}, {"service": "c", "weight": c}]}),
        ));
        assert_eq!(resources(&routed), resources(&shifted), "{weights:?}");
    }
}

#[test]
fn matches_and_mirrors_of_a_route_and_of_a_split_give_the_same_configuration_too() {
    let compiled = |objects: Vec<Value>| {
        let mut builder = builder();
        apply(&mut builder, objects);
        compile(&builder.world())
    };
    let named = |name: &str, rule: Value| http_route(name, spec(json!([rule])));
    let routed = compiled(vec![
        named(
            "s",
            json!({
                "matches": [{
                    "path": {"type": "PathPrefix", "value": "/v2/"}, "method": "POST",
                    "headers": [{"name": "X-Tester", "value": "yes"}, {"name": "x-id", "type": "RegularExpression", "value": "[0-9]+"}],
                    "queryParams": [{"name": "q", "value": "1"}],
                }, {"path": {"type": "Exact", "value": "/about"}}],
                "filters": [{"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "c", "port": 80}, "percent": 25}}],
                "backendRefs": [{"name": "b", "port": 80}],
            }),
        ),
        named("t", json!({"backendRefs": [{"name": "a", "port": 80}]})),
    ]);
    let shifted = compiled(vec![
        split(
            "s",
            json!({
                "service": "a",
                "matches": [{
                    "path": {"prefix": "/v2"}, "method": "POST",
                    "headers": [{"name": "x-id", "regex": "[0-9]+"}, {"name": "x-tester", "exact": "yes"}],
                    "query": [{"name": "q", "exact": "1"}],
                }, {"path": {"exact": "/about"}}],
                "backends": [{"service": "b", "weight": 1}],
                "mirrors": [{"service": "c", "percent": 25}],
            }),
        ),
        split(
            "t",
            json!({"service": "a", "backends": [{"service": "a", "weight": 1}]}),
        ),
    ]);
    // A split is one rule, so its clusters name no index of a rule.
    let without_rule = |compiled: &Compiled| -> BTreeSet<String> {
        let all = resources(compiled).into_iter();
        all.map(|text| text.replace("|shop/s/0/0/mirror", "|shop/s/0/mirror"))
            .collect()
    };
    let routed = without_rule(&routed);
    assert!(
        routed
            .iter()
            .any(|text| text.contains("request_mirror_policies"))
    );
    assert_eq!(routed, without_rule(&shifted));
}

fn condition(status: &ObjectStatus, kind: ConditionType) -> (ConditionStatus, String) {
    let found = status.condition(kind).unwrap();
    (found.status, found.reason.clone())
}

/// The backend of a request without headers.
fn backend(compiled: &Compiled, path: &str) -> Option<String> {
    let name = NamespacedName::new("shop", "a");
    let (_, table) = compiled.route_tables(&name).next().unwrap();
    let request = Request {
        host: "a".to_owned(),
        method: "GET".to_owned(),
        path: path.to_owned(),
        headers: Vec::new(),
    };
    let decision = evaluate(table, &request)?;
    let shares = decision.shares();
    Some(shares.first()?.upstream?.name.to_string())
}

#[test]
fn an_unsupported_route_keeps_its_last_good_rules_at_the_parents_of_then() {
    let good = spec(json!([{"backendRefs": [{"name": "b", "port": 80}]}]));
    let mut next = spec(json!([{"later": {}, "backendRefs": [{"name": "c", "port": 80}]}]));
    next["parentRefs"][0]["name"] = json!("b");
    let mut builder = builder();
    builder.apply(with_last_good(route(next), good.clone()));
    let compiled = compile(&builder.world());
    assert_eq!(backend(&compiled, "/").as_deref(), Some("out|shop/b|80"));
    let status = &compiled.statuses[&reference()];
    assert_eq!(status.in_force.as_ref().unwrap().generation, 1);
    assert_eq!(status.in_force.as_ref().unwrap().spec, good);
    assert_eq!(
        condition(status, ConditionType::Accepted),
        (ConditionStatus::False, "UnsupportedValue".to_owned())
    );
    let parents = status.parents.iter().map(|of| of.parent.name.as_str());
    assert_eq!(
        parents.collect::<Vec<_>>(),
        ["b"],
        "those of the present spec"
    );
}

#[test]
fn a_missing_backend_is_no_reason_for_the_last_good_rules() {
    let good = spec(json!([{"backendRefs": [{"name": "b", "port": 80}]}]));
    let next = spec(
        json!([{"matches": [{"path": {"value": "/x"}}], "backendRefs": [{"name": "gone", "port": 80}]}]),
    );
    let mut builder = builder();
    builder.apply(with_last_good(route(next), good));
    let compiled = compile(&builder.world());
    let status = &compiled.statuses[&reference()];
    assert_eq!(status.in_force.as_ref().unwrap().generation, 2);
    assert_eq!(
        condition(status, ConditionType::ResolvedRefs),
        (ConditionStatus::False, "BackendNotFound".to_owned())
    );
    let name = NamespacedName::new("shop", "a");
    let (_, table) = compiled.route_tables(&name).next().unwrap();
    assert_eq!(
        table.hosts[0].entries.len(),
        1,
        "no rule for other requests"
    );
}

#[test]
fn a_backend_of_another_namespace_comes_and_goes_with_its_service() {
    let rules = json!([{"backendRefs": [{"name": "b", "namespace": "till", "port": 80}]}]);
    let mut builder = builder();
    apply(&mut builder, [route(spec(rules))]);
    let resolved = |compiled: &Compiled| {
        let status = &compiled.statuses[&reference()];
        condition(status, ConditionType::ResolvedRefs).1
    };
    let without = compile(&builder.world());
    assert_eq!(resolved(&without), "BackendNotFound");
    assert_eq!(backend(&without, "/"), None);

    let port = json!([{"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}]);
    let there = service("b", "10.96.0.9", json!({"app": "b"}), port);
    let there = of_namespace(there, "till", 1);
    apply(&mut builder, [there.clone()]);
    let with = without.update(&builder.world());
    assert_eq!(resolved(&with), "ResolvedRefs");
    assert_eq!(backend(&with, "/").as_deref(), Some("out|till/b|80"));
    assert_eq!(resources(&with), resources(&compile(&builder.world())));

    builder.remove(&ObjectRef::new(ObjectKind::Service, "till", "b"));
    let again = with.update(&builder.world());
    assert_eq!(resolved(&again), "BackendNotFound");
    assert_eq!(resources(&again), resources(&without));
}

#[test]
fn a_route_that_changes_no_byte_changes_no_part_and_is_explained() {
    let to = |name: &str| json!({"name": name, "port": 80});
    let idle = |edits: Value| {
        let mut idle = to("c");
        idle["weight"] = json!(0);
        idle["filters"] = edits;
        idle
    };
    let rule = |backends: Value| json!({ "backendRefs": backends });
    let with = |field: &str, value: Value| {
        let mut rule = rule(json!([to("b")]));
        rule[field] = value;
        rule
    };
    let mirror = |percent: u32| {
        let to_gone = json!({"backendRef": to("gone"), "percent": percent});
        with(
            "filters",
            json!([{"type": "RequestMirror", "requestMirror": to_gone}]),
        )
    };
    let edit =
        json!([{"type": "RequestHeaderModifier", "requestHeaderModifier": {"remove": ["x"]}}]);
    let pairs = [
        (
            rule(json!([to("gone")])),
            rule(json!([to("lost")])),
            "invalid: service shop/lost does not exist",
        ),
        (mirror(10), mirror(20), "shop/b:80"),
        (
            rule(json!([to("b"), idle(edit)])),
            rule(json!([to("b"), idle(json!([]))])),
            "shop/b:80",
        ),
        (
            with("timeouts", json!({"request": "0s"})),
            with("timeouts", json!({})),
            "shop/b:80",
        ),
    ];
    for (before, after, backend) in pairs {
        let mut builder = builder();
        apply(&mut builder, [route(spec(json!([before])))]);
        let old = compile(&builder.world());
        let parts = parts(&old);
        apply(&mut builder, [route(spec(json!([after])))]);
        let new = old.update(&builder.world());
        let same = self::parts(&new)
            .iter()
            .zip(&parts)
            .all(|(a, b)| Arc::ptr_eq(a, b));
        assert!(same, "{before} and {after}");
        let call = Call {
            from: NamespacedName::new("shop", "b-0"),
            host: "a".to_owned(),
            port: 80,
            tls: false,
            method: "GET".to_owned(),
            path: "/".to_owned(),
            headers: Vec::new(),
        };
        let explanation = new.explain(&call).unwrap();
        assert_eq!(explanation.backends[0].backend.to_string(), backend);
    }
}

/// The parts of a pod of `b`.
fn parts(compiled: &Compiled) -> Vec<Arc<Part>> {
    let wanted = compiled.destinations();
    let wanted = wanted.map(|at| Compiled::on_demand_name(at, "1")).collect();
    harness::view(compiled, &NamespacedName::new("shop", "b-0"), &wanted)
        .unwrap()
        .parts
}
