//! Every port between the sidecar's lowest and highest, called from outside, from another pod and from the pod itself.

use std::io::ErrorKind;
use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};
use heddle_ports::{CAPTURE, METRICS, READINESS};
use heddle_scope_tests::{Client, Mesh, PATIENCE, Pod, PodSpec, Refused, Service, port, scope};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// More descriptors than Envoy opens for the connections of these tests. One that calls itself opens thousands in a second.
const DESCRIPTORS: usize = 256;

/// The answer of an application, or of the sidecar in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Answer,
    Closed,
}

async fn refused(client: &Client, to: SocketAddr) -> Result<()> {
    let Err(error) = client.connect(to).await else {
        bail!("{to} takes connections");
    };
    let kind = error
        .downcast_ref::<std::io::Error>()
        .map(std::io::Error::kind);
    ensure!(
        kind == Some(ErrorKind::ConnectionRefused),
        "{to}: {error:#}"
    );
    Ok(())
}

/// A connection that the caller's own sidecar takes ends without a byte.
async fn closed(client: &Client, to: SocketAddr) -> Result<()> {
    let mut stream = client.connect(to).await?;
    let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let mut all = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut all))
        .await
        .with_context(|| format!("{to} stays open"))?;
    ensure!(all.is_empty(), "{to}: {}", String::from_utf8_lossy(&all));
    Ok(())
}

async fn answers(client: &Client, to: SocketAddr, expected: Expected) -> Result<()> {
    let answer = client.call(to).await;
    let got = match &answer {
        Ok(_) => Expected::Answer,
        Err(error) if error.is::<Refused>() => bail!("{to}: {error:#}"),
        Err(_) => Expected::Closed,
    };
    ensure!(got == expected, "{to}: {expected:?} expected, {answer:?}");
    Ok(())
}

/// Calls every port. Returns the descriptors that the sidecar has open then.
async fn every_port(mesh: &Mesh, server: &Pod, client: &Pod, plain: Expected) -> Result<usize> {
    let outside = mesh.outside();
    for port in CAPTURE {
        for to in [server.at(port)?, server.at_v6(port)?] {
            refused(&outside, to).await?;
            closed(&client.client, to).await?;
        }
        for to in ["127.0.0.1", "::1"] {
            refused(&server.client, SocketAddr::new(to.parse()?, port)).await?;
        }
        refused(&server.client, server.at(port)?).await?;
    }
    closed(&outside, server.at(METRICS)?).await?;
    let mut readiness = outside.http(server.at(READINESS)?).await?;
    let status = readiness.send("/healthz/ready", "pod").await?.status();
    ensure!(status == 200, "readiness: {status}");
    for port in port::between() {
        let to = server.at(port)?;
        let (other, meshed) = match port {
            15010 => (Expected::Closed, Expected::Closed),
            _ => (plain, Expected::Answer),
        };
        answers(&outside, to, other).await?;
        answers(&client.client, to, meshed).await?;
    }
    server.envoy.descriptors()
}

fn policy(mtls: &str) -> Value {
    json!({
        "selector": {"matchLabels": {"app": "server"}},
        "mtls": {"mode": mtls},
        "rules": [{"action": "Deny", "to": {"ports": [15010]}}, {"to": {"ports": port::between().collect::<Vec<_>>()}}],
    })
}

#[test]
fn capture_ports_are_refused_and_the_ports_between_are_the_applications() -> Result<()> {
    scope(async |mesh| {
        let client = mesh.pod(PodSpec::new("client-1")).await?;
        let server = mesh.pod(PodSpec::new("server-1")).await?;
        // A pod's port that a service leads to is called by mTLS; others are called as outside of the mesh.
        mesh.world.service(Service {
            ports: port::between()
                .map(|port| (format!("any-{port}"), port, port))
                .collect(),
            ..Service::new("server")
        });
        for (mtls, plain) in [
            ("Permissive", Expected::Answer),
            ("Strict", Expected::Closed),
        ] {
            mesh.world.put("AuthPolicy", "server", policy(mtls));
            mesh.write()?;
            mesh.settled(&server.client).await?;
            let open = every_port(mesh, &server, &client, plain)
                .await
                .with_context(|| mtls.to_owned())?;
            ensure!(open < DESCRIPTORS, "{mtls}: {open} descriptors");
        }
        Ok(())
    })
}

#[test]
fn capture_ports_are_refused_where_no_policy_is_and_where_the_mesh_observes() -> Result<()> {
    scope(async |mesh| {
        let client = mesh.pod(PodSpec::new("client-1")).await?;
        let server = mesh.pod(PodSpec::new("server-1")).await?;
        for mesh_spec in [
            json!({}),
            json!({"mode": "Observe"}),
            json!({"outbound": "Deny"}),
        ] {
            mesh.world.mesh(mesh_spec.clone());
            mesh.write()?;
            mesh.settled(&server.client).await?;
            let outside = mesh.outside();
            for port in CAPTURE {
                refused(&outside, server.at(port)?).await?;
                closed(&client.client, server.at(port)?).await?;
                refused(&server.client, server.at(port)?).await?;
            }
            for port in port::between() {
                answers(&outside, server.at(port)?, Expected::Answer).await?;
            }
            let open = server.envoy.descriptors()?;
            ensure!(open < DESCRIPTORS, "{mesh_spec}: {open} descriptors");
        }
        Ok(())
    })
}
