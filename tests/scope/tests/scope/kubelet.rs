//! The requests of the kubelet: lifecycle hooks and probes, by HTTP and HTTPS, where nothing else may come in without mTLS.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use heddle_scope_tests::{Client, Mesh, PATIENCE, Pod, PodSpec, Service, port, scope};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::tls;

/// A request, by TLS or plain.
type Asked = (bool, &'static str, &'static str, u16);

/// The requests that the pod declares.
const DECLARED: [Asked; 5] = [
    (false, "GET", "/started", port::HTTP),
    (false, "GET", "/live", port::HTTP),
    (true, "GET", "/ready?full=1", port::HTTPS),
    (true, "GET", "/stop", port::HTTPS),
    (false, "GET", "/starting", port::OTHER_HTTP),
];

/// Next to it: another path, query, method, port or scheme.
const OTHERS: [Asked; 22] = [
    (false, "GET", "/", port::HTTP),
    (false, "GET", "/started/", port::HTTP),
    (false, "GET", "/Started", port::HTTP),
    (false, "GET", "//started", port::HTTP),
    (false, "GET", "/started/../admin", port::HTTP),
    (false, "GET", "/live%2f..%2fadmin", port::HTTP),
    (false, "GET", "/live?verbose", port::HTTP),
    (false, "GET", "/live?", port::HTTP),
    (true, "GET", "/ready", port::HTTPS),
    (true, "GET", "/ready?full=12", port::HTTPS),
    (false, "POST", "/started", port::HTTP),
    (false, "HEAD", "/live", port::HTTP),
    (false, "GET", "/ready", port::HTTP),
    (false, "GET", "/live", port::OTHER_HTTP),
    (false, "GET", "/live", port::GRPC),
    (true, "GET", "/live", port::HTTP),
    (false, "GET", "/ready", port::HTTPS),
    (true, "GET", "/", port::HTTPS),
    (true, "GET", "/live", port::HTTPS),
    (true, "GET", "/stop/", port::HTTPS),
    (true, "POST", "/stop", port::HTTPS),
    (true, "GET", "/ready/../admin", port::HTTPS),
];

fn server() -> PodSpec {
    let get =
        |path, port, scheme| json!({"httpGet": {"path": path, "port": port, "scheme": scheme}});
    PodSpec::new("server-1").container(json!({
        "lifecycle": {
            "postStart": get("/started", port::HTTP, "HTTP"),
            "preStop": get("/stop", port::HTTPS, "HTTPS"),
        },
        "livenessProbe": get("/live", port::HTTP, "HTTP"),
        "readinessProbe": get("/ready?full=1", port::HTTPS, "HTTPS"),
        "startupProbe": get("/starting", port::OTHER_HTTP, "HTTP"),
    }))
}

/// Whether the application answers.
async fn reaches(
    client: &Client,
    to: SocketAddr,
    (by_tls, method, path, _): Asked,
) -> Result<bool> {
    let stream = client.connect(to).await?;
    let request = format!("{method} {path} HTTP/1.1\r\nhost: pod\r\nconnection: close\r\n\r\n");
    if !by_tls {
        return exchange(stream, &request).await;
    }
    let config = Arc::new(tls::anonymous(&[b"http/1.1"]));
    let connecting = TlsConnector::from(config).connect("pod".try_into()?, stream);
    match timeout(PATIENCE, connecting).await? {
        Ok(stream) => exchange(stream, &request).await,
        Err(_) => Ok(false),
    }
}

async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> Result<bool> {
    let mut answer = Vec::new();
    let _ = stream.write_all(request.as_bytes()).await;
    // A refusal may be a reset.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer))
        .await
        .context("the connection stays open")?;
    let text = String::from_utf8_lossy(&answer);
    // By the status alone: the answer to HEAD has no body.
    Ok(text.starts_with("HTTP/1.1 200"))
}

/// From the node, by both families, exactly the declared requests pass; from all other addresses nothing does.
async fn only_what_is_declared(mesh: &Mesh, server: &Pod, client: &Pod) -> Result<()> {
    let (kubelet, outside) = (mesh.kubelet(), mesh.outside());
    let cases = DECLARED.map(|asked| (asked, true)).into_iter();
    for (asked, expected) in cases.chain(OTHERS.map(|asked| (asked, false))) {
        for to in [server.at(asked.3)?, server.at_v6(asked.3)?] {
            let got = reaches(&kubelet, to, asked).await?;
            ensure!(got == expected, "the kubelet, {to}, {asked:?}: {got}");
            for (name, other) in [("outside", &outside), ("a pod", &client.client)] {
                let got = reaches(other, to, asked).await?;
                ensure!(!got, "{name} reaches {to} by {asked:?}");
            }
        }
    }
    Ok(())
}

#[test]
fn hooks_and_probes_pass_exactly_as_declared_and_from_the_node_alone() -> Result<()> {
    scope(async |mesh| {
        mesh.world
            .mesh(json!({"mode": "Strict", "defaultAction": "Deny"}));
        let server = mesh.pod(server()).await?;
        let client = mesh.pod(PodSpec::new("client-1")).await?;
        mesh.world.service(Service::new("server"));
        mesh.write()?;
        mesh.settled(&server.client).await?;
        mesh.settled(&client.client).await?;
        only_what_is_declared(mesh, &server, &client).await
    })
}

#[test]
fn a_policy_for_others_opens_and_closes_nothing_for_the_kubelet() -> Result<()> {
    scope(async |mesh| {
        mesh.world.mesh(json!({"mode": "Strict"}));
        mesh.world.put(
            "AuthPolicy",
            "nobody",
            json!({"selector": {"matchLabels": {"app": "server"}}, "rules": [{"action": "Deny"}]}),
        );
        let server = mesh.pod(server()).await?;
        let client = mesh.pod(PodSpec::new("client-1")).await?;
        mesh.world.service(Service::new("server"));
        mesh.write()?;
        mesh.settled(&server.client).await?;
        mesh.settled(&client.client).await?;
        only_what_is_declared(mesh, &server, &client).await
    })
}
