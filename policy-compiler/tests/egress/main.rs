//! Hosts outside the mesh, called by name through a real sidecar with a DNS server of the test: each name leads to its host alone, and other
//! names go the way that they go without an ExternalService.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod bounds;
#[path = "../cluster/mod.rs"]
mod cluster;
#[path = "../harness/mod.rs"]
mod harness;
mod mesh_first;
mod origination;
mod policies;
mod servers;
mod sidecar;
mod wildcards;

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use cluster::{apply, external_service, mesh, pod};
use harness::running::status;
use heddle_policy_compiler::{Compiled, World, compile};
use serde_json::{Value, json};
use servers::{dns, server};
use sidecar::{Sidecar, ask, greeting, put, seen, server_of};

/// The port of all hosts.
const PORT: u16 = 9443;
/// An address outside at which nothing listens.
const NOTHING: &str = "127.96.0.99";
/// An address outside with a server that no object names.
const OTHER: &str = "127.96.0.20";
/// An address outside that an object opens to connections without a name.
const OPENED: &str = "127.96.0.21";
/// An address to which names below wildcards must not lead.
const PRIVATE: &str = "127.96.9.9";
/// The names that DNS resolves.
const NAMES: servers::Names = &[
    ("a.example.com", Ipv4Addr::new(127, 96, 0, 11)),
    ("b.example.com", Ipv4Addr::new(127, 96, 0, 12)),
    ("t.example.com", Ipv4Addr::new(127, 96, 0, 13)),
];

/// A client of namespace shop, and these objects.
fn compiled(outbound: &str, objects: &[Value]) -> Compiled {
    let mut builder = World::builder();
    let client = pod("client", "client", "10.0.0.9", true, true);
    let all = [mesh(json!({"outbound": outbound})), client];
    let findings = apply(&mut builder, all.into_iter().chain(objects.iter().cloned()));
    assert!(findings.is_empty(), "{findings:#?}");
    let compiled = compile(&builder.world());
    assert!(compiled.findings.is_empty(), "{:#?}", compiled.findings);
    compiled
}

fn external(name: &str, host: &str, protocol: &str) -> Value {
    let ports = json!([{"port": PORT, "protocol": protocol}]);
    external_service(name, json!({"hosts": [host], "ports": ports}))
}

/// The hosts of the tests but `b.example.com`, which only another namespace may call.
fn hosts() -> [Value; 4] {
    let ports = json!([{"port": PORT, "protocol": "TCP"}]);
    let addresses = json!([format!("{OPENED}/32")]);
    let opened = json!({"addresses": addresses, "ports": ports});
    let mut elsewhere = external("b", "b.example.com", "HTTP");
    elsewhere["metadata"]["namespace"] = json!("till");
    [
        external("a", "a.example.com", "HTTP"),
        external("t", "t.example.com", "TLS"),
        elsewhere,
        external_service("opened", opened),
    ]
}

#[test]
fn a_name_leads_to_its_host_alone() -> Result<()> {
    let (at, asked) = dns(NAMES)?;
    for &(name, ip) in NAMES {
        server(&ip.to_string(), name)?;
    }
    server(OTHER, "other")?;
    server(OPENED, "opened")?;
    let denying = Sidecar::start(&compiled("Deny", &hosts()), "127.96.0.2", at)?;
    named(&denying)?;
    refused(&denying)?;
    let mut objects = hosts().to_vec();
    let allowing = Sidecar::start(&compiled("Allow", &objects), "127.96.0.3", at)?;
    named(&allowing)?;
    passed(&allowing)?;
    objects.push(external("second", "second.example.com", "HTTP"));
    objects.push(external("third", "third.example.com", "TLS"));
    let ports = json!([{"name": "http", "port": PORT, "protocol": "TCP", "targetPort": 8080}]);
    objects.push(cluster::service(
        "web",
        "10.96.0.7",
        json!({"app": "web"}),
        ports,
    ));
    unchanged_by_others(&allowing, &compiled("Allow", &objects))?;
    // DNS was asked for whole names, and not in the domains of the cluster.
    let asked = asked.lock().unwrap().clone();
    let known = asked
        .iter()
        .all(|name| NAMES.iter().any(|(known, _)| known == name));
    ensure!(known && !asked.is_empty(), "{asked:?}");
    Ok(())
}

/// The address that is called does not count, even if another server is there.
fn named(sidecar: &Sidecar) -> Result<()> {
    for ip in [NOTHING, OTHER] {
        for host in ["a.example.com", "a.example.com:9443", "A.Example.COM"] {
            let answer = sidecar.get(ip, host)?;
            ensure!(
                server_of(&answer) == Some("a.example.com"),
                "{host}: {answer}"
            );
            let header = answer.contains("x-heddle");
            ensure!(!header, "a header of the sidecar got out: {answer}");
        }
        ensure!(sidecar.greeting(ip, "t.example.com")? == "t.example.com");
    }
    Ok(())
}

/// Names that no object of the namespace has, or has for another protocol or port.
fn refused(sidecar: &Sidecar) -> Result<()> {
    let names = [
        "other",
        "b.example.com",
        "a.example.com:80",
        "a.example.com.",
        "t.example.com",
        OTHER,
    ];
    for host in names {
        let answer = sidecar.get(OTHER, host)?;
        ensure!(
            status(&answer) == 503 && server_of(&answer).is_none(),
            "{host}: {answer}"
        );
        let reason = format!("heddle: no address for {host} at {OTHER}:{PORT}");
        ensure!(answer.contains(&reason), "{host}: {answer}");
    }
    ensure!(sidecar.greeting(OPENED, "other.example.com")? == "opened");
    ensure!(sidecar.greeting(OPENED, "t.example.com")? == "t.example.com");
    for name in ["other.example.com", "a.example.com", "x.t.example.com"] {
        let reached = sidecar.greeting(OTHER, name);
        ensure!(reached.is_err(), "{name}: {reached:?}");
    }
    Ok(())
}

/// As without an object: to the address that was called.
fn passed(sidecar: &Sidecar) -> Result<()> {
    for host in ["other", "b.example.com", "a.example.com:80"] {
        let answer = sidecar.get(OTHER, host)?;
        ensure!(server_of(&answer) == Some("other"), "{host}: {answer}");
        ensure!(
            !answer.contains("x-heddle"),
            "a header of the sidecar got out: {answer}"
        );
    }
    for name in ["other.example.com", "a.example.com"] {
        ensure!(sidecar.greeting(OTHER, name)? == "other", "{name}");
    }
    Ok(())
}

/// Open connections go on when objects come, and nothing drains.
fn unchanged_by_others(sidecar: &Sidecar, more: &Compiled) -> Result<()> {
    let (mut by_name, mut by_address) = (sidecar.connect(NOTHING)?, sidecar.connect(OTHER)?);
    let mut open = [
        sidecar.tls(NOTHING, "t.example.com")?,
        sidecar.tls(OTHER, "other.com")?,
    ];
    let mut all_answer = || -> Result<()> {
        let answer = ask(&mut by_name, "a.example.com", "")?;
        ensure!(server_of(&answer) == Some("a.example.com"), "{answer}");
        let answer = ask(&mut by_address, "other", "")?;
        ensure!(server_of(&answer) == Some("other"), "{answer}");
        ensure!(greeting(&mut open[0])? == "t.example.com");
        ensure!(greeting(&mut open[1])? == "other");
        Ok(())
    };
    all_answer()?;
    put(&sidecar.folder, &seen(more), "127.96.0.3", sidecar.dns)?;
    let deadline = Instant::now() + Duration::from_secs(30);
    while sidecar.stat("listener_manager.listener_in_place_updated")? == 0 {
        ensure!(
            Instant::now() < deadline,
            "the listener was not updated in place"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    for draining in ["total_filter_chains_draining", "total_listeners_draining"] {
        let count = sidecar.stat(&format!("listener_manager.{draining}"))?;
        ensure!(count == 0, "{draining}: {count}");
    }
    all_answer()
}
