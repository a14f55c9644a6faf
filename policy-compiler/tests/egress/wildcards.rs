//! Wildcards: names below them lead to their own hosts and ports, never to the pod itself, its link, private addresses or the cluster.

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};
use heddle_policy_compiler::{Compiled, World, compile};
use serde_json::{Value, json};

use crate::cluster::{apply, external_service, mesh, pod};
use crate::harness::running::{Trust, http, status};
use crate::servers::{Names, dns, https, server};
use crate::sidecar::{Sidecar, server_of};
use crate::{NOTHING, OTHER, PORT};

const ONE: Ipv4Addr = Ipv4Addr::new(127, 96, 2, 11);
const PRIVATE: Ipv4Addr = Ipv4Addr::new(127, 96, 9, 9);
const NAMES: Names = &[
    ("one.w.example.com", ONE),
    ("deep.one.w.example.com", Ipv4Addr::new(127, 96, 2, 12)),
    ("exact.w.example.com", Ipv4Addr::new(127, 96, 2, 13)),
    ("a.sub.w.example.com", Ipv4Addr::new(127, 96, 2, 14)),
    ("s.s.example.com", Ipv4Addr::new(127, 96, 2, 15)),
    ("x.o.example.com", Ipv4Addr::new(127, 96, 2, 16)),
    ("y.o.example.com", Ipv4Addr::new(127, 96, 2, 16)),
    ("private.w.example.com", PRIVATE),
    ("private.s.example.com", PRIVATE),
    // An answer that begins with an address that must not be dialed.
    ("mixed.w.example.com", PRIVATE),
    ("mixed.w.example.com", ONE),
    // Names of the cluster, which no wildcard has.
    ("reviews.shop.svc.k.w.example.com", PRIVATE),
    ("reviews.shop.svc.k.s.example.com", PRIVATE),
];

fn object(name: &str, host: &str, port: Value) -> Value {
    external_service(name, json!({"hosts": [host], "ports": [port]}))
}

/// Hosts that a client of namespace shop may call, in a cluster with this domain.
fn compiled(domain: &str, authorities: &str) -> Compiled {
    let (http, tls) = (
        json!({"port": PORT, "protocol": "HTTP"}),
        json!({"port": PORT, "protocol": "TLS"}),
    );
    let mut by_tls = http.clone();
    by_tls["tls"] = json!({"port": PORT, "caCertificates": authorities});
    let mut builder = World::builder();
    let objects = [
        mesh(json!({"outbound": "Deny", "clusterDomain": domain})),
        pod("client", "client", "10.0.0.9", true, true),
        object("all", "*.w.example.com", http.clone()),
        object("exact", "exact.w.example.com", http.clone()),
        object("longer", "*.sub.w.example.com", http),
        object("tls", "*.s.example.com", tls),
        object("originated", "*.o.example.com", by_tls),
    ];
    let findings = apply(&mut builder, objects);
    assert!(findings.is_empty(), "{findings:#?}");
    let compiled = compile(&builder.world());
    assert!(compiled.findings.is_empty(), "{:#?}", compiled.findings);
    compiled
}

#[test]
fn names_below_a_wildcard_lead_to_their_own_hosts_and_nowhere_else() -> Result<()> {
    let trust = Trust::new()?;
    let (at, asked) = dns(NAMES)?;
    for &(name, ip) in &NAMES[..5] {
        server(&ip.to_string(), name)?;
    }
    server(&PRIVATE.to_string(), "private")?;
    let received = https("127.96.2.16:9443", &trust, "x.o.example.com")?;
    let of = |domain| compiled(domain, trust.ca());
    let sidecar = Sidecar::start(&of("k.w.example.com"), "127.96.2.2", at)?;
    reached(&sidecar)?;
    refused(&sidecar)?;
    // The certificate must have the called name, and not that of another host below the wildcard.
    for host in ["x.o.example.com", "x.o.example.com:9443"] {
        let answer = sidecar.get(NOTHING, host)?;
        ensure!(server_of(&answer) == Some("tls"), "{host}: {answer}");
        let request = received.lock().unwrap().pop().unwrap();
        ensure!(request.sni == "x.o.example.com", "{request:?}");
        // All names below the wildcard have one TLS context: a session of one name would let another one in without its certificate.
        ensure!(!request.resumed, "{request:?}");
        let head = request.bytes.to_lowercase();
        ensure!(head.contains(&format!("\r\nhost: {host}\r\n")), "{head}");
        ensure!(!head.contains("x-forwarded-proto"), "{head}");
    }
    let answer = sidecar.get(NOTHING, "y.o.example.com")?;
    ensure!(answer.contains("CERTIFICATE_VERIFY_FAILED"), "{answer}");
    ensure!(received.lock().unwrap().is_empty());
    // The same for names of the cluster in the server name.
    let other = Sidecar::start(&of("k.s.example.com"), "127.96.2.3", at)?;
    let reached = other.greeting(OTHER, "reviews.shop.svc.k.s.example.com");
    ensure!(reached.is_err(), "{reached:?}");
    let asked = asked.lock().unwrap().clone();
    let inside = asked.iter().any(|name| name.contains(".svc."));
    ensure!(!inside, "DNS was asked for names of the cluster: {asked:?}");
    Ok(())
}

fn reached(sidecar: &Sidecar) -> Result<()> {
    for ip in [NOTHING, OTHER] {
        for host in &NAMES[..4] {
            for host in [host.0.to_owned(), format!("{}:{PORT}", host.0)] {
                let answer = sidecar.get(ip, &host)?;
                let name = host.split(':').next();
                ensure!(server_of(&answer) == name, "{host}: {answer}");
                ensure!(!answer.contains("x-heddle"), "{answer}");
            }
        }
        ensure!(sidecar.greeting(ip, "s.s.example.com")? == "s.s.example.com");
    }
    // Of an answer with several addresses, those that must not be dialed are left out.
    let answer = sidecar.get(NOTHING, "mixed.w.example.com")?;
    ensure!(server_of(&answer) == Some("one.w.example.com"), "{answer}");
    let clusters = http(&sidecar.admin, "GET", "/clusters", "")?;
    for (cluster, requests) in [
        ("dst|exact.w.example.com:9443|shop/exact", 4),
        ("dst|*.sub.w.example.com:9443|shop/longer", 4),
    ] {
        let mut lines = clusters.lines();
        let count = format!("::rq_total::{requests}");
        let counted = lines.any(|line| line.starts_with(cluster) && line.ends_with(&count));
        ensure!(counted, "{cluster} has not got its requests: {clusters}");
    }
    Ok(())
}

fn refused(sidecar: &Sidecar) -> Result<()> {
    // Not below the wildcard, or with another port, or a name of the cluster: as if there were no object.
    for host in [
        "w.example.com",
        "onew.example.com",
        "one.w.example.com.",
        "one.w.example.com:80",
        "one.w.example.com:9001",
        "s.s.example.com",
        "reviews.shop.svc.k.w.example.com",
        "reviews.shop.svc.k.w.example.com:9443",
    ] {
        let answer = sidecar.get(OTHER, host)?;
        let reason = format!("heddle: no address for {host} at {OTHER}:{PORT}");
        ensure!(answer.contains(&reason), "{host}: {answer}");
    }
    // Without an address that may be dialed.
    for host in [
        "private.w.example.com",
        "unknown.w.example.com",
        "127.0.0.1:9443@one.w.example.com",
        "127.0.0.1%00.w.example.com",
        "[::1].w.example.com",
    ] {
        let answer = sidecar.get(OTHER, host)?;
        let code = status(&answer);
        ensure!(
            code == 503 && server_of(&answer).is_none(),
            "{host}: {answer}"
        );
    }
    for name in [
        "private.s.example.com",
        "s.example.com",
        "one.w.example.com",
    ] {
        let reached = sidecar.greeting(OTHER, name);
        ensure!(reached.is_err(), "{name}: {reached:?}");
    }
    Ok(())
}
