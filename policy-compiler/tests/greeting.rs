//! Servers that speak first: a denied caller hears nothing, and the application sees no connection.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod harness;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Result, ensure};
use harness::running::{Envoy, Trust, connect, serve, spawn, start};
use heddle_policy_compiler::Compiled;
use heddle_policy_compiler::world::SpiffeId;
use serde_json::{Value, json};

const GREETING: &[u8] = b"220 hello\r\n";
/// Only `shop/client` may connect.
const JUDGED: u16 = 8301;
/// `shop/client` may connect from other addresses than that of its calls here.
const FAR: u16 = 8302;

/// The address at which a caller's connections to a port begin.
fn caller(net: u8, peer: u8, port: u16) -> String {
    format!("127.{net}.0.{peer}:{port}")
}
const CLIENT: u8 = 6;
const STRANGER: u8 = 7;
/// The server itself: in plain text.
const PLAIN: u8 = 2;

fn compiled(net: u8) -> Result<Compiled> {
    let ports = [JUDGED, FAR].map(|port| format!("{{name: tcp-{port}, port: {port}}}"));
    let world = format!(
        "---
apiVersion: v1
kind: Service
metadata: {{name: db, namespace: shop}}
spec: {{clusterIP: 10.96.0.1, selector: {{app: db}}, ports: [{}]}}
---
apiVersion: v1
kind: Pod
metadata: {{name: db, namespace: shop, labels: {{app: db}}, annotations: {{heddle.dev/standalone-app: 127.{net}.0.3}}}}
spec: {{serviceAccountName: db, containers: [{{name: app}}]}}
status: {{podIPs: [{{ip: 127.{net}.0.2}}]}}
---
apiVersion: heddle.dev/v1alpha1
kind: AuthPolicy
metadata: {{name: db, namespace: shop}}
spec: {{target: {{service: db}}, rules: [{{from: {{identities: [shop/client]}}, to: {{ports: [{JUDGED}]}}}}, {{from: {{identities: [shop/client], ipBlocks: [10.0.0.0/8]}}, to: {{ports: [{FAR}]}}}}]}}
",
        ports.join(", ")
    );
    Ok(harness::compiled(&world))
}

/// An Envoy that wraps the callers' bytes into mTLS.
fn tunnels(net: u8, trust: &Trust) -> Result<Value> {
    let (mut listeners, mut clusters) = (Vec::new(), Vec::new());
    for (peer, account) in [(CLIENT, "client"), (STRANGER, "stranger")] {
        let (chain, key) = trust.issue(&SpiffeId::new("cluster.local", "shop", account))?;
        let text = |text: &str| json!({"inline_string": text});
        for port in [JUDGED, FAR] {
            let name = format!("{account}-{port}");
            let at = |host: u8| json!({"socket_address": {"address": format!("127.{net}.0.{host}"), "port_value": port}});
            clusters.push(json!({"name": name, "type": "STATIC",
                "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": at(2)}}]}]},
                "transport_socket": {"name": "tls", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                    "common_tls_context": {"alpn_protocols": ["heddle-tcp"], "tls_params": {"tls_maximum_protocol_version": "TLSv1_3"},
                        "tls_certificates": [{"certificate_chain": text(&chain), "private_key": text(&key)}]}}}}));
            listeners.push(json!({"name": name, "address": at(peer), "filter_chains": [{"filters": [{"name": "tcp", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", "stat_prefix": "t", "cluster": name}}]}]}));
        }
    }
    Ok(
        json!({"admin": {"address": {"socket_address": {"address": format!("127.{net}.0.9"), "port_value": 9901}}},
        "static_resources": {"listeners": listeners, "clusters": clusters}}),
    )
}

/// The server's sidecar, the callers, and the connections that the application has taken.
struct Mesh {
    net: u8,
    taken: Arc<AtomicUsize>,
    _envoys: [Envoy; 2],
}

impl Mesh {
    fn start(net: u8, folder: &Path, edit: impl FnOnce(&mut Value)) -> Result<Self> {
        let (compiled, trust) = (compiled(net)?, Trust::new()?);
        let taken = Arc::new(AtomicUsize::new(0));
        for port in [JUDGED, FAR] {
            let taken = Arc::clone(&taken);
            let greet = move |stream: &mut TcpStream| {
                taken.fetch_add(1, Ordering::Relaxed);
                application(stream);
            };
            serve(format!("127.{net}.0.3:{port}"), greet)?;
        }
        let (none, admin) = (BTreeSet::new(), format!("127.{net}.0.8:9901"));
        let server = start(&compiled, ("db", &none), &trust, folder, &admin, edit)?;
        let admin = format!("127.{net}.0.9:9901");
        let callers = spawn("callers", &tunnels(net, &trust)?, &[], folder, &admin)?;
        Ok(Self {
            net,
            taken,
            _envoys: [server, callers],
        })
    }

    /// The bytes that a silent caller hears, until the connection ends or the greeting is complete.
    fn listen(&self, peer: u8, port: u16) -> Result<(Vec<u8>, TcpStream)> {
        let mut stream = connect(&caller(self.net, peer, port))?;
        let (mut heard, mut buffer) = (Vec::new(), [0; GREETING.len()]);
        while heard.len() < GREETING.len() {
            match stream.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => heard.extend(&buffer[..count]),
                Err(error) => {
                    let reset = error.kind() == std::io::ErrorKind::ConnectionReset;
                    ensure!(reset, "{peer} {port}: {error}");
                    break;
                }
            }
        }
        Ok((heard, stream))
    }

    fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }
}

/// Greets, reads to the end, and answers with the number of bytes.
fn application(stream: &mut TcpStream) {
    let _ = stream.write_all(GREETING);
    let mut buffer = vec![0; 1 << 16];
    let mut count = 0;
    while let Ok(n @ 1..) = stream.read(&mut buffer) {
        count += n;
    }
    let _ = write!(stream, "{count} bytes");
}

/// Sends a megabyte, ends its own direction, and reads the answer.
fn uses(mut stream: TcpStream) -> Result<String> {
    let mut answer = String::new();
    stream.write_all(&vec![7; 1 << 20])?;
    stream.shutdown(Shutdown::Write)?;
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
fn a_denied_caller_hears_no_greeting_and_the_application_sees_no_connection() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mesh = Mesh::start(84, folder.path(), |_| ())?;
    for (peer, port) in [
        (STRANGER, JUDGED),
        (PLAIN, JUDGED),
        (STRANGER, FAR),
        (PLAIN, FAR),
    ] {
        let (heard, _) = mesh.listen(peer, port)?;
        ensure!(heard.is_empty(), "{peer} {port}: {heard:?}");
    }
    ensure!(mesh.taken() == 0, "{} connections", mesh.taken());

    let (heard, stream) = mesh.listen(CLIENT, JUDGED)?;
    ensure!(heard == GREETING, "{heard:?}");
    ensure!(uses(stream)? == "1048576 bytes");

    // The address decides at the first byte.
    let (heard, mut stream) = mesh.listen(CLIENT, FAR)?;
    ensure!(heard == GREETING, "{heard:?}");
    let mut rest = Vec::new();
    let _ = stream.write_all(b"ping");
    let _ = stream.read_to_end(&mut rest);
    ensure!(rest.is_empty(), "{rest:?}");
    Ok(())
}

/// A sidecar with a bootstrap of before version 1 chooses the cluster before the handshake.
#[test]
fn without_the_runtime_feature_callers_are_judged_at_their_first_byte() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let feature = "envoy.reloadable_features.tcp_proxy_delay_route_selection";
    let older = |config: &mut Value| {
        let values = &mut config["layered_runtime"]["layers"][0]["static_layer"];
        assert!(values.as_object_mut().unwrap().remove(feature).is_some());
    };
    let mesh = Mesh::start(85, folder.path(), older)?;
    let (heard, stream) = mesh.listen(CLIENT, JUDGED)?;
    ensure!(heard == GREETING, "{heard:?}");
    ensure!(uses(stream)? == "1048576 bytes");
    let (heard, stream) = mesh.listen(STRANGER, JUDGED)?;
    ensure!(heard == GREETING, "{heard:?}");
    let answer = uses(stream).unwrap_or_default();
    ensure!(answer.is_empty(), "{answer}");
    Ok(())
}
