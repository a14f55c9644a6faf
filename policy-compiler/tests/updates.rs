//! Updates: whatever is edited, an update equals a cold compile, names every view that differs, and keeps what does not.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod cluster;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cluster::{
    annotated, apply, ending, mesh, object, pod, policy, service, slice, split, version,
};
use heddle_policy_compiler::{
    Compiled, Dependency, NamespacedName, ObjectKind, ObjectRef, Part, PodRef, Refusal, Replaced,
    Scope, View, World, WorldBuilder, compile,
};
use proptest::prelude::*;
use serde_json::{Value, json};

fn web(app: &str) -> Value {
    json!({ "app": app })
}

fn http() -> Value {
    json!([{"name": "http", "port": 80, "protocol": "TCP", "targetPort": "http"}])
}

/// Objects, several versions of each name.
fn pool() -> Vec<Value> {
    let mut pool = Vec::new();
    let http_port = json!({"name": "http", "port": 8080, "protocol": "TCP"});
    for (index, app) in ["a", "b", "c"].into_iter().enumerate() {
        let ip = format!("10.96.0.{}", index + 1);
        pool.push(service(app, &ip, web(app), http()));
        pool.push(service(
            app,
            &ip,
            web(app),
            json!([{"name": "tcp", "port": 80, "protocol": "TCP", "targetPort": 8080}]),
        ));
        pool.push(service(app, &ip, web(app), json!([{"name": "x", "port": 80, "protocol": "TCP", "targetPort": "http"}, {"name": "http-2", "port": 81, "protocol": "TCP", "targetPort": 9090}])));
        pool.push(service(app, &ip, web("a"), http()));
        pool.push(service(app, "None", web(app), http()));
        pool.push(service(app, &ip, json!({}), http()));
        pool.push(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": app, "namespace": "shop"},
            "spec": {"type": "ExternalName", "externalName": "example.com"}}));
        for number in 0..2 {
            let name = format!("{app}-{number}");
            let ip = format!("10.0.{index}.{number}");
            pool.push(pod(&name, app, &ip, true, true));
            pool.push(pod(&name, app, &ip, true, false));
            pool.push(pod(&name, app, &ip, false, true));
            // Another app's labels under the same name, and another's address.
            pool.push(pod(&name, "b", &ip, true, true));
            pool.push(pod(&name, app, "10.0.9.9", true, true));
            // In its grace period, at its address or at another's; and ended.
            pool.push(ending(pod(&name, app, &ip, true, number == 0)));
            pool.push(ending(pod(&name, app, "10.0.9.9", true, true)));
            let mut ended = pod(&name, app, &ip, true, false);
            ended["status"]["phase"] = json!("Succeeded");
            pool.push(ended);
            pool.push(annotated(
                pod(&name, app, &ip, true, true),
                "heddle.dev/destinations",
                "shop/a, shop/b:80, other/*",
            ));
        }
        let (zero, one) = (format!("{app}-0"), format!("{app}-1"));
        let (ip0, ip1) = (format!("10.0.{index}.0"), format!("10.0.{index}.1"));
        for ready in [[true, true], [true, false], [false, false]] {
            let pods = [
                (zero.as_str(), ip0.as_str(), ready[0]),
                (one.as_str(), ip1.as_str(), ready[1]),
            ];
            for port in [
                http_port.clone(),
                json!({"name": "tcp", "port": 8080, "protocol": "TCP"}),
            ] {
                let slice = slice(&format!("{app}-x"), app, port, &pods);
                pool.push(version(slice.clone(), "8"));
                pool.push(slice);
            }
        }
        pool.push(slice(
            &format!("{app}-y"),
            app,
            http_port.clone(),
            &[("nobody", "192.0.2.7", true)],
        ));
        // Copies of what other slices have, older and newer, and addresses without a target.
        for (text, ready) in [("7", false), ("9", true)] {
            let copies = [(zero.as_str(), ip0.as_str(), ready)];
            let copy = slice(&format!("{app}-z"), app, http_port.clone(), &copies);
            pool.push(version(copy.clone(), text));
            pool.push(copy);
        }
        for ip in [ip1.as_str(), "10.0.9.9"] {
            let mut bare = slice(
                &format!("{app}-u"),
                app,
                http_port.clone(),
                &[("", ip, true)],
            );
            bare["endpoints"][0]
                .as_object_mut()
                .unwrap()
                .remove("targetRef");
            pool.push(bare);
        }
    }
    pool.extend(fields());
    for name in ["s", "t"] {
        pool.push(split(name, json!({"service": "a", "backends": [{"service": "b", "weight": 1}, {"service": "c", "weight": 1}]})));
        pool.push(split(name, json!({"service": "b", "port": 80, "backends": [{"labels": {"app": "b"}, "weight": 1}, {"service": "a", "weight": 3}]})));
        pool.push(split(name, json!({"service": "a", "backends": []})));
    }
    for name in ["p", "q"] {
        pool.push(policy(
            name,
            json!({"target": {"service": "a"}, "rules": [{"from": {"identities": ["shop/b"]}}]}),
        ));
        pool.push(policy(name, json!({"selector": {"matchLabels": {"app": "b"}}, "rules": [{"action": "Deny", "from": {"identities": ["shop/a"]}}]})));
        pool.push(policy(name, json!({"selector": {"matchLabels": {"app": "a"}}, "mtls": {"mode": "Strict"}, "rules": [{"to": {"methods": ["GET"]}}]})));
        pool.push(policy(name, json!({"selector": {"matchLabels": {"app": "c"}}, "mtls": {"mode": "Strict", "ports": [{"port": 81, "mode": "Permissive"}]},
            "rules": [{"to": {"ports": [80]}}, {"action": "Deny", "from": {"namespaces": ["shop"]}, "to": {"ports": [8080]}}]})));
        let mut remembered = policy(
            name,
            json!({"target": {"service": "a"}, "rules": [{"from": {"identities": ["shop/c"]}}]}),
        );
        remembered["status"] = json!({"lastGood": {"generation": 1, "spec": remembered["spec"], "selected": {"app": "a"}}});
        pool.push(remembered.clone());
        remembered["spec"]["later"] = json!(true);
        pool.push(remembered);
        pool.push(policy(
            name,
            json!({"mtls": {"mode": if name == "p" { "Strict" } else { "Permissive" }}}),
        ));
        pool.push(policy(
            name,
            json!({"rules": [{"from": {"ipBlocks": ["nonsense"]}}]}),
        ));
    }
    for spec in [
        json!({}),
        json!({"defaultAction": "Deny"}),
        json!({"outbound": "Deny"}),
        json!({"outbound": "Deny", "mode": "Strict"}),
        json!({"outbound": "Deny", "mode": "Strict", "plainDestinations": [{"namespace": "shop", "service": "a"}]}),
        json!({"mode": "Observe"}),
        json!({"mode": "strict"}),
        json!({"trustDomain": "other"}),
        json!({"scope": {"onDemand": "Disabled"}}),
    ] {
        pool.push(mesh(spec));
    }
    pool.push(json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "namespace": "shop"},
        "spec": {"selector": {"matchLabels": {"app": "b"}}, "template": {"metadata": {"labels": {"app": "b", "heddle.dev/inject": "enabled"}}, "spec": {"containers": [{"name": "app", "image": "x"}]}}}}));
    pool
}

/// More versions of `a` and `b` and their pods: both families, nodes, affinity, names without addresses, and outside addresses.
fn fields() -> Vec<Value> {
    let mut fields = Vec::new();
    for (index, app) in ["a", "b"].into_iter().enumerate() {
        let four = format!("10.96.0.{}", index + 1);
        let mut service = service(app, &four, web(app), http());
        service["spec"]["clusterIPs"] = json!([four, format!("fd00:96::{}", index + 1)]);
        fields.push(service.clone());
        service["spec"]["internalTrafficPolicy"] = json!("Local");
        fields.push(service.clone());
        service["spec"]["ports"] =
            json!([{"name": "tcp", "port": 80, "protocol": "TCP", "targetPort": 8080}]);
        service["spec"]["sessionAffinity"] = json!("ClientIP");
        fields.push(service.clone());
        service["spec"] = json!({"type": "ExternalName", "externalName": "elsewhere.example"});
        fields.push(service);
        let target = format!("{app}-0");
        let port = json!({"name": "http", "port": 8080, "protocol": "TCP"});
        for node in ["n", "m"] {
            let six = format!("fd00::{index}:1");
            let mut slice = slice(
                &format!("{app}-v6"),
                app,
                port.clone(),
                &[(&target, &six, true)],
            );
            slice["endpoints"][0]["nodeName"] = json!(node);
            fields.push(slice);
            let mut pod = pod(&target, app, &format!("10.0.{index}.0"), true, true);
            pod["spec"]["nodeName"] = json!(node);
            pod["status"]["podIPs"] = json!([{"ip": format!("10.0.{index}.0")}, {"ip": six}]);
            fields.push(pod);
        }
        let mut outside = slice(&format!("{app}-out"), app, port, &[("", "192.0.2.7", true)]);
        outside["endpoints"][0]
            .as_object_mut()
            .unwrap()
            .remove("targetRef");
        fields.push(outside);
        for ready in [[false, false], [true, false], [false, true], [true, true]] {
            fields.push(on_each_node(&format!("{app}-nodes"), app, ready));
        }
    }
    for (number, node) in ["n", "m"].into_iter().enumerate() {
        fields.push(on_node(&format!("c-{number}"), "c", number, node));
    }
    fields
}

/// A slice of plain endpoints, one on node `n` and one on node `m`.
fn on_each_node(name: &str, service: &str, ready: [bool; 2]) -> Value {
    let port = json!({"name": "http", "port": 8080, "protocol": "TCP"});
    let pods = [("", "192.0.2.8", ready[0]), ("", "192.0.2.9", ready[1])];
    let mut slice = slice(name, service, port, &pods);
    for (index, node) in ["n", "m"].into_iter().enumerate() {
        let endpoint = slice["endpoints"][index].as_object_mut().unwrap();
        endpoint.remove("targetRef");
        endpoint.insert("nodeName".to_owned(), json!(node));
    }
    slice
}

/// A pod with a sidecar on a node.
fn on_node(name: &str, app: &str, number: usize, node: &str) -> Value {
    let mut pod = pod(name, app, &format!("10.0.2.{number}"), true, true);
    pod["spec"]["nodeName"] = json!(node);
    pod
}

#[derive(Clone, Debug)]
enum Edit {
    Apply(usize),
    Remove(usize),
    Refuse(Vec<usize>),
}

fn reference(value: &Value) -> ObjectRef {
    let kind = match value["kind"].as_str().unwrap() {
        "Service" => ObjectKind::Service,
        "Pod" => ObjectKind::Pod,
        "EndpointSlice" => ObjectKind::EndpointSlice,
        "TrafficSplit" => ObjectKind::TrafficSplit,
        "AuthPolicy" => ObjectKind::AuthPolicy,
        "Mesh" => ObjectKind::Mesh,
        _ => ObjectKind::Workload,
    };
    let namespace = value["metadata"]["namespace"].as_str().unwrap_or_default();
    ObjectRef::new(kind, namespace, value["metadata"]["name"].as_str().unwrap())
}

fn edit() -> impl Strategy<Value = Edit> {
    let size = pool().len();
    prop_oneof![
        6 => (0..size).prop_map(Edit::Apply),
        2 => (0..size).prop_map(Edit::Remove),
        1 => prop::collection::vec(0..size, 0..3).prop_map(Edit::Refuse),
    ]
}

/// A scope with a bit of everything.
struct Asked {
    held: BTreeSet<heddle_policy_compiler::Destination>,
    retiring: BTreeSet<heddle_policy_compiler::Destination>,
    wanted: BTreeSet<Arc<str>>,
    settled: BTreeSet<Arc<str>>,
    refused: BTreeSet<Arc<str>>,
}

impl Asked {
    fn all() -> Vec<Self> {
        let destinations = |texts: &[&str]| texts.iter().map(|t| t.parse().unwrap()).collect();
        let names = |ats: &[&str]| {
            ats.iter()
                .map(|at| Compiled::on_demand_name(at.parse().unwrap(), "1"))
                .collect()
        };
        vec![
            Self {
                held: destinations(&[
                    "service/shop/a:80",
                    "service/shop/a:80/6",
                    "pod/shop/b-0:8080",
                    "service/shop/gone:1",
                ]),
                retiring: destinations(&["service/shop/b:80", "pod/shop/c-1:8080"]),
                wanted: names(&["10.96.0.3:80", "203.0.113.9:443"]),
                settled: BTreeSet::new(),
                refused: names(&["10.96.0.1:80"]),
            },
            Self {
                held: destinations(&["service/shop/c:80"]),
                retiring: BTreeSet::new(),
                wanted: names(&[
                    "10.96.0.1:80",
                    "10.96.0.2:80",
                    "[fd00:96::2]:80",
                    "[fd00::1:1]:8080",
                    "10.0.0.0:8080",
                    "10.0.9.9:8080",
                    "192.0.2.7:8080",
                ]),
                settled: names(&["10.96.0.2:80", "10.0.0.0:8080", "192.0.2.7:8080"]),
                refused: BTreeSet::new(),
            },
        ]
    }

    fn view(&self, compiled: &Compiled, pod: &PodRef) -> Option<View> {
        let scope = Scope {
            held: &self.held,
            retiring: &self.retiring,
            wanted: &self.wanted,
            settled: &self.settled,
            refused: &self.refused,
        };
        compiled.view(pod, &scope)
    }
}

type Views = BTreeMap<(PodRef, usize), View>;

fn views(compiled: &Compiled) -> Views {
    let asked = Asked::all();
    let pods = compiled.proxies.keys();
    pods.flat_map(|pod| {
        let views = asked.iter().enumerate();
        views.map(move |(i, asked)| ((pod.clone(), i), asked.view(compiled, pod).unwrap()))
    })
    .collect()
}

/// Equal to a cold compile in all that can be seen.
fn same_as_cold(updated: &Compiled, cold: &Compiled) -> Result<(), TestCaseError> {
    prop_assert_eq!(&updated.proxies, &cold.proxies);
    prop_assert_eq!(&updated.statuses, &cold.statuses);
    prop_assert_eq!(&updated.findings, &cold.findings);
    prop_assert_eq!(views(updated), views(cold));
    let ats: Vec<_> = updated.destinations().collect();
    prop_assert_eq!(&ats, &cold.destinations().collect::<Vec<_>>());
    for at in ats {
        let there = updated.destination_at(at);
        prop_assert_eq!(&there, &cold.destination_at(at));
        let there = there.unwrap();
        prop_assert_eq!(updated.clusters_of(&there), cold.clusters_of(&there));
    }
    Ok(())
}

/// Whoever's view differs is told, and what is equal is the very same.
fn says_what_it_did(old: &Compiled, before: &Views, new: &Compiled) -> Result<(), TestCaseError> {
    let after = views(new);
    let changes = new.changes();
    for (key, view) in &after {
        let Some(earlier) = before.get(key) else {
            let told = changes.touched.contains(&Dependency::Pod(key.0.clone()));
            prop_assert!(changes.all || told, "{:?} came", key.0);
            continue;
        };
        let told = changes.all || !earlier.depends.is_disjoint(&changes.touched);
        // Who is not told puts the new parts in the place of the old ones, and has the new view.
        let now = earlier.parts.iter().map(|part| {
            let is_old = |r: &&Replaced| Arc::ptr_eq(&r.old, part);
            let replaced = changes.replaced.iter().find(is_old);
            let successors = changes.replaced.iter().filter(is_old).count();
            prop_assert!(successors <= 1, "a part has several successors");
            let service = |r: &Replaced| Dependency::Service(r.service.clone());
            let depends = replaced.is_none_or(|r| earlier.depends.contains(&service(r)));
            prop_assert!(depends, "a part was replaced unasked");
            Ok(replaced.map_or(part, |r| &r.new))
        });
        let now = now.collect::<Result<Vec<_>, _>>()?;
        let same = now.len() == view.parts.len()
            && now.iter().zip(&view.parts).all(|(a, b)| Arc::ptr_eq(a, b))
            && earlier.absent == view.absent;
        prop_assert!(
            told || (same && earlier.depends == view.depends),
            "{key:?} differs, but only {:?} was touched, of {:?}",
            changes.touched,
            earlier.depends
        );
        for part in &view.parts {
            let equal: Vec<_> = earlier.parts.iter().filter(|p| *p == part).collect();
            let kept = equal.is_empty() || equal.iter().any(|p| Arc::ptr_eq(p, part));
            prop_assert!(kept, "{key:?}: a part was made again: {:?}", part);
        }
    }
    for (pod, _) in before.keys().filter(|key| !after.contains_key(*key)) {
        let told = changes.touched.contains(&Dependency::Pod(pod.clone()));
        prop_assert!(changes.all || told, "{pod} went");
    }
    for (pod, proxy) in &new.proxies {
        if old.proxies.get(pod).is_some_and(|earlier| earlier != proxy) {
            let told = changes.touched.contains(&Dependency::Pod(pod.clone()));
            prop_assert!(changes.all || told, "{pod} is another");
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn an_update_equals_a_cold_compile(seed in prop::collection::vec(edit(), 0..40), edits in prop::collection::vec(edit(), 1..8)) {
        let pool = pool();
        let mut builder = World::builder();
        let mut there: BTreeMap<ObjectRef, Value> = BTreeMap::new();
        let mut refusals = Vec::new();
        let mut make = |builder: &mut WorldBuilder, edit: &Edit| match edit {
            Edit::Apply(index) => {
                apply(builder, [pool[*index].clone()]);
                there.insert(reference(&pool[*index]), pool[*index].clone());
            }
            Edit::Remove(index) => {
                builder.remove(&reference(&pool[*index]));
                there.remove(&reference(&pool[*index]));
            }
            Edit::Refuse(indexes) => {
                refusals = indexes.iter().map(|i| Refusal { object: reference(&pool[*i]), generation: 1, text: "no".to_owned() }).collect();
                builder.set_refusals(refusals.iter().cloned());
            }
        };
        for edit in &seed {
            make(&mut builder, edit);
        }
        let mut compiled = compile(&builder.world());
        for edit in &edits {
            make(&mut builder, edit);
            let world = builder.world();
            // Views are made of a compile while it is the newest.
            let before = views(&compiled);
            let updated = compiled.update(&world);
            says_what_it_did(&compiled, &before, &updated)?;
            same_as_cold(&updated, &compile(&world))?;
            compiled = updated;
        }
        // A builder that never saw what is gone.
        let mut fresh = World::builder();
        fresh.set_refusals(refusals);
        for value in there.into_values().rev() {
            fresh.apply(object(value));
        }
        same_as_cold(&compiled, &compile(&fresh.world()))?;
    }
}

/// A small mesh that is well.
fn shop() -> WorldBuilder {
    let mut builder = World::builder();
    for (index, app) in ["a", "b", "c"].into_iter().enumerate() {
        let ips: Vec<String> = (0..2).map(|n| format!("10.0.{index}.{n}")).collect();
        let names: Vec<String> = (0..2).map(|n| format!("{app}-{n}")).collect();
        let pods: Vec<_> = names
            .iter()
            .zip(&ips)
            .map(|(n, ip)| (n.as_str(), ip.as_str(), true))
            .collect();
        apply(
            &mut builder,
            pods.iter()
                .map(|(name, ip, _)| pod(name, app, ip, true, true)),
        );
        let port = json!({"name": "http", "port": 8080, "protocol": "TCP"});
        apply(
            &mut builder,
            [
                service(app, &format!("10.96.0.{}", index + 1), web(app), http()),
                slice(&format!("{app}-x"), app, port, &pods),
            ],
        );
    }
    apply(
        &mut builder,
        [
            split(
                "s",
                json!({"service": "a", "backends": [{"service": "a", "weight": 1}, {"service": "b", "weight": 1}]}),
            ),
            policy(
                "p",
                json!({"target": {"service": "b"}, "rules": [{"from": {"identities": ["shop/a"]}}]}),
            ),
        ],
    );
    builder
}

/// What each edit must compile, and nothing else.
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
        // The split of `a` leads to `b`, and says how many are ready.
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
            &[("policies", 1), ("inbound", 1), ("admissions", 1)],
        ),
        (
            "a new pod of a known shape",
            pod("c-2", "c", "10.0.2.2", true, true),
            &[("proxies", 1)],
        ),
        (
            "a service",
            service("c", "10.96.0.9", web("c"), http()),
            &[("inbound", 1), ("admissions", 1), ("clients", 1)],
        ),
        (
            "weights",
            split(
                "s",
                json!({"service": "a", "backends": [{"service": "a", "weight": 1}, {"service": "b", "weight": 9}]}),
            ),
            &[("splits", 1), ("admissions", 1), ("clients", 1)],
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

/// A rollout gives new pods another template hash, and the class stays.
#[test]
fn a_rollout_shares_the_class() {
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
