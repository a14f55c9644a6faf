//! Endpoints of the caller's own zone with a real Envoy, which gets them by EDS: a client's sidecar in front of applications in three zones.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod harness;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::running::{Envoy, Trust, connect, http, request, serve, start};
use harness::shop;
use heddle_policy_compiler::{Compiled, NamespacedName, print};
use heddle_xds_types::bootstrap::LOCAL;
use serde_json::{Value, json};

/// Two applications in each zone.
const ZONES: [(&str, [&str; 2]); 3] = [
    ("a", ["127.101.0.11", "127.101.0.12"]),
    ("b", ["127.101.0.13", "127.101.0.14"]),
    ("c", ["127.101.0.15", "127.101.0.16"]),
];
/// The protocol of a service, the wish of its spec, and its policy. The client's sidecar has 127.101.0.21 and up for them.
const SERVICES: [(&str, &str, &str, &str); 6] = [
    ("near", "http", "PreferSameZone", ""),
    (
        "close",
        "http",
        "PreferClose",
        "loadBalancing: {mode: LeastRequest, slowStart: {window: 1s}}",
    ),
    (
        "chance",
        "http",
        "PreferSameZone",
        "loadBalancing: {mode: Random}",
    ),
    ("bytes", "tcp", "PreferSameZone", ""),
    (
        "hashed",
        "http",
        "PreferSameZone",
        "loadBalancing: {mode: ConsistentHash, hash: {key: Header, name: x-user}}",
    ),
    ("all", "http", "", ""),
];

fn at(service: &str) -> String {
    let index = SERVICES.iter().position(|(name, ..)| *name == service);
    format!("127.101.0.{}:8001", 21 + index.unwrap())
}

/// The services, with endpoints in these zones.
fn compiled(zones: &[&str]) -> Result<Compiled> {
    let mut text = String::new();
    let mut upstreams = Vec::new();
    let endpoints: Vec<Value> = ZONES
        .iter()
        .filter(|(zone, _)| zones.contains(zone))
        .flat_map(|(zone, ips)| ips.map(|ip| json!({"addresses": [ip], "zone": zone})))
        .collect();
    for (index, (name, protocol, wish, policy)) in SERVICES.into_iter().enumerate() {
        let ports = json!([{"name": protocol, "port": 8001}]);
        let mut service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"},
            "spec": {"clusterIP": format!("10.96.0.{index}"), "ports": ports}});
        if !wish.is_empty() {
            service["spec"]["trafficDistribution"] = wish.into();
        }
        let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": name, "namespace": "shop", "labels": {"kubernetes.io/service-name": name}},
            "ports": ports, "endpoints": endpoints});
        text += &format!("---\n{service}\n---\n{slice}\n");
        if !policy.is_empty() {
            text += &shop::traffic_policy(name, policy);
        }
        upstreams.push(format!("shop/{name}:8001={}", at(name)));
    }
    text += &shop::client("127.101.0", &upstreams);
    let compiled = harness::compiled(&text);
    ensure!(compiled.findings.is_empty(), "{:#?}", compiled.findings);
    Ok(compiled)
}

/// Answers requests and bytes with its address, one for each connection.
fn applications() -> Result<()> {
    for ip in ZONES.into_iter().flat_map(|(_, ips)| ips) {
        serve(format!("{ip}:8001"), move |stream| {
            let mut first = [0];
            if !matches!(stream.peek(&mut first), Ok(1)) {
                return;
            }
            if first == *b"?" && stream.read_exact(&mut first).is_ok() {
                let _ = stream.write_all(ip.as_bytes());
            } else if request(stream).is_some() {
                let length = ip.len();
                let head = "HTTP/1.1 200 OK\r\nconnection: close";
                let _ = write!(stream, "{head}\r\ncontent-length: {length}\r\n\r\n{ip}");
            }
        })?;
    }
    Ok(())
}

/// The zones of the applications that answer.
fn answers(service: &str, headers: &str) -> Result<BTreeMap<&'static str, usize>> {
    let mut zones = BTreeMap::new();
    for _ in 0..60 {
        let answer = if service == "bytes" {
            let mut stream = connect(&at(service))?;
            stream.write_all(b"?")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            answer
        } else {
            http(&at(service), "GET", "/", headers)?
        };
        let of = ZONES
            .iter()
            .find(|(_, ips)| ips.iter().any(|ip| answer.ends_with(ip)));
        let (zone, _) = of.with_context(|| format!("{service}: {answer:?}"))?;
        *zones.entry(*zone).or_default() += 1;
    }
    Ok(zones)
}

/// Writes the endpoints of every service as answers of EDS, each in a file.
fn write_endpoints(compiled: &Compiled, folder: &Path) -> Result<()> {
    let view = harness::view(
        compiled,
        &NamespacedName::new("shop", "client"),
        &BTreeSet::new(),
    );
    let view: harness::Seen = view.context("no such proxy")?.into();
    for (name, ..) in SERVICES {
        let cluster = format!("out|shop/{name}|8001");
        let resource = view.resources.values().find(|resource| {
            *resource.key.name == *cluster
                && resource.key.kind == heddle_policy_compiler::ResourceKind::Endpoints
        });
        let mut endpoints = print::to_json(resource.context(cluster)?);
        endpoints["@type"] =
            "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment".into();
        let new = folder.join(format!("{name}.new"));
        std::fs::write(&new, json!({"resources": [endpoints]}).to_string())?;
        // Envoy looks at files that are moved in place.
        std::fs::rename(new, folder.join(format!("{name}.yaml")))?;
    }
    Ok(())
}

/// The client's sidecar in a zone, as in the agent's bootstrap, with endpoints from files.
fn sidecar(compiled: &Compiled, zone: Option<&str>, folder: &Path) -> Result<Envoy> {
    write_endpoints(compiled, folder)?;
    start(
        compiled,
        ("client", &BTreeSet::new()),
        &Trust::new()?,
        folder,
        "127.101.0.9:9901",
        |config| {
            let clusters = config["static_resources"]["clusters"]
                .as_array_mut()
                .unwrap();
            for (name, ..) in SERVICES {
                let named = format!("out|shop/{name}|8001");
                let cluster = clusters
                    .iter_mut()
                    .find(|cluster| cluster["name"] == *named)
                    .unwrap();
                cluster.as_object_mut().unwrap().remove("load_assignment");
                cluster["type"] = "EDS".into();
                cluster["eds_cluster_config"] = json!({"eds_config": {"resource_api_version": "V3",
                "path_config_source": {"path": folder.join(format!("{name}.yaml"))}}});
            }
            let Some(zone) = zone else { return };
            let place = json!({"zone": zone});
            let nowhere = json!({"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 9}}}});
            clusters.push(
                json!({"name": LOCAL, "type": "STATIC", "load_assignment": {"cluster_name": LOCAL,
            "endpoints": [{"locality": place, "lb_endpoints": [nowhere]}]}}),
            );
            config["node"]["locality"] = place;
            config["cluster_manager"] = json!({"local_cluster_name": LOCAL});
        },
    )
}

/// The services that go by zone.
const BY_ZONE: [&str; 4] = ["near", "close", "chance", "bytes"];

#[test]
fn callers_stay_in_their_zone_while_it_has_an_endpoint() -> Result<()> {
    applications()?;
    let folder = tempfile::tempdir()?;
    let envoy = sidecar(&compiled(&["a", "b", "c"])?, Some("b"), folder.path())?;
    for service in BY_ZONE {
        let zones = answers(service, "")?;
        ensure!(zones.keys().eq(["b"].iter()), "{service}: {zones:?}");
    }
    for (service, headers) in [("all", ""), ("hashed", "")] {
        ensure!(answers(service, headers)?.len() == 3, "{service}");
    }
    let user = answers("hashed", "x-user: 7\r\n")?;
    ensure!(
        user.len() == 1,
        "a user is sent to several endpoints: {user:?}"
    );

    // The endpoints of the zone leave: every answer comes, and those of both other zones soon.
    write_endpoints(&compiled(&["a", "c"])?, folder.path())?;
    for service in BY_ZONE {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let zones = answers(service, "")?;
            if zones.keys().eq(["a", "c"].iter()) {
                let (a, c) = (zones["a"], zones["c"]);
                ensure!(
                    a.min(c) >= 12,
                    "{service}: not to both zones alike: {zones:?}"
                );
                break;
            }
            ensure!(Instant::now() < deadline, "{service}: {zones:?}");
        }
    }
    drop(envoy);

    // A sidecar that does not know its zone prefers none.
    let folder = tempfile::tempdir()?;
    let _envoy = sidecar(&compiled(&["a", "b", "c"])?, None, folder.path())?;
    for service in BY_ZONE {
        ensure!(answers(service, "")?.len() == 3, "{service} without a zone");
    }
    Ok(())
}
