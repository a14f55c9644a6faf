//! The scope of a proxy: learned and declared destinations, without those that would deny all of its requests.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod cluster;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cluster::{annotated, apply, mesh, pod, policy, service, slice, split};
use heddle_policy_compiler::{
    Compiled, Destination, NamespacedName, Resource, Scope, World, WorldBuilder, compile, print,
};
use serde_json::{Value, json};

const DESTINATIONS: &str = "heddle.dev/destinations";

fn name(name: &str) -> NamespacedName {
    NamespacedName::new("shop", name)
}

/// Services `http`, `tcp` and `detect`, each of one pod, and a pod `client`.
fn shop() -> WorldBuilder {
    let mut builder = World::builder();
    for (index, app) in ["http", "tcp", "x"].into_iter().enumerate() {
        let (service_ip, pod_ip) = (format!("10.96.0.{}", index + 1), format!("10.0.0.{index}"));
        let port = json!({"name": app, "port": 8080, "protocol": "TCP"});
        let ports = json!([{"name": app, "port": 80, "protocol": "TCP", "targetPort": 8080}]);
        let own = format!("{app}-0");
        apply(
            &mut builder,
            [
                service(app, &service_ip, json!({ "app": app }), ports),
                pod(&own, app, &pod_ip, true, true),
                slice(&format!("{app}-x"), app, port, &[(&own, &pod_ip, true)]),
            ],
        );
    }
    apply(
        &mut builder,
        [pod("client", "client", "10.0.0.9", true, true)],
    );
    builder
}

struct Seen {
    resources: BTreeMap<String, Arc<Resource>>,
    absent: BTreeSet<Arc<str>>,
}

impl Seen {
    /// Returns the names of the resources for destinations.
    fn names(&self) -> Vec<&str> {
        let names = self.resources.keys().map(String::as_str);
        names
            .filter(|n| {
                ["out|", "dst|", "pods|"]
                    .iter()
                    .any(|part| n.contains(part))
            })
            .collect()
    }
}

fn seen(compiled: &Compiled, active: &[&str], granted: &[&str]) -> Seen {
    seen_retired(compiled, active, granted, &[])
}

fn seen_retired(compiled: &Compiled, active: &[&str], granted: &[&str], retired: &[&str]) -> Seen {
    let active: BTreeSet<Destination> = active.iter().map(|text| text.parse().unwrap()).collect();
    let names = |ats: &[&str]| {
        ats.iter()
            .map(|at| Compiled::on_demand_name(at.parse().unwrap(), "1"))
            .collect()
    };
    let (granted, retired) = (names(granted), names(retired));
    let (draining, denied) = (BTreeSet::new(), BTreeSet::new());
    let scope = Scope {
        active: &active,
        draining: &draining,
        granted: &granted,
        retired: &retired,
        denied: &denied,
        tapped: false,
    };
    let view = compiled.view(&name("client"), &scope).unwrap();
    let resources = view.resources();
    Seen {
        resources: resources
            .into_iter()
            .map(|(key, resource)| (format!("{:?} {}", key.kind, key.name), resource))
            .collect(),
        absent: view.absent,
    }
}

/// All that is asked of the three, by the hosts' addresses.
fn asked(compiled: &Compiled) -> Seen {
    seen(
        compiled,
        &[],
        &["10.96.0.1:80", "10.96.0.2:80", "10.96.0.3:80"],
    )
}

const NOBODY_FROM_HERE: [(&str, &str); 3] = [("p-http", "http"), ("p-tcp", "tcp"), ("p-x", "x")];

fn closed() -> WorldBuilder {
    let mut builder = shop();
    let rules = json!([{"from": {"identities": ["shop/somebody-else"]}}]);
    apply(
        &mut builder,
        NOBODY_FROM_HERE.map(|(policy_name, service)| {
            policy(
                policy_name,
                json!({"target": {"service": service}, "rules": rules}),
            )
        }),
    );
    builder
}

#[test]
fn services_that_deny_the_caller_are_refused_at_the_client() {
    let seen = asked(&compile(&closed().world()));
    assert_eq!(
        seen.names(),
        [
            "Cluster dst|10.96.0.1:80|1",
            "Cluster dst|10.96.0.2:80|1",
            "Cluster dst|10.96.0.3:80|1",
            "Listener dst|10.96.0.1:80",
            "Listener dst|10.96.0.2:80",
            "Listener dst|10.96.0.3:80",
        ]
    );
    assert!(seen.absent.is_empty());
    let chains = |name: &str| print::to_json(&seen.resources[name])["filter_chains"].clone();
    let rejection = json!({"status": 403, "body": {"inline_string": "RBAC: access denied"}});
    let answer = |chain: &Value| {
        chain["filters"][0]["typed_config"]["route_config"]["virtual_hosts"][0]["routes"][0]
            ["direct_response"]
            .clone()
    };
    assert_eq!(answer(&chains("Listener dst|10.96.0.1:80")[0]), rejection);
    let detect = chains("Listener dst|10.96.0.3:80");
    assert_eq!(answer(&detect[0]), rejection);
    assert_eq!(
        detect[1]["filters"][1]["typed_config"]["cluster"],
        "refused"
    );
}

/// Each of these might let the caller in, so that only the server can tell.
#[test]
fn services_that_may_admit_the_caller_are_in_the_view() {
    let in_full = |builder: &mut WorldBuilder| {
        let seen = asked(&compile(&builder.world()));
        seen.names().contains(&"Cluster out|shop/http|80")
    };
    let mut builder = closed();
    assert!(!in_full(&mut builder));
    // A pod without a sidecar denies no caller.
    let mut open = builder.clone();
    apply(&mut open, [pod("http-0", "http", "10.0.0.0", false, true)]);
    assert!(in_full(&mut open));
    // The service has no pods yet.
    let mut open = builder.clone();
    open.remove(&heddle_policy_compiler::ObjectRef::new(
        heddle_policy_compiler::ObjectKind::Pod,
        "shop",
        "http-0",
    ));
    assert!(in_full(&mut open));
    for spec in [
        json!({"target": {"service": "http"}, "mode": "Audit", "rules": [{"from": {"identities": ["shop/b"]}}]}),
        json!({"target": {"service": "http"}, "rules": [{"from": {"identities": ["shop/client"]}, "to": {"methods": ["GET"]}}]}),
        json!({"target": {"service": "http"}, "rules": [{"from": {"ipBlocks": ["10.0.0.0/8"]}}]}),
        json!({"target": {"service": "http"}, "rules": [{"from": {"identities": ["shop/b"]}, "to": {"ports": [9999]}}]}),
    ] {
        let mut open = builder.clone();
        apply(&mut open, [policy("p-http", spec)]);
        assert!(in_full(&mut open));
    }
    // A split that leads to an open service.
    let mut open = builder.clone();
    let to = |name: &str| json!({"service": "http", "backends": [{"service": name, "weight": 1}]});
    apply(&mut open, [split("s", to("tcp"))]);
    assert!(!in_full(&mut open));
    open.remove(&heddle_policy_compiler::ObjectRef::new(
        heddle_policy_compiler::ObjectKind::AuthPolicy,
        "shop",
        "p-tcp",
    ));
    assert!(in_full(&mut open));
    apply(&mut builder, [mesh(json!({"mode": "Observe"}))]);
    assert!(in_full(&mut builder));
}

fn declaring(text: Option<&str>, mesh_spec: Value) -> Compiled {
    let mut builder = shop();
    let client = pod("client", "client", "10.0.0.9", true, true);
    let client = match text {
        Some(text) => annotated(client, DESTINATIONS, text),
        None => client,
    };
    apply(&mut builder, [client, mesh(mesh_spec)]);
    compile(&builder.world())
}

#[test]
fn declared_destinations_are_in_the_view_from_the_start() {
    let listeners = |compiled: &Compiled| -> Vec<String> {
        let seen = seen(compiled, &[], &[]);
        let names = seen.names().into_iter();
        names
            .filter_map(|n| n.strip_prefix("Listener dst|").map(str::to_owned))
            .collect()
    };
    let disabled = || json!({"scope": {"onDemand": "Disabled"}});
    assert!(listeners(&declaring(None, json!({}))).is_empty());
    let declared = declaring(Some("shop/http, shop/tcp:80, shop/x:81"), json!({}));
    assert_eq!(listeners(&declared), ["10.96.0.1:80", "10.96.0.2:80"]);
    let all = ["10.96.0.1:80", "10.96.0.2:80", "10.96.0.3:80"];
    assert_eq!(listeners(&declaring(Some("shop/*"), disabled())), all);
    assert_eq!(listeners(&declaring(None, disabled())), all);
    assert!(listeners(&declaring(Some("other/*"), disabled())).is_empty());
}

#[test]
fn undeclared_destinations_are_refused_without_on_demand() {
    let compiled = declaring(
        Some("shop/http"),
        json!({"scope": {"onDemand": "Disabled"}, "outbound": "Allow"}),
    );
    let dialled = [
        "10.96.0.1:80",
        "10.96.0.2:80",
        // The pod of a declared service, the pod of another service, and an unknown address.
        "10.0.0.0:8080",
        "10.0.0.1:8080",
        "203.0.113.9:443",
    ];
    let seen = seen(&compiled, &["service/shop/x:80"], &dialled);
    for name in ["Cluster dst|10.0.0.1:8080|1", "Cluster dst|10.96.0.2:80|1"] {
        let cluster = print::to_json(&seen.resources[name]);
        assert!(
            cluster["load_assignment"].is_null(),
            "{name} leads nowhere: {cluster}"
        );
    }
    let through = print::to_json(&seen.resources["Cluster dst|203.0.113.9:443|1"]);
    assert!(through["load_assignment"].is_object());
    assert!(seen.absent.is_empty());
    assert!(!seen.names().contains(&"Listener dst|10.96.0.3:80"));
    assert!(seen.names().contains(&"Cluster dst|203.0.113.9:443|1"));
    assert!(seen.names().contains(&"Cluster pods|shop/http|http"));
}

#[test]
fn a_declaration_that_cannot_be_read_names_the_workload() {
    let mut builder = World::builder();
    let client = pod("client-1", "client", "10.0.0.9", true, true);
    let findings = apply(
        &mut builder,
        [annotated(client, DESTINATIONS, "shop/a, nonsense")],
    );
    let texts: Vec<String> = findings.iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [
            "Workload shop/client: metadata.annotations[heddle.dev/destinations]: \"nonsense\" cannot be read, and is not in the scope of the pods; write <namespace>/<service>, <namespace>/<service>:<port> or <namespace>/*, separated by commas"
        ]
    );
}

#[test]
fn a_draining_destination_keeps_its_clusters() {
    let compiled = compile(&shop().world());
    let draining = BTreeSet::from(["service/shop/http:80".parse().unwrap()]);
    let (none, no_names) = (BTreeSet::new(), BTreeSet::new());
    let scope = Scope {
        active: &none,
        draining: &draining,
        granted: &no_names,
        retired: &no_names,
        denied: &no_names,
        tapped: false,
    };
    let view = compiled.view(&name("client"), &scope).unwrap();
    let resources = view.resources();
    let names: Vec<String> = resources
        .keys()
        .map(|key| format!("{:?} {}", key.kind, key.name))
        .collect();
    assert!(names.contains(&"Cluster out|shop/http|80".to_owned()));
    assert!(!names.iter().any(|n| n.starts_with("Listener dst|")));
}

#[test]
fn a_retired_name_is_absent_while_its_listener_is_there() {
    let at = ["10.96.0.1:80", "192.0.2.1:80"];
    let look = |compiled: &Compiled| {
        let seen = seen_retired(compiled, &["service/shop/http:80"], &at, &at);
        let has = |key: &str| seen.resources.contains_key(key);
        (
            has("Listener dst|10.96.0.1:80"),
            at.map(|at| has(&format!("Cluster dst|{at}|1"))),
            seen.absent.len(),
        )
    };
    let with = compile(&shop().world());
    assert_eq!(look(&with), (true, [false, true], 1));
    let mut builder = World::builder();
    apply(
        &mut builder,
        [pod("client", "client", "10.0.0.9", true, true)],
    );
    assert_eq!(look(&compile(&builder.world())), (false, [true, true], 0));
}
