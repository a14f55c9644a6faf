//! Stock Envoy over incremental ADS and mTLS on loopback: traffic, an update, a rejection, on demand, a reconnect.
// Clippy takes only the test functions themselves for tests, not the functions they call.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

mod support;

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use heddle_xds_server::Options;
use heddle_xds_server::ResourceKind::{Cluster, Endpoints, Extension, Listener, Route, Runtime};
use heddle_xds_types::bootstrap::RUNTIME_FEATURES;
use support::pki::Pki;
use support::resources::{
    bad_listener, chooses, cluster, endpoints, extended_listener, http_listener, key,
    on_demand_listener, route, runtime, static_cluster,
};
use support::{BOUND, Fixture, Process, Running, free_port, runs, tool};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const NODE: &str = "shop/web-0";

/// Answers every connection with one HTTP response.
async fn backend() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream
                    .write_all(
                        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello",
                    )
                    .await;
            });
        }
    });
    port
}

async fn get(port: u16, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// Asks until the answer has `expected`. No event announces it: users see the change in the same way.
async fn until_answer(port: u16, path: &str, expected: &str) {
    let mut last = String::new();
    let asking = async {
        let mut pace = tokio::time::interval(Duration::from_millis(20));
        loop {
            pace.tick().await;
            last = get(port, path)
                .await
                .unwrap_or_else(|error| error.to_string());
            if last.contains(expected) {
                return;
            }
        }
    };
    let outcome = tokio::time::timeout(BOUND, asking).await;
    assert!(
        outcome.is_ok(),
        "{expected:?} never came, the last answer was {last:?}"
    );
}

fn bootstrap(pki: &Pki, ads: SocketAddr, admin: u16) -> String {
    let leaf = pki.leaf("web-0");
    let http2 = serde_json::json!({
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    });
    let tls = serde_json::json!({
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "sni": "localhost",
        "common_tls_context": {
            "tls_certificates": [{
                "certificate_chain": {"inline_string": leaf.certificate},
                "private_key": {"inline_string": leaf.key},
            }],
            "validation_context": {"trusted_ca": {"inline_string": pki.root()}},
        },
    });
    let endpoint = serde_json::json!({"address": {"socket_address": {
        "address": ads.ip().to_string(), "port_value": ads.port()}}});
    let features: serde_json::Value = RUNTIME_FEATURES
        .map(|name| (name.to_owned(), serde_json::Value::Bool(true)))
        .into_iter()
        .collect();
    let source = serde_json::json!({"ads": {}, "resource_api_version": "V3"});
    serde_json::json!({
        "node": {"id": NODE, "cluster": "shop", "metadata": {"heddle.bootstrap": 1}},
        "layered_runtime": {"layers": [
            {"name": "bootstrap", "static_layer": features},
            {"name": "heddle", "rtds_layer": {"name": "heddle", "rtds_config": source}},
        ]},
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": admin}}},
        "dynamic_resources": {
            "ads_config": {"api_type": "DELTA_GRPC", "transport_api_version": "V3",
                           "grpc_services": [{"envoy_grpc": {"cluster_name": "ads"}}]},
            "cds_config": source, "lds_config": source,
        },
        "cluster_manager": {"load_stats_config": {"api_type": "GRPC", "transport_api_version": "V3",
                            "grpc_services": [{"envoy_grpc": {"cluster_name": "ads"}}]}},
        "static_resources": {"clusters": [{
            "name": "ads", "type": "STATIC", "connect_timeout": "1s",
            "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2},
            "transport_socket": {"name": "tls", "typed_config": tls},
            "load_assignment": {"cluster_name": "ads", "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}]},
        }]},
    })
    .to_string()
}

/// Shows Envoy's log if the test fails.
struct Log(tempfile::NamedTempFile);

impl Drop for Log {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "Envoy said:\n{}",
                std::fs::read_to_string(self.0.path()).unwrap_or_default()
            );
        }
    }
}

fn start_envoy(config: &str, log: std::fs::File) -> Process {
    let envoy = tool("HEDDLE_ENVOY", ".cache/envoy/envoy", "envoy");
    let arguments = [
        "--config-yaml",
        config,
        "--concurrency",
        "1",
        "--disable-hot-restart",
        "-l",
        "warning",
    ];
    Process::start(
        Command::new(envoy)
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(log),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_runs_what_it_is_given() {
    let (backend, pki, source) = (backend().await, Pki::new(), Fixture::new());
    let (front, unknown, admin) = (free_port(), free_port(), free_port());
    source.put([
        cluster("svc", 1),
        endpoints("svc", backend),
        http_listener("front", front, "svc"),
        route("svc", "svc", "v1"),
        on_demand_listener("unknown", unknown),
    ]);
    let options = Options {
        load_report_interval: Duration::from_millis(200),
        ..Options::default()
    };
    let server = Running::with(&source, pki.security(), "127.0.0.1:0", options).await;
    let log = Log(tempfile::NamedTempFile::new().unwrap());
    let _envoy = start_envoy(
        &bootstrap(&pki, server.address, admin),
        log.0.reopen().unwrap(),
    );

    let begun = tokio::time::Instant::now();
    until_answer(front, "/", "x-version: v1").await;
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "the start waited for a runtime layer without content"
    );
    let all = [
        key(Cluster, "svc"),
        key(Endpoints, "svc"),
        key(Listener, "front"),
        key(Route, "svc"),
    ];
    let progress = server
        .until(NODE, "in sync", |p| all.iter().all(|k| runs(p, k)))
        .await;
    assert!(
        progress.node.user_agent.starts_with("envoy 1."),
        "{}",
        progress.node.user_agent
    );

    assert_eq!(progress.node.bootstrap, 1);
    runtime_values(&server, &source, admin).await;

    // An update takes effect; an updated cluster does not wait for endpoints (Envoy would for 15 s).
    source.put([route("svc", "svc", "v2")]);
    until_answer(front, "/", "x-version: v2").await;
    source.put([cluster("svc", 2), route("svc", "svc", "v3")]);
    let begun = tokio::time::Instant::now();
    until_answer(front, "/", "x-version: v3").await;
    until_answer(
        admin,
        "/stats?filter=warming_clusters",
        "warming_clusters: 0",
    )
    .await;
    until_answer(
        admin,
        "/config_dump?resource=dynamic_active_clusters",
        "\"connect_timeout\": \"2s\"",
    )
    .await;
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "the cluster stayed in warming"
    );

    extension(&server, &source).await;
    on_demand(&server, &source, unknown, backend).await;
    loads(&source, front).await;
    rejection(&server, &source).await;
    reconnect(server, &source, &pki, front).await;
}

/// A runtime value changes while Envoy runs, and goes with its resource.
async fn runtime_values(server: &Running, source: &Arc<Fixture>, admin: u16) {
    let layer = key(Runtime, "heddle");
    for value in [500, 100] {
        source.put([runtime("heddle.learn", value)]);
        let shown = format!("\"final_value\": \"{value}\"");
        until_answer(admin, "/runtime", &shown).await;
    }
    server
        .until(NODE, "runtime acknowledged", |p| runs(p, &layer))
        .await;
    source.remove(&layer);
    let gone = async {
        let mut pace = tokio::time::interval(Duration::from_millis(20));
        while get(admin, "/runtime")
            .await
            .unwrap()
            .contains("heddle.learn")
        {
            pace.tick().await;
        }
    };
    tokio::time::timeout(BOUND, gone)
        .await
        .expect("the value stays without its resource");
}

/// A listener's filter comes by ECDS, and the listener waits for it. A broken one is rejected by name, and the last good one stays;
/// without it connections are closed.
async fn extension(server: &Running, source: &Arc<Fixture>) {
    let (port, filter) = (free_port(), key(Extension, "gate"));
    source.put([extended_listener("extended", port, "gate", "nowhere")]);
    let up = key(Listener, "extended");
    server.until(NODE, "waiting", |p| runs(p, &up)).await;
    source.put([chooses("gate", "1", "svc")]);
    until_answer(port, "/", "hello").await;
    source.put([chooses("gate", "2", "nowhere")]);
    until_closed(port).await;
    source.put([chooses("gate", "3", "svc")]);
    until_answer(port, "/", "hello").await;
    source.put([chooses("gate", "4", "%NOT_A_COMMAND(%")]);
    let progress = server
        .until(NODE, "rejected", |p| {
            p.unacknowledged.get(&filter).is_some_and(Option::is_some)
        })
        .await;
    let text = &progress.unacknowledged[&filter].as_ref().unwrap().text;
    assert!(text.contains("NOT_A_COMMAND"), "{text}");
    until_answer(port, "/", "hello").await;
    source.remove(&filter);
    until_closed(port).await;
    source.remove(&up);
}

/// Waits until connections are accepted and end without an answer.
async fn until_closed(port: u16) {
    let closing = async {
        let mut pace = tokio::time::interval(Duration::from_millis(20));
        loop {
            pace.tick().await;
            let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)).await else {
                continue;
            };
            let _ = stream
                .write_all(b"GET / HTTP/1.1\r\nhost: shop\r\n\r\n")
                .await;
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            if answer.is_empty() {
                return;
            }
        }
    };
    let outcome = tokio::time::timeout(Duration::from_secs(10), closing).await;
    assert!(outcome.is_ok(), "connections are answered, or not accepted");
}

/// The first connection to an unknown destination is held until the destination is known.
async fn on_demand(server: &Running, source: &Arc<Fixture>, port: u16, backend: u16) {
    let name = format!("dst|127.0.0.1:{port}");
    let requires = vec![
        key(Cluster, "svc"),
        key(Endpoints, "svc"),
        key(Listener, "front"),
        key(Route, "svc"),
    ];
    source.put_on_demand(static_cluster(&name, backend, requires));
    let answer = tokio::time::timeout(BOUND, get(port, "/"))
        .await
        .unwrap()
        .unwrap();
    assert!(answer.contains("hello"), "{answer:?}");
    server
        .until(NODE, "asked on demand", |p| {
            p.on_demand.clusters.contains(&*name)
        })
        .await;
    server
        .until(NODE, "told", |p| runs(p, &key(Cluster, &name)))
        .await;
}

/// Traffic to a cluster shows in a load report, and is counted once.
async fn loads(source: &Arc<Fixture>, port: u16) {
    let issued = || -> Option<u64> {
        let all = source.loads.lock().unwrap();
        let loads = all.iter().flat_map(|(who, loads)| {
            assert_eq!(who.as_str(), NODE);
            loads
        });
        let loads = loads.filter(|l| &*l.cluster == "svc").map(|l| l.issued);
        loads.reduce(|sum, n| sum + n)
    };
    let mut pace = tokio::time::interval(Duration::from_millis(50));
    let told = async {
        // Envoy counts from the first report that has the cluster.
        while issued().is_none() {
            pace.tick().await;
        }
        let before = issued();
        for _ in 0..10 {
            get(port, "/").await.unwrap();
        }
        while issued() < before.map(|n| n + 10) {
            pace.tick().await;
        }
        assert_eq!(issued(), before.map(|n| n + 10));
    };
    tokio::time::timeout(BOUND, told)
        .await
        .expect("the loads are never reported");
}

/// A resource that Envoy rejects is recorded with Envoy's text, and holds up no other.
async fn rejection(server: &Running, source: &Arc<Fixture>) {
    let other = free_port();
    source.put([
        bad_listener("bad", free_port()),
        http_listener("other", other, "svc"),
        route("svc", "svc", "v4"),
    ]);
    until_answer(other, "/", "x-version: v4").await;
    let bad = key(Listener, "bad");
    let progress = server
        .until(NODE, "rejected", |p| {
            p.unacknowledged.len() == 1 && p.unacknowledged.get(&bad).is_some_and(Option::is_some)
        })
        .await;
    let text = &progress.unacknowledged[&bad].as_ref().unwrap().text;
    assert!(text.contains("bad"), "{text}");
    assert!(server.counters.snapshot().nacks.listener > 0);
}

/// Another server with the same content sends only the rejected resource again.
async fn reconnect(server: Running, source: &Arc<Fixture>, pki: &Pki, front: u16) {
    let (address, before) = (server.address, server.registry.get(&NODE.into()).unwrap());
    server.stop().await;
    let server = Running::start(source, pki.security(), &address.to_string()).await;
    let after = server
        .until(NODE, "back", |p| {
            p.unacknowledged == before.unacknowledged && p.resources == before.resources
        })
        .await;
    assert_eq!(after.on_demand.clusters, before.on_demand.clusters);
    let sent = server.counters.snapshot().responses;
    assert_eq!(
        (sent.cluster, sent.endpoints, sent.route),
        (0, 0, 0),
        "only the rejected listener is sent"
    );
    source.put([route("svc", "svc", "v5")]);
    until_answer(front, "/", "x-version: v5").await;
    server.stop().await;
}
