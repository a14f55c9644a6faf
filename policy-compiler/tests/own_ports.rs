//! A connection to a capture port ends in the listener, also where capture does not refuse it.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod harness;

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::running::{Trust, connect, http, start};
use heddle_policy_compiler::{Compiled, World, compile, ingest};
use serde_json::Value;

const HOST: &str = "127.79.0.1";
const ADMIN: &str = "127.79.0.2:9901";

/// A captured pod under an open mesh, with a policy that names ports: connections to all other ports go to the application.
fn compiled() -> Result<Compiled> {
    let text = "
apiVersion: v1
kind: Pod
metadata: {name: server, namespace: shop, labels: {app: server}}
spec: {initContainers: [{name: heddle-proxy, restartPolicy: Always}], containers: [{name: app, ports: [{containerPort: 8080}]}]}
status: {podIPs: [{ip: 127.79.0.1}]}
---
apiVersion: heddle.dev/v1alpha1
kind: AuthPolicy
metadata: {name: server, namespace: shop}
spec: {selector: {matchLabels: {app: server}}, rules: [{to: {ports: [8080]}}]}
";
    let (objects, findings) = ingest::parse_yaml("own_ports", text).into_objects();
    ensure!(findings.is_empty(), "{findings:#?}");
    let mut builder = World::builder();
    for object in objects {
        let findings = builder.apply(object);
        ensure!(findings.is_empty(), "{findings:#?}");
    }
    Ok(compile(&builder.world()))
}

/// At an address of the test's own, without capture.
fn beside(config: &mut Value) {
    for listener in config["static_resources"]["listeners"]
        .as_array_mut()
        .unwrap()
    {
        listener["address"]["socket_address"]["address"] = HOST.into();
        listener
            .as_object_mut()
            .unwrap()
            .remove("additional_addresses");
    }
}

/// How long the connection lasts.
fn closed(port: u16, bytes: &[u8]) -> Result<Duration> {
    let start = Instant::now();
    let mut stream = connect(&format!("{HOST}:{port}"))?;
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(error) if error.kind() != ErrorKind::ConnectionReset => {
            return Err(error).context(format!("{port} stays open"));
        }
        _ => ensure!(
            answer.is_empty(),
            "{port}: {}",
            String::from_utf8_lossy(&answer)
        ),
    }
    Ok(start.elapsed())
}

#[test]
fn a_connection_to_a_capture_port_is_closed_by_the_listener() -> Result<()> {
    let compiled = compiled()?;
    let folder = tempfile::tempdir()?;
    let none = BTreeSet::new();
    let server = ("server", &none);
    let _envoy = start(
        &compiled,
        server,
        &Trust::new()?,
        folder.path(),
        ADMIN,
        beside,
    )?;
    let hello: &[u8] = &[
        &[0x16, 3, 1, 0, 43, 1, 0, 0, 39, 3, 3][..],
        &[7; 32],
        &[0, 0, 2, 0, 0x2f, 1, 0],
    ]
    .concat();
    for port in heddle_ports::CAPTURE {
        for bytes in [
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            &b""[..],
            b"\r\n",
            hello,
        ] {
            let lasted = closed(port, bytes)?;
            // Without a look at the bytes: a silent caller is not waited for, as Envoy's listener filters would for 15 s.
            ensure!(lasted < Duration::from_secs(7), "{port}: {lasted:?}");
        }
    }
    let stats = http(ADMIN, "GET", "/stats?filter=downstream_cx_total$", "")?;
    let taken: u64 = stats
        .lines()
        .filter(|line| line.contains("listener.inbound.downstream_cx_total"))
        .filter_map(|line| line.rsplit(' ').next()?.trim().parse::<u64>().ok())
        .sum();
    ensure!(taken == 8, "{taken} inbound connections: {stats}");
    Ok(())
}
