//! Fields of a Service and of the Mesh that decide which endpoints a caller gets, and in which way.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

#[path = "../cluster/mod.rs"]
mod cluster;
mod outside;

use cluster::view::{endpoints, resource, view};
use cluster::{annotated, apply, pod, service, slice, split};
use heddle_policy_compiler::{Compiled, World, WorldBuilder, compile, ingest};
use serde_json::{Value, json};

fn port() -> Value {
    json!({"name": "http", "port": 8080, "protocol": "TCP"})
}

fn http() -> Value {
    json!([{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}])
}

fn tcp() -> Value {
    json!([{"name": "tcp", "port": 80, "protocol": "TCP", "targetPort": 8080}])
}

/// A pod that calls everything of its namespace.
fn caller(name: &str, node: &str) -> Value {
    let ip = format!("10.0.9.{}", name.len());
    let mut caller = annotated(
        pod(name, "caller", &ip, true, true),
        "heddle.dev/destinations",
        "shop/*",
    );
    caller["spec"]["nodeName"] = json!(node);
    caller
}

/// A service of both families with one pod, which has an address of each.
fn dual_stack(name: &str, number: u8, ports: Value) -> Vec<Value> {
    let (four, six) = (format!("10.0.1.{number}"), format!("fd00::1:{number}"));
    let mut service = service(name, "", json!({ "app": name }), ports.clone());
    let addresses = [format!("10.96.1.{number}"), format!("fd00:96::{number}")];
    service["spec"]["clusterIP"] = json!(addresses[0]);
    service["spec"]["clusterIPs"] = json!(addresses);
    let target = format!("{name}-0");
    let mut both = pod(&target, name, &four, true, true);
    both["status"]["podIPs"] = json!([{"ip": four}, {"ip": six}]);
    let mut port = port();
    port["name"] = ports[0]["name"].clone();
    let of = |family: &str, ip: &str| {
        let mut slice = slice(
            &format!("{name}-{family}"),
            name,
            port.clone(),
            &[(&target, ip, true)],
        );
        slice["addressType"] = json!(family);
        slice
    };
    vec![service, both, of("IPv4", &four), of("IPv6", &six)]
}

fn built(objects: impl IntoIterator<Item = Value>) -> WorldBuilder {
    let mut builder = World::builder();
    apply(&mut builder, objects);
    builder
}

/// The route or cluster to which the listener of an address leads.
fn leads_to(compiled: &Compiled, at: &str) -> String {
    let all = view(compiled, "caller", &[]);
    let listener = resource(&all, &format!("Listener dst|{at}")).to_string();
    let names = listener.split('"').filter(|text| text.starts_with("out|"));
    let mut names: Vec<&str> = names.collect();
    names.dedup();
    names.join(" ")
}

#[test]
fn a_call_by_one_family_gets_endpoints_of_that_family() {
    for ports in [http(), tcp()] {
        let mut objects = dual_stack("web", 1, ports);
        objects.push(caller("caller", "a"));
        let compiled = compile(&built(objects).world());
        let all = view(&compiled, "caller", &[]);
        assert_eq!(endpoints(&all, "out|shop/web|80"), ["10.0.1.1:8080"]);
        assert_eq!(endpoints(&all, "out|shop/web|80|6"), ["fd00::1:1:8080"]);
        assert_eq!(leads_to(&compiled, "10.96.1.1:80"), "out|shop/web|80");
        assert_eq!(leads_to(&compiled, "[fd00:96::1]:80"), "out|shop/web|80|6");
        let six = "service/shop/web:80/6".parse().unwrap();
        assert_eq!(
            compiled.clusters_of(&six, &"shop".into()),
            ["out|shop/web|80|6".into()]
        );
    }
}

#[test]
fn the_first_family_has_the_short_name() {
    let mut objects = dual_stack("web", 1, http());
    objects[0]["spec"]["clusterIP"] = json!("fd00:96::1");
    objects[0]["spec"]["clusterIPs"] = json!(["fd00:96::1", "10.96.1.1"]);
    objects.push(caller("caller", "a"));
    let all = view(&compile(&built(objects).world()), "caller", &[]);
    assert_eq!(endpoints(&all, "out|shop/web|80"), ["fd00::1:1:8080"]);
    assert_eq!(endpoints(&all, "out|shop/web|80|4"), ["10.0.1.1:8080"]);
}

/// As kube-proxy reads only slices of the family that it serves.
#[test]
fn a_service_of_one_family_has_no_endpoints_of_the_other() {
    let mut objects = dual_stack("web", 1, http());
    objects[0]["spec"]["clusterIPs"] = json!(["10.96.1.1"]);
    objects.push(caller("caller", "a"));
    let all = view(&compile(&built(objects).world()), "caller", &[]);
    assert_eq!(endpoints(&all, "out|shop/web|80"), ["10.0.1.1:8080"]);
    assert!(resource(&all, "Cluster out|shop/web|80|6").is_null());
}

#[test]
fn a_split_keeps_the_family_where_its_backends_have_it() {
    for ports in [http(), tcp()] {
        let mut objects = dual_stack("web", 1, ports.clone());
        objects.extend(dual_stack("both", 2, ports.clone()));
        let mut single = dual_stack("one", 3, ports.clone());
        single[0]["spec"]["clusterIPs"] = json!(["10.96.1.3"]);
        objects.extend(single);
        let backends = [
            json!({"service": "both", "weight": 1}),
            json!({"service": "one", "weight": 1}),
            json!({"labels": {"app": "web"}, "weight": 1}),
        ];
        objects.push(split("s", json!({"service": "web", "backends": backends})));
        objects.push(caller("caller", "a"));
        let compiled = compile(&built(objects).world());
        assert!(compiled.findings.is_empty(), "{:?}", compiled.findings);
        let all = view(&compiled, "caller", &[]);
        if ports == tcp() {
            let six = endpoints(&all, "out|shop/web|80|6");
            assert_eq!(six, ["fd00::1:2:8080", "10.0.1.3:8080", "fd00::1:1:8080"]);
            continue;
        }
        let route = resource(&all, "Route out|shop/web|80|6").to_string();
        for cluster in [
            "out|shop/both|80|6",
            "out|shop/one|80",
            "out|shop/web|80|shop/s/2|6",
        ] {
            assert!(route.contains(&format!("{cluster:?}")), "{route}");
        }
        let subset = endpoints(&all, "out|shop/web|80|shop/s/2|6");
        assert_eq!(subset, ["fd00::1:1:8080"]);
    }
}

#[test]
fn a_pod_counts_once_for_each_family() {
    let mut objects = dual_stack("web", 1, http());
    for slice in &mut objects[2..] {
        slice["endpoints"][0]["conditions"]["ready"] = json!(false);
    }
    let backends = json!([{"service": "web", "weight": 1}]);
    objects.push(split("s", json!({"service": "web", "backends": backends})));
    let compiled = compile(&built(objects).world());
    let text = format!("{:?}", compiled.statuses);
    assert!(text.contains("web 0/1 endpoints ready"), "{text}");
}

/// Agents on two nodes, behind a service that keeps calls on the node.
fn agents() -> Vec<Value> {
    let mut local = service("agent", "10.96.2.1", json!({"app": "agent"}), http());
    local["spec"]["internalTrafficPolicy"] = json!("Local");
    let pods = [("agent-a", "10.0.2.1", true), ("agent-b", "10.0.2.2", true)];
    let mut slice = slice("agent-x", "agent", port(), &pods);
    for (index, node) in ["a", "b"].into_iter().enumerate() {
        slice["endpoints"][index]["nodeName"] = json!(node);
    }
    let mut objects = vec![local, slice];
    objects.extend(pods.map(|(name, ip, _)| pod(name, "agent", ip, true, true)));
    objects
}

#[test]
fn a_local_service_keeps_calls_on_the_node() {
    let cluster = "out|shop/agent|80";
    let mut objects = agents();
    objects.extend([
        caller("caller", "a"),
        caller("other", "b"),
        caller("far", "c"),
    ]);
    let mut builder = built(objects);
    let compiled = compile(&builder.world());
    let of = |compiled: &Compiled, name: &str| endpoints(&view(compiled, name, &[]), cluster);
    assert_eq!(of(&compiled, "caller"), ["10.0.2.1:8080"]);
    assert_eq!(of(&compiled, "other"), ["10.0.2.2:8080"]);
    assert!(of(&compiled, "far").is_empty(), "no endpoint on its node");
    // An endpoint comes to the node.
    let mut slice = agents().remove(1);
    slice["endpoints"][1]["nodeName"] = json!("c");
    apply(&mut builder, [slice]);
    let moved = compiled.update(&builder.world());
    assert_eq!(of(&moved, "far"), ["10.0.2.2:8080"]);
    assert!(of(&moved, "other").is_empty());
    // The field is gone.
    let all = service("agent", "10.96.2.1", json!({"app": "agent"}), http());
    apply(&mut builder, [all]);
    let all = moved.update(&builder.world());
    assert_eq!(of(&all, "other"), ["10.0.2.1:8080", "10.0.2.2:8080"]);
}

#[test]
fn a_local_backend_of_a_split_keeps_its_calls_on_the_node() {
    let mut objects = agents();
    objects.push(service(
        "front",
        "10.96.2.2",
        json!({"app": "front"}),
        http(),
    ));
    let backends = json!([{"service": "agent", "weight": 1}]);
    objects.push(split(
        "s",
        json!({"service": "front", "backends": backends}),
    ));
    objects.extend([caller("caller", "a"), caller("other", "b")]);
    let compiled = compile(&built(objects).world());
    for (name, at) in [("caller", "10.0.2.1:8080"), ("other", "10.0.2.2:8080")] {
        let all = view(&compiled, name, &["service/shop/front:80"]);
        assert_eq!(endpoints(&all, "out|shop/agent|80"), [at]);
    }
}

#[test]
fn a_service_with_affinity_is_balanced_by_the_clients_address() {
    for (ports, asks) in [
        (http(), "Route out|shop/web|80"),
        (tcp(), "Listener dst|10.96.1.1:80"),
    ] {
        let mut objects = dual_stack("web", 1, ports);
        objects.push(caller("caller", "a"));
        let plain = view(&compile(&built(objects.clone()).world()), "caller", &[]);
        objects[0]["spec"]["sessionAffinity"] = json!("ClientIP");
        let sticky = view(&compile(&built(objects).world()), "caller", &[]);
        let policy = |all: &[(String, Value)]| {
            let cluster = resource(all, "Cluster out|shop/web|80");
            let hashed = resource(all, asks).to_string().contains("hash_policy");
            (cluster["lb_policy"].clone(), hashed)
        };
        assert_eq!(policy(&plain), (Value::Null, false));
        assert_eq!(policy(&sticky), (json!("RING_HASH"), true));
    }
}

/// As the cluster's mirroring controller does it.
#[test]
fn endpoints_of_v1_are_read_as_slices() {
    let endpoints_object = |metadata: Value| {
        json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": metadata, "subsets": [
            {"addresses": [{"ip": "192.0.2.10"}], "notReadyAddresses": [{"ip": "192.0.2.11"}], "ports": [{"name": "http", "port": 8080}]},
            {"addresses": [{"ip": "192.0.2.12"}, {"ip": "2001:db8::1"}], "ports": [{"name": "http", "port": 8081, "protocol": "TCP"}]}]})
    };
    let cases = [
        (
            json!({"name": "web", "namespace": "shop"}),
            vec!["192.0.2.10:8080 plain", "192.0.2.12:8081 plain"],
        ),
        (
            json!({"name": "web", "namespace": "shop", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}}),
            vec![],
        ),
    ];
    for (metadata, expected) in cases {
        let (objects, findings) = ingest::parse_json("test", endpoints_object(metadata));
        assert!(findings.is_empty(), "{findings:?}");
        let mut builder = built([
            service("web", "10.96.6.1", json!({}), http()),
            caller("caller", "a"),
        ]);
        for object in objects {
            builder.apply(object);
        }
        let all = view(&compile(&builder.world()), "caller", &[]);
        assert_eq!(endpoints(&all, "out|shop/web|80"), expected);
    }
}
