//! How long a compile takes, and what a pod weighs: 10,000 services of 10 pods each, in namespaces of 10 services.
//!
//!     cargo bench -p heddle-policy-compiler

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    reason = "a benchmark"
)]

use std::collections::BTreeSet;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use heddle_policy_compiler::world::Port;
use heddle_policy_compiler::{
    Compiled, Destination, DestinationKind, Family, KubeObject, NamespacedName, Scope, World,
    WorldBuilder, compile, ingest,
};
use serde_json::{Value, json};

const SERVICES: usize = 10_000;
const PODS: usize = 10;
const PER_NAMESPACE: usize = 10;

fn main() {
    let empty = resident();
    let mut builder = World::builder();
    let start = Instant::now();
    for index in 0..SERVICES {
        populate(&mut builder, index);
    }
    let world = builder.world();
    let objects = resident();
    println!(
        "{SERVICES} services of {PODS} pods read in {:?}",
        start.elapsed()
    );
    let cold = compile(&world);
    let compiled = resident();
    let pods = SERVICES * PODS;
    println!(
        "memory per pod: world {} B, compiled {} B",
        (objects - empty) / pods,
        (compiled - objects) / pods
    );

    measure(
        "cold compile",
        5,
        || compile(&world),
        |compiled| {
            drop(compiled);
        },
    );
    measure(
        "cold compile, all bytes made",
        3,
        || everything(&compile(&world)),
        drop,
    );
    println!("memory of all bytes: {} MB", {
        let made = everything(&cold);
        black_box(made);
        (resident().saturating_sub(compiled)) >> 20
    });

    let mut edit = |name: &str, edits: &dyn Fn(usize) -> Value| {
        let mut compiled = cold.clone();
        let mut times = Vec::new();
        for turn in 0..200 {
            let value = edits(turn);
            let start = Instant::now();
            let object = read(value);
            let reading = start.elapsed();
            let start = Instant::now();
            builder.apply(object);
            compiled = compiled.update(&builder.world());
            times.push(start.elapsed());
            black_box(reading);
        }
        report(name, times);
        println!("    {:?}", compiled.changes().recompiled);
    };
    edit("one endpoint change", &|turn| slice(42, turn % 2 == 0));
    edit("one pod's readiness", &|turn| pod(42, 0, turn % 2 == 0));
    edit("one service change", &|turn| service(42, 8080 + turn % 2));
    edit("one policy change", &|turn| policy(42, turn % 2));
    edit("one split change", &|turn| split(42, turn % 2));
}

/// Views of one pod of each service, with a handful of neighbours, so that all bytes of all services are made.
fn everything(compiled: &Compiled) -> usize {
    let (none, no_names) = (BTreeSet::new(), BTreeSet::<Arc<str>>::new());
    let mut bytes = 0;
    for index in 0..SERVICES {
        let held = BTreeSet::from([Destination {
            kind: DestinationKind::Service,
            name: named(index),
            port: Port::try_from(80).unwrap(),
            family: Family::V4,
        }]);
        let scope = Scope {
            held: &held,
            retiring: &none,
            wanted: &no_names,
            refused: &no_names,
        };
        let name = named(index);
        let pod = NamespacedName::new(&name.namespace, &format!("{}-0", name.name));
        let view = compiled.view(&pod, &scope).expect("a proxy");
        let resources = view.parts.iter().flat_map(|part| &part.resources);
        bytes += resources.map(|resource| resource.body.len()).sum::<usize>();
    }
    bytes
}

fn measure<T>(name: &str, runs: usize, mut run: impl FnMut() -> T, mut after: impl FnMut(T)) {
    let times = (0..runs).map(|_| {
        let start = Instant::now();
        let result = black_box(run());
        let took = start.elapsed();
        after(result);
        took
    });
    let times = times.collect();
    report(name, times);
}

fn report(name: &str, mut times: Vec<Duration>) {
    times.sort();
    let median = times.get(times.len() / 2).copied().unwrap_or_default();
    let least = times.first().copied().unwrap_or_default();
    let most = times.last().copied().unwrap_or_default();
    println!("{name}: min {least:?}, median {median:?}, max {most:?}");
}

fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok());
    kib.unwrap_or_default() * 1024
}

fn named(index: usize) -> NamespacedName {
    NamespacedName::new(
        &format!("team-{}", index / PER_NAMESPACE),
        &format!("service-{index}"),
    )
}

fn populate(builder: &mut WorldBuilder, index: usize) {
    builder.apply(read(service(index, 8080)));
    for number in 0..PODS {
        builder.apply(read(pod(index, number, true)));
    }
    builder.apply(read(slice(index, true)));
}

fn read(value: Value) -> KubeObject {
    let (mut objects, _) = ingest::parse_json("bench", value);
    objects.pop().expect("one object")
}

fn service(index: usize, target: usize) -> Value {
    let name = named(index);
    let ip = format!(
        "10.{}.{}.{}",
        96 + (index >> 16),
        (index >> 8) & 255,
        index & 255
    );
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": &*name.name, "namespace": &*name.namespace},
        "spec": {"clusterIP": ip, "clusterIPs": [ip], "selector": {"app": &*name.name}, "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": target}]}})
}

fn pod_ip(index: usize, number: usize) -> String {
    let serial = index * PODS + number;
    format!(
        "10.{}.{}.{}",
        serial >> 16,
        (serial >> 8) & 255,
        serial & 255
    )
}

fn pod(index: usize, number: usize, ready: bool) -> Value {
    let name = named(index);
    let (owner, namespace) = (&*name.name, &*name.namespace);
    let own = format!("{owner}-{number}");
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": own, "namespace": namespace, "labels": {"app": owner, "pod-template-hash": "abc", "version": "v1"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("{owner}-abc"), "uid": "1", "controller": true}]},
        "spec": {"serviceAccountName": owner, "initContainers": [{"name": "heddle-proxy", "image": "x", "restartPolicy": "Always"}],
            "containers": [{"name": "app", "image": "x", "ports": [{"containerPort": 8080, "name": "http"}], "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080}}}]},
        "status": {"phase": "Running", "podIPs": [{"ip": pod_ip(index, number)}],
            "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]}})
}

fn slice(index: usize, ready: bool) -> Value {
    let name = named(index);
    let endpoints: Vec<Value> = (0..PODS).map(|number| json!({
        "addresses": [pod_ip(index, number)], "conditions": {"ready": ready || number > 0},
        "targetRef": {"kind": "Pod", "name": format!("{}-{number}", name.name), "namespace": &*name.namespace}})).collect();
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": format!("{}-x", name.name), "namespace": &*name.namespace, "labels": {"kubernetes.io/service-name": &*name.name}},
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}], "endpoints": endpoints})
}

fn policy(index: usize, turn: usize) -> Value {
    let name = named(index);
    let caller = format!("{}/caller-{turn}", name.namespace);
    json!({"apiVersion": "heddle.dev/v1alpha1", "kind": "AuthPolicy", "metadata": {"name": "p", "namespace": &*name.namespace, "generation": turn},
        "spec": {"target": {"service": &*name.name}, "rules": [{"from": {"identities": [caller]}}]}})
}

fn split(index: usize, turn: usize) -> Value {
    let (name, other) = (named(index), named(index + 1));
    json!({"apiVersion": "heddle.dev/v1alpha1", "kind": "TrafficSplit", "metadata": {"name": "s", "namespace": &*name.namespace, "generation": turn},
        "spec": {"service": &*name.name, "backends": [{"service": &*name.name, "weight": 9}, {"service": &*other.name, "weight": 1 + turn}]}})
}
