//! The cost of many rules: a change of one of 1 and of 100 rules of a service that 1,000 sidecars call, and the bytes and memory of a
//! sidecar with 50 services of 5 rules each. Run by hand: `cargo bench -p heddle-policy-compiler --bench rules`.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a measurement"
)]

#[path = "../tests/harness/mod.rs"]
mod harness;
#[allow(dead_code, reason = "each bench uses a part of it")]
mod mesh;

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::running::{Trust, start};
use heddle_policy_compiler::{Compiled, ResourceKind, World, WorldBuilder, compile, ingest};
use mesh::{apply, destinations, populate, read, view};
use serde_json::{Value, json};

/// The sidecars that call the service.
const SIDECARS: usize = 1_000;
/// The service with the rules.
const ROUTED: usize = 42;
/// The rules of one object; Gateway API allows 16.
const PER_ROUTE: usize = 10;
const CHANGES: usize = 100;

/// A rule with a path, a header, a timeout and two backends.
fn rule(number: usize, backends: [&str; 2], weight: usize) -> Value {
    json!({
        "matches": [{"path": {"type": "PathPrefix", "value": format!("/api/v{number}")},
            "headers": [{"name": "x-tenant", "value": format!("tenant-{number}")}]}],
        "timeouts": {"request": "5s"},
        "backendRefs": [{"name": backends[0], "port": 80, "weight": 100 - weight}, {"name": backends[1], "port": 80, "weight": weight}],
    })
}

/// The routes of a service: so many rules, of which the first has this weight.
fn routes(namespace: &str, service: &str, other: &str, rules: usize, weight: usize) -> Vec<Value> {
    let numbers: Vec<usize> = (0..rules).collect();
    let parts = numbers.chunks(PER_ROUTE).enumerate();
    let routes = parts.map(|(part, numbers)| {
        let weight = if part == 0 { weight } else { 1 };
        let rules = numbers.iter().map(|n| rule(*n, [service, other], if *n == 0 { weight } else { 1 }));
        json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": {"name": format!("{service}-{part}"), "namespace": namespace, "generation": weight},
            "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": service, "port": 80}], "rules": rules.collect::<Vec<_>>()}})
    });
    routes.collect()
}

/// The changes of one rule, compiled alone, and the views of all sidecars after each.
fn changes(rules: usize) -> Result<()> {
    let mut builder = World::builder();
    (0..SIDECARS).for_each(|index| populate(&mut builder, index));
    let change = |builder: &mut WorldBuilder, weight: usize, all: bool| {
        let routes = routes("team-4", "service-42", "service-43", rules, weight);
        let count = if all { routes.len() } else { 1 };
        routes
            .into_iter()
            .take(count)
            .for_each(|route| apply(builder, read(route)));
    };
    change(&mut builder, 1, true);
    let mut compiled = compile(&builder.world());
    ensure!(compiled.findings.is_empty(), "{:?}", compiled.findings);
    let scope = destinations([ROUTED]);
    let (mut compiling, mut viewing, mut bytes) = (Vec::new(), Vec::new(), 0);
    for turn in 0..CHANGES {
        change(&mut builder, 1 + turn % 50, false);
        let world = builder.world();
        let began = Instant::now();
        compiled = compiled.update(&world);
        compiling.push(began.elapsed());
        let began = Instant::now();
        for index in 0..SIDECARS {
            let view = view(&compiled, index, &scope).context("no view")?;
            bytes = route_bytes(&view.resources().into_values().collect::<Vec<_>>());
        }
        viewing.push(began.elapsed());
    }
    ensure!(bytes > 0, "no route");
    println!(
        "{rules} rules: compile of a change {}, views of {SIDECARS} sidecars {}, {bytes} bytes to each, {:?}",
        median(compiling),
        median(viewing),
        compiled.changes().recompiled
    );
    Ok(())
}

/// The bytes of the routes of the service.
fn route_bytes(resources: &[std::sync::Arc<heddle_policy_compiler::Resource>]) -> usize {
    let routes = resources
        .iter()
        .filter(|of| of.key.kind == ResourceKind::Route && of.key.name.contains("/service-42|"));
    routes.map(|of| of.body.len()).sum()
}

fn median(mut times: Vec<Duration>) -> String {
    times.sort();
    let at = |index: usize| times[index].as_secs_f64() * 1000.0;
    format!("{:.3} ms (min {:.3})", at(times.len() / 2), at(0))
}

const SERVICES: usize = 50;

/// A sidecar that listens for services with so many rules each.
fn large(rules: usize) -> Result<Compiled> {
    let upstreams: Vec<String> = (0..SERVICES)
        .map(|n| format!("shop/s{n}:80=127.80.1.{}:21001", n + 1))
        .collect();
    let mut objects = vec![
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "client", "namespace": "shop", "labels": {"app": "client"}, "annotations": {
            "heddle.dev/standalone-app": "127.80.0.3", "heddle.dev/standalone-upstreams": upstreams.join(", ")}},
            "spec": {"serviceAccountName": "client", "containers": [{"name": "app"}]}, "status": {"podIPs": [{"ip": "127.80.0.2"}]}}),
    ];
    for n in 0..SERVICES {
        let (name, ip) = (format!("s{n}"), format!("127.80.2.{}", n + 1));
        objects.push(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"},
            "spec": {"clusterIP": format!("10.96.1.{n}"), "selector": {"app": name}, "ports": [{"name": "http", "port": 80, "targetPort": 21002}]}}));
        objects.push(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "shop", "labels": {"app": name}, "annotations": {
            "heddle.dev/standalone-app": "127.80.0.3"}},
            "spec": {"serviceAccountName": name, "containers": [{"name": "app"}]}, "status": {"podIPs": [{"ip": ip}]}}));
        objects.push(json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": format!("{name}-x"), "namespace": "shop", "labels": {"kubernetes.io/service-name": name}},
            "ports": [{"name": "http", "port": 21002, "protocol": "TCP"}],
            "endpoints": [{"addresses": [ip], "conditions": {"ready": true}, "targetRef": {"kind": "Pod", "name": name, "namespace": "shop"}}]}));
        let other = format!("s{}", (n + 1) % SERVICES);
        objects.extend(routes("shop", &name, &other, rules, 1));
    }
    let mut builder = World::builder();
    for object in objects {
        let (parsed, findings) = ingest::parse_json("rules", object);
        ensure!(findings.is_empty(), "{findings:#?}");
        apply(&mut builder, parsed);
    }
    Ok(compile(&builder.world()))
}

/// The bytes and the memory of that sidecar, with a real Envoy.
fn sidecar(rules: usize) -> Result<()> {
    let (compiled, trust, folder) = (large(rules)?, Trust::new()?, tempfile::tempdir()?);
    let none = BTreeSet::new();
    let views = harness::views(&compiled);
    let seen = views.get("shop/client").context("no view of the client")?;
    let bytes: usize = seen.resources.values().map(|of| of.body.len()).sum();
    let of_routes = seen
        .resources
        .iter()
        .filter(|(key, _)| key.kind == ResourceKind::Route);
    let entries = of_routes.map(|(_, of)| of.body.len()).sum::<usize>();
    let envoy = start(
        &compiled,
        ("client", &none),
        &trust,
        folder.path(),
        "127.80.0.8:9901",
        |_| (),
    )?;
    println!(
        "{SERVICES} services of {rules} rules: {} resources of {bytes} bytes, routes {entries}; Envoy of one worker {:.1} MB private, {:.1} MB allocated",
        seen.resources.len(),
        private(envoy.id())?,
        allocated()?
    );
    Ok(())
}

/// The memory that would be free if the process ended, in MB.
fn private(process: u32) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{process}/smaps_rollup"))?;
    let of = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok())
    };
    let kib = of("Private_Clean:").context("smaps")? + of("Private_Dirty:").context("smaps")?;
    Ok(kib / 1024.0)
}

/// The bytes that Envoy itself has allocated, in MB.
fn allocated() -> Result<f64> {
    let answer = harness::running::http(
        "127.80.0.8:9901",
        "GET",
        "/stats?filter=^server.memory_allocated$",
        "",
    )?;
    let value = answer.rsplit(' ').next().context("no such gauge")?.trim();
    Ok(value.parse::<f64>()? / f64::from(1 << 20))
}

fn main() -> Result<()> {
    // Of `cargo test --benches` too, which measures nothing.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    for rules in [1, 100] {
        changes(rules)?;
    }
    for rules in [0, 5] {
        sidecar(rules)?;
    }
    Ok(())
}
