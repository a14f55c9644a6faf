//! The cost of an edit, and the parts that it leaves as they were.

use std::collections::BTreeSet;
use std::sync::Arc;

use heddle_crds::ConditionType;
use heddle_policy_compiler::{
    Compiled, Dependency, NamespacedName, ObjectKind, ObjectRef, Part, World, WorldBuilder, compile,
};
use serde_json::{Value, json};

use crate::cluster::view::{resource, view};
use crate::cluster::{
    annotated, apply, http_route, of_namespace, pod, policy, service, slice, split,
};
use crate::pool::{NAMESPACES, http, on_each_node, on_node, web};
use crate::views::{Asked, same_as_cold, says_what_it_did, views};

/// A small mesh that is well.
fn shop() -> WorldBuilder {
    let mut builder = World::builder();
    apply(&mut builder, objects());
    builder
}

/// Three services with two pods each, a split and a policy.
fn objects() -> Vec<Value> {
    let mut objects = Vec::new();
    for (index, app) in ["a", "b", "c"].into_iter().enumerate() {
        let ips: Vec<String> = (0..2).map(|n| format!("10.0.{index}.{n}")).collect();
        let names: Vec<String> = (0..2).map(|n| format!("{app}-{n}")).collect();
        let pods: Vec<_> = names
            .iter()
            .zip(&ips)
            .map(|(n, ip)| (n.as_str(), ip.as_str(), true))
            .collect();
        let meshed = pods.iter();
        objects.extend(meshed.map(|(name, ip, _)| pod(name, app, ip, true, true)));
        let port = json!({"name": "http", "port": 8080, "protocol": "TCP"});
        let ip = format!("10.96.0.{}", index + 1);
        objects.push(service(app, &ip, web(app), http()));
        objects.push(slice(&format!("{app}-x"), app, port, &pods));
    }
    let backends = json!([{"service": "a", "weight": 1}, {"service": "b", "weight": 1}]);
    objects.push(split("s", json!({"service": "a", "backends": backends})));
    let rules = json!([{"from": {"identities": ["shop/a"]}}]);
    objects.push(policy(
        "p",
        json!({"target": {"service": "b"}, "rules": rules}),
    ));
    objects
}

/// The units that each edit must compile, and no others.
#[test]
fn an_edit_compiles_what_it_touches() {
    let port = || json!({"name": "http", "port": 8080, "protocol": "TCP"});
    type Case = (&'static str, Value, &'static [(&'static str, usize)]);
    let cases: Vec<Case> = vec![
        (
            "the same again",
            pod("a-0", "a", "10.0.0.0", true, true),
            &[],
        ),
        (
            "an annotation of a pod",
            annotated(pod("a-0", "a", "10.0.0.0", true, true), "x", "y"),
            &[],
        ),
        (
            "an annotation of a service",
            annotated(service("a", "10.96.0.1", web("a"), http()), "x", "y"),
            &[],
        ),
        (
            "an annotation of a policy",
            annotated(
                policy(
                    "p",
                    json!({"target": {"service": "b"}, "rules": [{"from": {"identities": ["shop/a"]}}]}),
                ),
                "x",
                "y",
            ),
            &[],
        ),
        (
            "readiness",
            pod("a-0", "a", "10.0.0.0", true, false),
            &[("proxies", 1)],
        ),
        (
            "endpoints of a service",
            slice("c-x", "c", port(), &[("c-0", "10.0.2.0", true)]),
            &[("clients", 1)],
        ),
        // The split of `a` leads to `b`, and its status counts the ready ones.
        (
            "endpoints of a backend",
            slice("b-x", "b", port(), &[("b-0", "10.0.1.0", true)]),
            &[("splits", 1), ("clients", 2)],
        ),
        (
            "a policy",
            policy(
                "p",
                json!({"target": {"service": "b"}, "rules": [{"from": {"identities": ["shop/c"]}}]}),
            ),
            &[("policies", 1), ("inbound", 1), ("caller_filters", 1)],
        ),
        (
            "a new pod of a known template",
            pod("c-2", "c", "10.0.2.2", true, true),
            &[("proxies", 1)],
        ),
        (
            "a service",
            service("c", "10.96.0.9", web("c"), http()),
            &[("inbound", 1), ("caller_filters", 1), ("clients", 1)],
        ),
        (
            "weights",
            split(
                "s",
                json!({"service": "a", "backends": [{"service": "a", "weight": 1}, {"service": "b", "weight": 9}]}),
            ),
            &[("splits", 1), ("clients", 1)],
        ),
    ];
    for (name, edit, expected) in cases {
        let mut builder = shop();
        let before = compile(&builder.world());
        assert!(before.findings.is_empty(), "{:?}", before.findings);
        apply(&mut builder, [edit]);
        let after = before.update(&builder.world());
        let counted: Vec<(&str, usize)> = after
            .changes()
            .recompiled
            .by_kind()
            .into_iter()
            .filter(|(_, n)| *n > 0)
            .collect();
        assert_eq!(counted, expected, "{name}");
        if expected.is_empty() {
            assert!(
                after.changes().touched.is_empty()
                    && after.changes().replaced.is_empty()
                    && !after.changes().all,
                "{name}"
            );
        }
    }
}

/// The weights of a route depend on whether its backends are ready, and not on how many of their endpoints are.
#[test]
fn the_last_ready_endpoint_of_a_backend_changes_the_rules_that_lead_there() {
    let backend = |service: &str| json!({"name": service, "port": 80});
    let route = |name: &str, parent: &str, backends: [Value; 2]| {
        let parent = json!({"group": "", "kind": "Service", "name": parent});
        let rules = json!([{"backendRefs": backends}]);
        http_route(name, json!({"parentRefs": [parent], "rules": rules}))
    };
    let mut builder = World::builder();
    let others = objects().into_iter();
    let others = others.filter(|value| value["kind"] != "TrafficSplit");
    apply(&mut builder, others);
    let routes = [
        route("r", "c", [backend("b"), backend("c")]),
        route("s", "a", [backend("a"), backend("c")]),
    ];
    apply(&mut builder, routes);
    let port = || json!({"name": "http", "port": 8080, "protocol": "TCP"});
    let slice = |ready: [bool; 2]| {
        let pods = [("b-0", "10.0.1.0", ready[0]), ("b-1", "10.0.1.1", ready[1])];
        slice("b-x", "b", port(), &pods)
    };
    let held = |compiled: &Compiled, name: &str| {
        let object = ObjectRef::new(ObjectKind::HTTPRoute, "shop", name);
        let status = &compiled.statuses[&object];
        let held = status.condition(ConditionType::WeightsHeld);
        held.map(|held| held.message.clone())
    };
    let leads_to_b = |compiled: &Compiled| {
        let view = view(compiled, "a-0", &["service/shop/c:80"]);
        let route = resource(&view, "Route out|shop/c|80").to_string();
        assert!(route.contains("out|shop/c|80"), "{route}");
        route.contains("out|shop/b|80")
    };
    let mut before = compile(&builder.world());
    assert_eq!((held(&before, "r"), leads_to_b(&before)), (None, true));
    let (none, some): (&[_], &[_]) = (&[("clients", 2)], &[("http_routes", 1), ("clients", 2)]);
    for (ready, expected, is_held) in [
        ([true, false], none, false),
        ([false, false], some, true),
        ([false, true], some, false),
        ([true, true], none, false),
    ] {
        apply(&mut builder, [slice(ready)]);
        let after = before.update(&builder.world());
        same_as_cold(&after, &compile(&builder.world())).unwrap();
        let counted = after.changes().recompiled.by_kind().into_iter();
        let counted: Vec<_> = counted.filter(|(_, count)| *count > 0).collect();
        assert_eq!(counted, expected, "{ready:?}");
        let text = "spec.rules[0]: shop/b:80 has no ready endpoint, so its weight 1 of 2 goes to the other backends";
        let text = is_held.then(|| text.to_owned());
        assert_eq!(held(&after, "r"), text, "{ready:?}");
        assert_eq!(held(&after, "s"), None, "{ready:?}");
        assert_eq!(leads_to_b(&after), !is_held, "{ready:?}");
        before = after;
    }
}

/// The same edits beside two other namespaces with the same objects compile the same units, and touch nothing of the others.
#[test]
fn an_edit_compiles_nothing_in_a_namespace_that_does_not_read_it() {
    let port = || json!({"name": "http", "port": 8080, "protocol": "TCP"});
    let rules = json!([{"from": {"identities": ["shop/c"]}}]);
    let backends = json!([{"service": "a", "weight": 1}, {"service": "c", "weight": 9}]);
    let edits = [
        service("c", "10.96.0.9", web("c"), http()),
        slice("b-x", "b", port(), &[("b-0", "10.0.1.0", true)]),
        pod("a-0", "a", "10.0.0.0", true, false),
        pod("c-2", "b", "10.0.2.2", true, true),
        pod("c-3", "c", "10.0.2.3", false, true),
        policy("p", json!({"target": {"service": "b"}, "rules": rules})),
        split("s", json!({"service": "a", "backends": backends})),
    ];
    for edit in edits {
        let mut counts = Vec::new();
        for others in [0, 2] {
            let mut builder = shop();
            let beside = NAMESPACES.iter().enumerate().skip(1).take(others);
            for (number, namespace) in beside {
                let objects = objects().into_iter();
                apply(
                    &mut builder,
                    objects.map(|value| of_namespace(value, namespace, number)),
                );
            }
            let before = compile(&builder.world());
            apply(&mut builder, [edit.clone()]);
            let after = before.update(&builder.world());
            let changes = after.changes();
            counts.push((changes.recompiled, changes.touched.clone()));
        }
        assert_eq!(counts[0], counts[1], "{edit}");
    }
}

#[test]
fn a_change_of_endpoints_replaces_a_part_of_those_who_call_them() {
    let mut builder = shop();
    let before = compile(&builder.world());
    let port = json!({"name": "http", "port": 8080, "protocol": "TCP"});
    let change = [slice("c-x", "c", port, &[("c-0", "10.0.2.0", true)])];
    apply(&mut builder, change);
    let unseen = before.update(&builder.world());
    let c = NamespacedName::new("shop", "c");
    let touched = BTreeSet::from([Dependency::Service(c.clone())]);
    assert_eq!(
        unseen.changes().touched,
        touched,
        "nobody has made its part yet: whoever makes the old one is told"
    );
    views(&before);
    let seen = before.update(&builder.world());
    assert!(seen.changes().touched.is_empty());
    let services: Vec<_> = seen.changes().replaced.iter().map(|r| &r.service).collect();
    assert_eq!(services, [&c]);
}

/// Callers on nodes without a ready endpoint share one side. Each gets the endpoint of its own node once that is ready.
#[test]
fn callers_that_share_a_side_are_not_mixed_up_when_it_diverges() {
    let cases: [(&str, [bool; 2], [bool; 2]); 6] = [
        ("one node becomes ready", [false, false], [true, false]),
        ("the other becomes ready", [false, false], [false, true]),
        ("both become ready", [false, false], [true, true]),
        ("one joins the other", [true, false], [true, true]),
        ("the ready node changes", [true, false], [false, true]),
        ("one leaves", [true, true], [false, true]),
    ];
    for (name, before, after) in cases {
        let mut builder = World::builder();
        let mut local = service("a", "10.96.0.1", web("a"), http());
        local["spec"]["internalTrafficPolicy"] = json!("Local");
        let callers = ["n", "m", "elsewhere"].into_iter().enumerate();
        let callers = callers.map(|(i, node)| on_node(&format!("c-{i}"), "c", i, node));
        apply(&mut builder, callers);
        apply(&mut builder, [local, on_each_node("a-nodes", "a", before)]);
        let old = compile(&builder.world());
        let seen = views(&old);
        apply(&mut builder, [on_each_node("a-nodes", "a", after)]);
        let new = old.update(&builder.world());
        says_what_it_did(&old, &seen, &new).unwrap_or_else(|error| panic!("{name}: {error}"));
        same_as_cold(&new, &compile(&builder.world())).unwrap();
    }
}

/// A host outside, opened by another namespace to the workloads of one namespace, or of all.
fn external(visible_to: &str) -> Value {
    json!({
        "apiVersion": "heddle.dev/v1alpha1",
        "kind": "ExternalService",
        "metadata": {"name": "pay", "namespace": "till"},
        "spec": {"hosts": ["api.stripe.com"], "ports": [{"port": 80, "protocol": "HTTP"}], "visibleTo": [visible_to]},
    })
}

/// By whichever inputs it came about.
#[test]
fn a_part_that_says_the_same_is_the_very_same() {
    let mut builder = World::builder();
    let alone = pod("c-0", "c", "10.0.2.0", true, true);
    apply(&mut builder, [alone.clone()]);
    let mut compiled = compile(&builder.world());
    let asked = &Asked::all()[0];
    let name = NamespacedName::new("shop", "c-0");
    let mut earlier = asked.view(&compiled, &name).unwrap();
    let port = json!([{"name": "tcp", "port": 80, "protocol": "TCP", "targetPort": 8080}]);
    for edit in [
        service("c", "10.96.0.3", web("c"), port),
        annotated(alone, "heddle.dev/destinations", "shop/a, shop/b:80"),
        // Of the namespace itself, and then of all.
        external("shop"),
        external("*"),
    ] {
        apply(&mut builder, [edit]);
        compiled = compiled.update(&builder.world());
        let view = asked.view(&compiled, &name).unwrap();
        let equal = |part: &&Arc<Part>| earlier.parts.contains(*part);
        for part in view.parts.iter().filter(equal) {
            let same = |p: &Arc<Part>| Arc::ptr_eq(p, part);
            assert!(earlier.parts.iter().any(same), "{part:?}");
        }
        earlier = view;
    }
    assert!(earlier.parts.len() > 2, "{earlier:?}");
}

/// A rollout gives new pods another template hash, and the inbound config stays.
#[test]
fn a_rollout_shares_the_inbound_config() {
    let mut builder = shop();
    let before = compile(&builder.world());
    let mut new = pod("a-9", "a", "10.0.0.9", true, true);
    new["metadata"]["labels"]["pod-template-hash"] = json!("def");
    new["metadata"]["ownerReferences"][0]["name"] = json!("a-def");
    apply(&mut builder, [new]);
    let after = before.update(&builder.world());
    let asked = &Asked::all()[0];
    let name = |name| NamespacedName::new("shop", name);
    let old = asked.view(&before, &name("a-0")).unwrap();
    let new = asked.view(&after, &name("a-9")).unwrap();
    assert!(
        old.parts
            .iter()
            .zip(&new.parts)
            .all(|(a, b)| Arc::ptr_eq(a, b))
    );
    assert_eq!(after.proxies[&name("a-9")].workload(), name("a"));
}
