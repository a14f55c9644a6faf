//! The bound on the series of the golden metrics, with a real Envoy: a client's sidecar in front of an application that
//! answers with more combinations of status and gRPC status than the bound.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod harness;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use harness::running::{Envoy, Trust, http, request, serve, start};
use heddle_policy_compiler::{Scope, print};
use heddle_xds_types::golden;
use serde_json::{Value, json};

const WORLD: &str = "
apiVersion: v1
kind: Service
metadata: {name: many, namespace: shop}
spec: {clusterIP: 10.96.0.1, ports: [{name: http, port: 8001}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: many-1, namespace: shop, labels: {kubernetes.io/service-name: many}}
addressType: IPv4
ports: [{name: http, port: 8001}]
endpoints: [{addresses: [127.81.1.11]}]
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop, annotations: {heddle.dev/standalone-app: 127.81.1.4, heddle.dev/standalone-upstreams: \"shop/many:8001=127.81.1.21:8001\"}}
spec: {serviceAccountName: client, containers: [{name: app}]}
status: {podIPs: [{ip: 127.81.1.3}]}
";

const ADMIN: &str = "127.81.1.9:9901";

/// The bound of `envoy/metrics.rs`.
const BOUND: usize = 256;

/// Answers `GET /<status>/<grpc-status>` with these.
fn answer(stream: &mut TcpStream) {
    let Some(seen) = request(stream) else { return };
    let text = String::from_utf8_lossy(&seen);
    let path = text.split(' ').nth(1).unwrap_or_default();
    let mut parts = path.trim_start_matches('/').split('/');
    let (status, grpc) = (parts.next().unwrap(), parts.next().unwrap());
    let _ = write!(
        stream,
        "HTTP/1.1 {status} X\r\ncontent-type: application/grpc\r\ngrpc-status: {grpc}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    );
}

/// Returns the series of a metric, one a line.
fn series(name: &str) -> Result<Vec<String>> {
    let text = http(ADMIN, "GET", &format!("/stats?filter={name}"), "")?;
    Ok(text
        .lines()
        .filter(|line| line.contains(name))
        .map(str::to_owned)
        .collect())
}

/// Returns the durations and the failures that Envoy had no series for.
fn beyond() -> Result<[u64; 2]> {
    // Envoy has these counts in this format alone.
    let text = http(ADMIN, "GET", "/stats/prometheus?filter=stats_overflow", "")?;
    Ok(["histogram", "counter"].map(|kind| {
        let prefix = format!("envoy_server_stats_overflow_{kind}{{}} ");
        let count = text.lines().find_map(|line| line.strip_prefix(&prefix));
        count
            .and_then(|count| count.trim().parse().ok())
            .unwrap_or(0)
    }))
}

/// Calls the application, which answers with these.
fn call(status: usize, grpc: usize) -> Result<String> {
    let headers = "content-type: application/grpc\r\n";
    http(
        "127.81.1.21:8001",
        "GET",
        &format!("/{status}/{grpc}"),
        headers,
    )
}

/// Starts the client's sidecar.
fn sidecar(folder: &Path, edit: impl FnOnce(&mut Value)) -> Result<Envoy> {
    let none = BTreeSet::new();
    start(
        &harness::compiled(WORLD),
        ("client", &none),
        &Trust::new()?,
        folder,
        ADMIN,
        edit,
    )
}

#[test]
fn series_are_bounded_and_idle_ones_make_room() -> Result<()> {
    let folder = tempfile::tempdir()?;
    serve("127.81.1.11:8001".to_owned(), answer)?;

    let envoy = sidecar(folder.path(), |_| {})?;
    for number in 0..BOUND + 100 {
        call(400 + number % 200, number / 200)?;
    }
    for name in [golden::DURATIONS, golden::FAILURES] {
        let series = series(name)?.len();
        ensure!(series == BOUND, "{series} of {name}");
    }
    // The loss is counted for each request, also where its series is known to have no place.
    ensure!(beyond()? == [100, 100], "{:?}", beyond()?);
    let last = BOUND + 99;
    for _ in 0..5 {
        call(400 + last % 200, last / 200)?;
    }
    ensure!(beyond()? == [105, 105], "{:?}", beyond()?);
    drop(envoy);

    let _envoy = sidecar(folder.path(), |config| {
        config["stats_flush_interval"] = json!("0.5s");
        config["stats_eviction_interval"] = json!("1s");
    })?;
    for number in 0..10 {
        call(400 + number, 0)?;
    }
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        call(500, 0)?;
        let left = [series(golden::DURATIONS)?, series(golden::FAILURES)?];
        if left.iter().all(|left| left.len() == 1) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{left:#?}");
    }
}

/// A server that accepts HTTP and bytes.
const SERVER: &str = "
apiVersion: v1
kind: Service
metadata: {name: both, namespace: shop}
spec: {clusterIP: 10.96.0.2, selector: {app: both}, ports: [{name: http, port: 8002}, {name: tcp, port: 8003}]}
---
apiVersion: v1
kind: Pod
metadata: {name: both, namespace: shop, labels: {app: both}, annotations: {heddle.dev/standalone-app: 127.81.1.5, heddle.dev/standalone-upstreams: \"shop/both:8003=127.81.1.21:8003\"}}
spec: {serviceAccountName: both, containers: [{name: app, ports: [{containerPort: 8002}, {containerPort: 8003}]}]}
status: {podIPs: [{ip: 127.81.1.5}]}
";

/// Collects the labels of every counter and histogram, as the agent makes them of the tag.
fn collect(value: &Value, found: &mut BTreeMap<String, BTreeSet<String>>) {
    if let (Some(name), Some(tags)) = (value["name"].as_str(), value["tags"].as_array())
        && golden::NAMES.contains(&name)
    {
        assert!(
            tags.len() == 1 && tags[0]["name"] == golden::TAG,
            "{tags:?}"
        );
        let edge = golden::Edge::parse(tags[0]["value_format"].as_str().unwrap()).unwrap();
        let pod = golden::Pod {
            namespace: "shop".to_owned(),
            workload: "w".to_owned(),
            principal: "p".to_owned(),
        };
        let labels = edge.labels(&pod).into_iter();
        found
            .entry(format!("envoy_{name}"))
            .or_default()
            .extend(labels.map(|(label, _)| label.to_owned()));
    }
    match value {
        Value::Array(all) => all.iter().for_each(|one| collect(one, found)),
        Value::Object(all) => all.values().for_each(|one| collect(one, found)),
        _ => {}
    }
}

#[test]
fn the_list_for_queries_has_the_labels_of_the_golden_metrics() -> Result<()> {
    let compiled = harness::compiled(&format!("{WORLD}---{SERVER}"));
    let none = BTreeSet::new();
    let nothing = BTreeSet::new();
    let scope = Scope {
        active: &none,
        draining: &none,
        granted: &nothing,
        retired: &nothing,
        denied: &nothing,
        tapped: false,
    };
    let mut found = BTreeMap::new();
    for pod in compiled.proxies.keys() {
        let view = compiled.view(pod, &scope).unwrap();
        for resource in view.resources().values() {
            collect(&print::to_json(resource), &mut found);
        }
    }
    let list = std::fs::read_to_string("../config/monitoring/metrics.yaml")?;
    let list: Value = serde_saphyr::from_str(&list)?;
    let mut listed: BTreeMap<String, BTreeSet<String>> =
        serde_json::from_value(list["golden"].clone())?;
    for labels in listed.values_mut() {
        labels.remove("le");
    }
    assert_eq!(found, listed);
    Ok(())
}
