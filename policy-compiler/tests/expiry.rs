//! Real Envoys, certificates that expire, and a root that changes: no TLS session outlives them, and no HTTP connection lasts for ever.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod harness;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use harness::running::{Trust, connect, http, serve, start, start_as_is, status};
use harness::tls;
use heddle_policy_compiler::Compiled;
use heddle_policy_compiler::world::SpiffeId;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::ServerName;
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, ServerConfig, ServerConnection, StreamOwned,
};
use serde_json::{Value, json};

const HTTP: u16 = 8001;
const TCP: u16 = 8101;
/// Longer than a handshake takes on a busy machine.
const LIFETIME: Duration = Duration::from_secs(6);
const MAX_AGE: Duration = Duration::from_secs(2);

/// Server and client of a Strict mesh in the block of addresses `127.<block>.0.0/16`.
fn compiled(block: u8) -> Result<Compiled> {
    let text = format!(
        "
apiVersion: heddle.dev/v1alpha1
kind: Mesh
metadata: {{name: default}}
spec: {{mode: Strict, certificates: {{lifetime: 1m}}}}
---
apiVersion: v1
kind: Service
metadata: {{name: api, namespace: shop}}
spec: {{clusterIP: 10.96.0.1, selector: {{app: api}}, ports: [{{name: http, port: {HTTP}}}, {{name: tcp, port: {TCP}}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: api-1, namespace: shop, labels: {{kubernetes.io/service-name: api}}}}
addressType: IPv4
ports: [{{name: http, port: {HTTP}}}, {{name: tcp, port: {TCP}}}]
endpoints: [{{addresses: [127.{block}.0.2], targetRef: {{kind: Pod, name: api, namespace: shop}}}}]
---
apiVersion: v1
kind: Pod
metadata: {{name: api, namespace: shop, labels: {{app: api}}, annotations: {{heddle.dev/standalone-app: 127.{block}.0.3}}}}
spec: {{serviceAccountName: api, containers: [{{name: app}}]}}
status: {{podIPs: [{{ip: 127.{block}.0.2}}]}}
---
apiVersion: v1
kind: Pod
metadata:
  name: client
  namespace: shop
  annotations: {{heddle.dev/standalone-app: 127.{block}.0.5, heddle.dev/standalone-upstreams: \"shop/api:{HTTP}=127.{block}.0.6:{HTTP}\"}}
spec: {{serviceAccountName: client, containers: [{{name: app}}]}}
status: {{podIPs: [{{ip: 127.{block}.0.4}}]}}
"
    );
    Ok(harness::compiled(&text))
}

/// A meshed caller that keeps every session it is given, and resumes it where it can.
fn caller((chain, key): &(String, String), alpn: &str) -> Arc<ClientConfig> {
    let (chain, key) = tls::pair(chain, key);
    Arc::new(tls::mutual(chain, key, &[alpn.as_bytes()]))
}

type Tls = StreamOwned<ClientConnection, TcpStream>;

fn call(config: &Arc<ClientConfig>, at: &str) -> Result<Tls> {
    let name = ServerName::try_from("api")?;
    Ok(StreamOwned::new(
        ClientConnection::new(Arc::clone(config), name)?,
        connect(at)?,
    ))
}

/// Sends a request and returns the head of the answer. The connection stays.
fn exchange(tls: &mut Tls) -> Result<String> {
    tls.write_all(b"GET / HTTP/1.1\r\nHost: api\r\n\r\n")?;
    let mut answer = Vec::new();
    let mut byte = [0; 1];
    while !answer.ends_with(b"\r\n\r\nok") {
        ensure!(
            tls.read(&mut byte)? == 1,
            "closed after {:?}",
            String::from_utf8_lossy(&answer)
        );
        answer.push(byte[0]);
    }
    Ok(String::from_utf8(answer)?)
}

/// Answers every request of a connection.
fn application(stream: &mut TcpStream) {
    let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(n @ 1..) = stream.read(&mut buffer) {
        seen.extend_from_slice(&buffer[..n]);
        if seen.ends_with(b"\r\n\r\n") {
            seen.clear();
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        }
    }
}

/// Finds every HTTP connection manager, and shortens the age that it allows.
fn shorten(value: &mut Value, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            if let Some(age) = map.get_mut("max_connection_duration") {
                found.push(age.as_str().unwrap_or_default().to_owned());
                *age = format!("{}s", MAX_AGE.as_secs()).into();
            }
            map.values_mut().for_each(|value| shorten(value, found));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| shorten(item, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn an_expired_certificate_gets_in_by_no_session() -> Result<()> {
    let (compiled, trust, folder) = (compiled(80)?, Trust::new()?, tempfile::tempdir()?);
    for port in [HTTP, TCP] {
        serve(format!("127.80.0.3:{port}"), application)?;
    }
    let _server = start_as_is(&compiled, "api", &trust, folder.path(), "127.80.0.8:9901")?;

    let until = SystemTime::now() + LIFETIME;
    let id = SpiffeId::new("cluster.local", "shop", "client");
    let pair = trust.issue_until(&id, until)?;
    let callers = [
        (HTTP, caller(&pair, "heddle-http")),
        (TCP, caller(&pair, "heddle-tcp")),
    ];
    for (port, config) in &callers {
        for _ in 0..2 {
            let mut tls = call(config, &format!("127.80.0.2:{port}"))?;
            ensure!(exchange(&mut tls)?.contains("200 OK"));
            let kind = tls.conn.handshake_kind();
            ensure!(kind != Some(HandshakeKind::Resumed), "{port}: {kind:?}");
            ensure!(
                tls.conn.tls13_tickets_received() == 0,
                "{port} gives tickets"
            );
        }
    }
    // Certificates say whole seconds.
    while SystemTime::now() <= until + Duration::from_secs(1) {
        std::thread::sleep(Duration::from_millis(100));
    }
    for (port, config) in &callers {
        let answer =
            call(config, &format!("127.80.0.2:{port}")).and_then(|mut tls| exchange(&mut tls));
        ensure!(
            answer.is_err(),
            "{port}: an expired certificate got {answer:?}"
        );
    }
    // It is not the server that has ended.
    let fresh = caller(&trust.issue(&id)?, "heddle-http");
    let answer = exchange(&mut call(&fresh, &format!("127.80.0.2:{HTTP}"))?)?;
    ensure!(answer.contains("200 OK"), "{answer}");
    Ok(())
}

/// A server that gives tickets and session ids under the name of the sidecar, so that callers have some to offer.
fn ticket_office(at: &str, (chain, key): (String, String)) -> Result<()> {
    let (chain, key) = tls::pair(&chain, &key);
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    let config = Arc::new(config);
    serve(at.to_owned(), move |stream| {
        let Ok(stream) = stream.try_clone() else {
            return;
        };
        let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
        let mut tls = StreamOwned::new(connection, stream);
        let mut request = [0; 4096];
        if matches!(tls.read(&mut request), Ok(1..)) {
            let _ = tls.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
            tls.conn.send_close_notify();
            let _ = tls.flush();
        }
    })
}

/// Has the caller offer sessions from now on.
fn with_sessions(config: &Arc<ClientConfig>, office: &str) -> Result<()> {
    exchange(&mut call(config, office)?)?;
    let mut again = call(config, office)?;
    exchange(&mut again)?;
    let kind = again.conn.handshake_kind();
    ensure!(
        kind == Some(HandshakeKind::Resumed),
        "{kind:?}: no sessions"
    );
    // The one that was just used is used up.
    exchange(&mut call(config, office)?)?;
    Ok(())
}

/// Puts in place the root that callers must have, as the agent does when it changes.
fn trust_in(file: &Path, root: &str) -> Result<()> {
    let secret = json!({"@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret", "name": "trust",
        "validation_context": {"trusted_ca": {"inline_string": root}}});
    let beside = file.with_extension("new");
    std::fs::write(&beside, json!({"resources": [secret]}).to_string())?;
    Ok(std::fs::rename(beside, file)?)
}

/// Takes the root from this file instead.
fn root_from(value: &mut Value, file: &Path) {
    match value {
        Value::Object(map) => {
            if let Some(mut context) = map.remove("validation_context") {
                context.as_object_mut().unwrap().remove("trusted_ca");
                let source =
                    json!({"path_config_source": {"path": file}, "resource_api_version": "V3"});
                let secret = json!({"name": "trust", "sds_config": source});
                let combined = json!({"default_validation_context": context, "validation_context_sds_secret_config": secret});
                map.insert("combined_validation_context".to_owned(), combined);
            }
            map.values_mut().for_each(|value| root_from(value, file));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| root_from(item, file)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// A root that is gone revokes all that it signed, also for a caller that offers sessions.
#[test]
fn an_identity_of_a_root_that_is_gone_gets_in_by_no_session() -> Result<()> {
    let (compiled, old, new) = (compiled(85)?, Trust::new()?, Trust::new()?);
    let (folder, none) = (tempfile::tempdir()?, BTreeSet::new());
    for port in [HTTP, TCP] {
        serve(format!("127.85.0.3:{port}"), application)?;
    }
    let id = SpiffeId::new("cluster.local", "shop", "client");
    let office = "127.85.0.7:8443";
    ticket_office(
        office,
        old.issue(&SpiffeId::new("cluster.local", "shop", "api"))?,
    )?;
    let root = folder.path().join("root.json");
    trust_in(&root, old.ca())?;
    let _server = start(
        &compiled,
        ("api", &none),
        &old,
        folder.path(),
        "127.85.0.8:9901",
        |config| root_from(config, &root),
    )?;
    let ports = [(HTTP, "heddle-http"), (TCP, "heddle-tcp")];
    let pair = old.issue(&id)?;
    let mut callers = Vec::new();
    for (port, alpn) in ports {
        let at = format!("127.85.0.2:{port}");
        for versions in [rustls::ALL_VERSIONS, &[&rustls::version::TLS12]] {
            let (chain, key) = tls::pair(&pair.0, &pair.1);
            let config = Arc::new(tls::mutual_of(versions, chain, key, &[alpn.as_bytes()]));
            with_sessions(&config, office)?;
            // Sidecars speak TLS 1.3 alone.
            let answer = call(&config, &at).and_then(|mut tls| {
                exchange(&mut tls)?;
                let kind = tls.conn.handshake_kind();
                ensure!(kind != Some(HandshakeKind::Resumed), "{at}: {kind:?}");
                Ok(())
            });
            ensure!(answer.is_ok() == (versions.len() > 1), "{at}: {answer:?}");
            callers.push((at.clone(), config));
        }
    }

    trust_in(&root, new.ca())?;
    let start = Instant::now();
    for (port, alpn) in ports {
        let fresh = caller(&new.issue(&id)?, alpn);
        let at = format!("127.85.0.2:{port}");
        while let Err(error) = call(&fresh, &at).and_then(|mut tls| exchange(&mut tls)) {
            ensure!(
                start.elapsed() < Duration::from_secs(30),
                "the root does not change at {at}: {error:#}"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    for (at, config) in &callers {
        with_sessions(config, office)?;
        let answer = call(config, at).and_then(|mut tls| exchange(&mut tls));
        ensure!(answer.is_err(), "{at}: the old root got {answer:?}");
    }
    Ok(())
}

#[test]
fn a_clients_sidecar_resumes_no_session() -> Result<()> {
    let (compiled, trust, folder) = (compiled(81)?, Trust::new()?, tempfile::tempdir()?);
    let (chain, key) = trust.issue(&SpiffeId::new("cluster.local", "shop", "api"))?;
    // A server that gives tickets, as rustls does by default.
    let (chain, key) = tls::pair(&chain, &key);
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    let config = Arc::new(config);
    let listener = TcpListener::bind(format!("127.81.0.2:{HTTP}"))?;
    let (handshakes, seen) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut tls = StreamOwned::new(connection, stream);
            let mut request = [0; 4096];
            if matches!(tls.read(&mut request), Ok(1..)) {
                let _ = handshakes.send(tls.conn.handshake_kind());
                let _ = tls.write_all(
                    b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok",
                );
                tls.conn.send_close_notify();
                let _ = tls.flush();
            }
        }
    });
    let kinds = |edit: fn(&mut Value)| -> Result<Vec<Option<HandshakeKind>>> {
        let none = BTreeSet::new();
        let client = ("client", &none);
        let _client = start(
            &compiled,
            client,
            &trust,
            folder.path(),
            "127.81.0.9:9901",
            edit,
        )?;
        (0..3)
            .map(|_| {
                let answer = http(&format!("127.81.0.6:{HTTP}"), "GET", "/", "")?;
                ensure!(status(&answer) == 200, "{answer}");
                Ok(seen.recv_timeout(Duration::from_secs(5))?)
            })
            .collect()
    };
    let resumed = Some(HandshakeKind::Resumed);
    let ours = kinds(|_| ())?;
    ensure!(!ours.contains(&resumed), "{ours:?}");
    // As Envoy is by default: this server's sessions can be resumed.
    let default = kinds(|config| forget(config, "max_session_keys"))?;
    ensure!(default.contains(&resumed), "{default:?}");
    Ok(())
}

/// Takes a field out of a configuration, wherever it is.
fn forget(value: &mut Value, field: &str) {
    match value {
        Value::Object(map) => {
            map.remove(field);
            map.values_mut().for_each(|value| forget(value, field));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| forget(item, field)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn a_connection_ends_at_its_age_without_losing_a_request() -> Result<()> {
    let (compiled, trust, folder) = (compiled(82)?, Trust::new()?, tempfile::tempdir()?);
    serve(format!("127.82.0.3:{HTTP}"), application)?;
    let (none, mut ages) = (BTreeSet::new(), Vec::new());
    let _server = start(
        &compiled,
        ("api", &none),
        &trust,
        folder.path(),
        "127.82.0.8:9901",
        |config| {
            shorten(config, &mut ages);
        },
    )?;
    // Half of the Mesh's `certificates.lifetime`, at the application's port and at that of the metrics.
    ensure!(
        ages.len() >= 2 && ages.iter().all(|age| age == "30s"),
        "{ages:?}"
    );

    let caller = caller(
        &trust.issue(&SpiffeId::new("cluster.local", "shop", "client"))?,
        "heddle-http",
    );
    let mut tls = call(&caller, &format!("127.82.0.2:{HTTP}"))?;
    let start = Instant::now();
    loop {
        let answer = exchange(&mut tls).context("a request was lost")?;
        ensure!(answer.contains("200 OK"), "{answer}");
        if answer.to_lowercase().contains("connection: close") {
            break;
        }
        ensure!(start.elapsed() < MAX_AGE * 10, "the connection goes on");
        std::thread::sleep(Duration::from_millis(20));
    }
    // Envoy's timers run from the begin of a turn of its loop, so they end early.
    ensure!(
        start.elapsed() > MAX_AGE / 2,
        "it ended after {:?}",
        start.elapsed()
    );
    exchange(&mut call(&caller, &format!("127.82.0.2:{HTTP}"))?)?;
    Ok(())
}
