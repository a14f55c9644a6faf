//! Routes of the callers' own namespaces, and callers that backends deny.

use heddle_policy_compiler::{
    Compiled, ObjectKind, ObjectRef, ResourceKey, ResourceKind, compile, print,
};
use serde_json::{Value, json};

use crate::cluster::{apply, http_route, of_namespace, pod, policy, split};
use crate::harness;
use crate::{builder, reference, resources, route, spec};

/// The route of a namespace for the calls to `a`, with one backend.
fn route_of(namespace: &str, backend: &str) -> Value {
    let parent = json!({"group": "", "kind": "Service", "name": "a", "namespace": "shop"});
    let backends = json!([{"name": backend, "namespace": "shop", "port": 80}]);
    let spec = json!({"parentRefs": [parent], "rules": [{"backendRefs": backends}]});
    of_namespace(http_route("s", spec), namespace, 0)
}

/// The route configuration of `a` for a pod, as text; None: it has none.
fn routes_of_a(compiled: &Compiled, pod: &str) -> Option<String> {
    let views = harness::views(compiled);
    let mut resources = views[pod].resources.values();
    let of_a = |key: &ResourceKey| key.kind == ResourceKind::Route && *key.name == *"out|shop/a|80";
    let found = resources.find(|resource| of_a(&resource.key))?;
    Some(print::to_json(found).to_string())
}

#[test]
fn a_route_of_another_namespace_replaces_that_of_the_service_for_callers_of_its_own() {
    let mut builder = builder();
    let caller = of_namespace(pod("d-0", "d", "10.0.2.7", true, true), "till", 1);
    apply(&mut builder, [caller, route_of("shop", "b")]);
    let producer = compile(&builder.world());
    let split = split(
        "s",
        json!({"service": "a", "backends": [{"service": "c", "weight": 1}]}),
    );
    let (here, there) = ("shop/b-0", "till/d-0");
    let leads_to = |compiled: &Compiled, pod: &str, service: &str| {
        let routes = routes_of_a(compiled, pod).unwrap();
        assert!(
            routes.contains(&format!("out|shop/{service}|80")),
            "{pod}: {routes}"
        );
    };
    leads_to(&producer, here, "b");
    leads_to(&producer, there, "b");

    apply(&mut builder, [route_of("till", "c")]);
    let both = producer.update(&builder.world());
    leads_to(&both, here, "b");
    leads_to(&both, there, "c");
    let name = ObjectRef::new(ObjectKind::HTTPRoute, "till", "s");
    assert!(both.statuses[&name].in_force.is_some());
    assert_eq!(resources(&both), resources(&compile(&builder.world())));

    // Without the route of the service, its split holds for the other callers.
    builder.remove(&reference());
    apply(&mut builder, [split]);
    let beside_split = both.update(&builder.world());
    leads_to(&beside_split, here, "c");
    assert!(
        routes_of_a(&beside_split, here)
            .unwrap()
            .contains("TrafficSplit")
    );
    assert!(
        !routes_of_a(&beside_split, there)
            .unwrap()
            .contains("TrafficSplit")
    );

    builder.remove(&ObjectRef::new(ObjectKind::TrafficSplit, "shop", "s"));
    builder.remove(&name);
    apply(&mut builder, [route_of("shop", "b")]);
    let again = beside_split.update(&builder.world());
    assert_eq!(
        resources(&again),
        resources(&producer),
        "the bytes from before"
    );
}

#[test]
fn a_caller_is_denied_by_the_backends_of_the_route_of_its_namespace() {
    let denying = policy(
        "p",
        json!({"selector": {"matchLabels": {"app": "c"}}, "rules": [{"action": "Deny"}]}),
    );
    for (service, denied) in [("b", false), ("c", true)] {
        let mut builder = builder();
        let caller = of_namespace(pod("d-0", "d", "10.0.2.7", true, true), "till", 1);
        let routes = [route_of("shop", "b"), route_of("till", service)];
        apply(&mut builder, [caller, denying.clone()]);
        apply(&mut builder, routes);
        let compiled = compile(&builder.world());
        assert_eq!(
            routes_of_a(&compiled, "till/d-0").is_none(),
            denied,
            "{service}"
        );
        assert!(routes_of_a(&compiled, "shop/b-0").is_some());
    }
}

/// Whether a pod of `b` has the routes of `a`: a caller that is denied by all has not.
fn has_routes_of_a(compiled: &Compiled) -> bool {
    routes_of_a(compiled, "shop/b-0").is_some()
}

#[test]
fn a_caller_that_every_backend_denies_still_gets_the_answers_of_its_own_sidecar() {
    let denying = policy(
        "p",
        json!({"selector": {"matchLabels": {"app": "c"}}, "rules": [{"action": "Deny"}]}),
    );
    let matches = json!([{"path": {"value": "/x"}}]);
    let rules = [
        (json!([{"backendRefs": [{"name": "c", "port": 80}]}]), true),
        (
            json!([{"matches": matches, "backendRefs": [{"name": "c", "port": 80}]}]),
            false,
        ),
        (
            json!([{"backendRefs": [{"name": "c", "port": 80}, {"name": "gone", "port": 80}]}]),
            false,
        ),
        (json!([{"backendRefs": []}]), false),
    ];
    for (rules, denied) in rules {
        let mut builder = builder();
        apply(&mut builder, [denying.clone(), route(spec(rules.clone()))]);
        let routed = has_routes_of_a(&compile(&builder.world()));
        assert_eq!(routed, !denied, "{rules}");
    }
}
