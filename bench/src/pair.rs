//! The yardstick for the sidecars: two stock Envoys with static configurations written by hand, mutual TLS between them,
//! nothing else. Certificates are the bench's own.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, IsCa, Issuer, KeyPair, SanType,
};
use serde_json::{Value, json};

use crate::children::{Running, free_addresses, until};
use crate::load;

const START: Duration = Duration::from_secs(30);
const CLIENT: &str = "spiffe://bench/ns/bench/sa/client";
const SERVER: &str = "spiffe://bench/ns/bench/sa/server";

/// The running pair.
#[derive(Debug)]
pub struct Pair {
    /// The client's side.
    pub client: Running,
    /// The server's side.
    pub server: Running,
    /// Where the client's side listens for the application.
    pub entry: SocketAddr,
    /// The same for bytes.
    pub bytes: SocketAddr,
}

/// An address for requests and one for bytes.
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    /// HTTP/1.1, or HTTP/2 without TLS.
    pub requests: SocketAddr,
    /// Anything.
    pub bytes: SocketAddr,
}

impl Pair {
    /// Starts both in front of an application, and waits until a request passes.
    ///
    /// # Errors
    /// When Envoy ends, or no request passes in time.
    pub async fn start(
        envoy: &Path,
        concurrency: u32,
        application: Ports,
        work: &Path,
    ) -> Result<Self> {
        let [requests, bytes, to_requests, to_bytes] = free_addresses("127.0.0.1")?;
        let entry = Ports { requests, bytes };
        let middle = Ports {
            requests: to_requests,
            bytes: to_bytes,
        };
        let (client_tls, server_tls) = certificates()?;
        let to_server = transport_socket(&client_tls, SERVER, "UpstreamTlsContext");
        let from_client = transport_socket(&server_tls, CLIENT, "DownstreamTlsContext");
        let client = bootstrap(entry, None, middle, Some(to_server));
        let server = bootstrap(middle, Some(from_client), application, None);
        let mut server = start(envoy, concurrency, "pair-server", &server, work)?;
        let mut client = start(envoy, concurrency, "pair-client", &client, work)?;
        until(
            "the hand-written pair",
            START,
            &mut [&mut server, &mut client],
            async || load::once(entry.requests, "echo", Duration::from_secs(1)).await,
        )
        .await?;
        Ok(Self {
            client,
            server,
            entry: entry.requests,
            bytes: entry.bytes,
        })
    }
}

fn start(
    envoy: &Path,
    concurrency: u32,
    name: &str,
    config: &Value,
    work: &Path,
) -> Result<Running> {
    let path = work.join(format!("{name}.json"));
    std::fs::write(&path, config.to_string())?;
    let mut command = Command::new(envoy);
    command.arg("--config-path").arg(path).args([
        "--concurrency",
        &concurrency.to_string(),
        "--log-level",
        "warning",
        "--disable-hot-restart",
    ]);
    Running::start(name, work, command)
}

struct Tls {
    trust: String,
    chain: String,
    key: String,
}

/// The client's and the server's, of one root.
fn certificates() -> Result<(Tls, Tls)> {
    let root_key = KeyPair::generate()?;
    let mut root = CertificateParams::default();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let trust = root.self_signed(&root_key)?.pem();
    let issuer = Issuer::new(root, root_key);
    let leaf = |id: &str| -> Result<Tls> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        // rcgen gives every certificate the same name; one named as its issuer counts as self-signed.
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(id.try_into()?)];
        let chain = params.signed_by(&key, &issuer)?.pem();
        Ok(Tls {
            trust: trust.clone(),
            chain,
            key: key.serialize_pem(),
        })
    };
    Ok((leaf(CLIENT)?, leaf(SERVER)?))
}

fn transport_socket(tls: &Tls, peer: &str, kind: &str) -> Value {
    let mut context = json!({
        "@type": format!("type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{kind}"),
        "common_tls_context": {
            // Envoy's clients end at 1.2 unless told otherwise.
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
            "tls_certificates": [{
                "certificate_chain": {"inline_string": tls.chain},
                "private_key": {"inline_string": tls.key},
            }],
            "validation_context": {
                "trusted_ca": {"inline_string": tls.trust},
                "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": peer}}],
            },
        },
    });
    if let (true, Some(context)) = (kind.starts_with("Downstream"), context.as_object_mut()) {
        context.insert("require_client_certificate".to_owned(), json!(true));
    }
    json!({"name": "tls", "typed_config": context})
}

/// The filter of a port.
fn requests() -> Value {
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "route_config": {"virtual_hosts": [{
            "name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "requests"}}],
        }]},
        "http_filters": [{
            "name": "router",
            "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
        }],
    });
    json!({"name": "http", "typed_config": manager})
}

fn bytes() -> Value {
    let proxy = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "bench",
        "cluster": "bytes",
    });
    json!({"name": "bytes", "typed_config": proxy})
}

fn listener(name: &str, address: SocketAddr, filter: &Value, socket: Option<&Value>) -> Value {
    let mut chain = json!({"filters": [filter]});
    if let (Some(socket), Some(chain)) = (socket, chain.as_object_mut()) {
        chain.insert("transport_socket".to_owned(), socket.clone());
    }
    json!({"name": name, "address": socket_address(address), "filter_chains": [chain]})
}

/// Requests go on in the version of the caller.
fn cluster(name: &str, address: SocketAddr, socket: Option<&Value>) -> Value {
    let kind = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    let endpoint = json!({"endpoint": {"address": socket_address(address)}});
    let mut cluster = json!({
        "name": name, "type": "STATIC", "connect_timeout": "2s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
        "typed_extension_protocol_options": {kind: {
            "@type": format!("type.googleapis.com/{kind}"),
            "use_downstream_protocol_config": {"http_protocol_options": {}, "http2_protocol_options": {}},
        }},
    });
    if let (Some(socket), Some(cluster)) = (socket, cluster.as_object_mut()) {
        cluster.insert("transport_socket".to_owned(), socket.clone());
    }
    cluster
}

fn socket_address(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
}

/// A proxy that takes connections, perhaps by TLS, and hands them on, perhaps by TLS.
fn bootstrap(at: Ports, from: Option<Value>, next: Ports, to: Option<Value>) -> Value {
    let (from, to) = (from.as_ref(), to.as_ref());
    json!({"static_resources": {
        "listeners": [
            listener("requests", at.requests, &requests(), from),
            listener("bytes", at.bytes, &bytes(), from),
        ],
        "clusters": [cluster("requests", next.requests, to), cluster("bytes", next.bytes, to)],
    }})
}
