//! The control plane's binary on Kubernetes, with a small API server: strangers on its ports take nothing from others.

// In a test a panic is the verdict; clippy's own exception covers only the functions marked as tests.
#![allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod api;
mod operator;
#[path = "../../../policy-compiler/tests/harness/tls.rs"]
mod tls;

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use heddle_acceptor::raise_open_files;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, socket};
use operator::{Operator, PATIENCE, mutual, name};
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use tonic::Status;

const PORTS: [u16; 5] = [15010, 15011, 15014, 15017, 15021];
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// A connection from one of a few addresses.
fn connect_from(host: u8, to: SocketAddr) -> TcpStream {
    let fd = socket(
        AddressFamily::Inet,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .unwrap();
    let IpAddr::V4(ip) = to.ip() else {
        panic!("{to} is not IPv4")
    };
    let [a, b, c, _] = ip.octets();
    bind(
        fd.as_raw_fd(),
        &SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::new(a, b, c, host), 0)),
    )
    .unwrap();
    connect(
        fd.as_raw_fd(),
        &SockaddrIn::from(SocketAddrV4::new(ip, to.port())),
    )
    .unwrap();
    TcpStream::from(fd)
}

/// The client of a port's TLS: with the certificate of a pod where the server demands one.
fn client_of(operator: &Operator, port: u16) -> Arc<ClientConfig> {
    if port != 15010 {
        return Arc::new(tls::anonymous(&[b"h2", b"http/1.1"]));
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let token = api::token(&api::claims(), "good");
    let (key, issued) = runtime.block_on(operator.issue(&token)).unwrap();
    Arc::new(mutual(&key, &issued))
}

/// Silent TCP, silent TLS, TLS with half a request, TLS with the preface of HTTP/2, and a slow plain header.
fn idle(operator: &Operator, port: u16, count: usize) -> Vec<TcpStream> {
    let mut held = Vec::new();
    let client = client_of(operator, port);
    for number in 0..count {
        let mut tcp = connect_from(u8::try_from(100 + number % 3).unwrap(), operator.at(port));
        let opening = match number % 40 {
            // The handshakes of few of them: they cost more than the connections.
            0 => Some(&b""[..]),
            1 => Some(PREFACE),
            2 => Some(&b"POST /inject HTTP/1.1\r\nhost: a\r\nx-slow: "[..]),
            3 => {
                let _ = tcp.write_all(b"GET /healthz HTTP/1.1\r\nhost: ");
                None
            }
            _ => None,
        };
        if let Some(opening) = opening.filter(|_| port != 15021) {
            tcp.set_read_timeout(Some(PATIENCE)).unwrap();
            let connection = ClientConnection::new(Arc::clone(&client), name());
            let mut io = StreamOwned::new(connection.unwrap(), tcp);
            // Displaced in the middle of the handshake by the next ones, it may fail.
            let _ = io.write_all(opening).and_then(|()| io.flush());
            tcp = io.sock;
        }
        held.push(tcp);
    }
    held
}

/// Subscribes as the pod `shop/web-1`.
async fn subscribe(operator: &Operator) -> Result<(), Status> {
    // A token that was accepted is not reviewed again for some time.
    let mut claims = api::claims();
    claims["jti"] = operator.api.reviews.load(Ordering::Relaxed).into();
    let (key, issued) = operator.issue(&api::token(&claims, "good")).await?;
    let channel = operator
        .channel(operator.ip, 15010, mutual(&key, &issued))
        .await?;
    let request = DeltaDiscoveryRequest {
        node: Some(Node {
            id: "shop/web-1".to_owned(),
            ..Node::default()
        }),
        type_url: "type.googleapis.com/envoy.config.cluster.v3.Cluster".to_owned(),
        ..DeltaDiscoveryRequest::default()
    };
    let requests =
        futures::StreamExt::chain(futures::stream::iter([request]), futures::stream::pending());
    let mut client = AggregatedDiscoveryServiceClient::new(channel);
    let mut responses = client
        .delta_aggregated_resources(requests)
        .await?
        .into_inner();
    let first = tokio::time::timeout(PATIENCE, responses.message()).await;
    let first = first.map_err(|_| Status::deadline_exceeded("no answer"))??;
    first
        .map(drop)
        .ok_or_else(|| Status::unknown("the stream ended"))
}

/// Every honest caller of every port is answered.
fn all_work(operator: &Operator) {
    let health = operator.health("/healthz").unwrap();
    assert!(health.starts_with("HTTP/1.1 200"), "{health}");
    let review = "POST /inject HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";
    let webhook = operator.https(15017, review).unwrap();
    assert!(webhook.starts_with("HTTP/1.1 422"), "{webhook}");
    assert!(operator.metrics().starts_with("HTTP/1.1 200"));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let reviews = || operator.api.reviews.load(Ordering::Relaxed);
    let before = reviews();
    runtime.block_on(subscribe(operator)).unwrap();
    assert!(reviews() > before, "the API server judges every token");
}

fn all_closed(held: Vec<TcpStream>) {
    for mut tcp in held {
        tcp.set_read_timeout(Some(PATIENCE)).unwrap();
        let end = tcp.read_to_end(&mut Vec::new());
        let open = end.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        assert!(!open, "the connection is still open");
    }
}

#[test]
fn idle_connections_leave_every_port_working_and_are_closed() {
    raise_open_files().unwrap();
    let deadline = Duration::from_secs(4);
    let operator = Operator::start("ulimit -Sn 1024", deadline, Duration::ZERO);
    all_work(&operator);
    for port in PORTS {
        let held = idle(&operator, port, 1200);
        all_work(&operator);
        all_closed(held);
        operator.eventually("the places are free", || {
            let server = match port {
                15010 => "discovery",
                15011 => "certificates",
                15014 => "metrics",
                15017 => "webhook",
                _ => "health",
            };
            // The one that asks is one of them.
            operator.metric(&format!(
                "heddle_listener_connections{{server=\"{server}\"}}"
            )) < 10
        });
    }
    let log = operator.log();
    assert!(!log.contains("Too many open files"), "{log}");
    assert!(log.lines().count() < 400, "{log}");
    let displaced =
        "heddle_listener_connections_ended_early_total{server=\"webhook\",reason=\"displaced\"}";
    assert!(operator.metric(displaced) > 0);
}

/// Silent connections of eight sources, as many as a botnet of one node would hold.
fn ten_thousand(operator: &Operator, port: u16) -> Vec<TcpStream> {
    let sources = (100..108).cycle().take(10_000);
    sources
        .map(|host| connect_from(host, operator.at(port)))
        .collect()
}

#[test]
fn ten_thousand_idle_connections_to_any_port_leave_every_port_working() {
    assert!(
        raise_open_files().unwrap() > 11_000,
        "the limit of open files is too low for this test; raise it (ulimit -Hn 20000)"
    );
    let operator = Operator::start("ulimit -Sn 1024", PATIENCE, Duration::ZERO);
    for port in PORTS {
        let held = ten_thousand(&operator, port);
        all_work(&operator);
        drop(held);
    }
    let log = operator.log();
    assert!(!log.contains("Too many open files"), "{log}");
    assert!(log.lines().count() < 400, "{log}");
}

#[test]
fn malformed_expired_and_foreign_tokens_cost_no_review() {
    let operator = Operator::start("true", PATIENCE, Duration::from_millis(200));
    let good = api::token(&api::claims(), "good");
    let reviews = || operator.api.reviews.load(Ordering::Relaxed);
    let mut other = api::claims();
    other["aud"] = "https://kubernetes.default.svc".into();
    let mut expired = api::claims();
    expired["exp"] = 1_000_000.into();
    let mut unknown = api::claims();
    unknown["kubernetes.io"]["pod"]["name"] = "web-9".into();
    let forged = api::token(&api::claims(), "bad");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let kinds = [
            "garbage".to_owned(),
            api::token(&other, "good"),
            api::token(&expired, "good"),
            api::token(&unknown, "bad"),
        ];
        let flood = futures::future::join_all((0..100).map(|n| {
            let token = format!("{}{n}", kinds[n % kinds.len()]);
            let operator = &operator;
            async move { operator.issue(&token).await.map(drop) }
        }));
        let honest = async {
            for _ in 0..5 {
                operator.issue(&good).await.unwrap();
            }
        };
        let (refused, ()) = futures::join!(flood, honest);
        assert!(refused.iter().all(Result::is_err));
        assert_eq!(reviews(), 1, "one for the honest token");
        // A token with the claims of a pod is reviewed once.
        for _ in 0..5 {
            assert_eq!(
                operator.issue(&forged).await.unwrap_err().code(),
                tonic::Code::Unauthenticated
            );
        }
        assert_eq!(reviews(), 2);
    });
    let lines = operator
        .log()
        .lines()
        .filter(|line| line.contains("no certificate issued"))
        .count();
    assert!((1..60).contains(&lines), "{lines} log lines");
}

#[test]
fn forged_tokens_of_one_source_are_bounded_and_others_pass() {
    let operator = Operator::start("true", PATIENCE, Duration::ZERO);
    let reviews = || operator.api.reviews.load(Ordering::Relaxed);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let mut codes = Vec::new();
        for n in 0..80 {
            let forged = api::token(&api::claims(), &format!("bad{n}"));
            codes.push(operator.issue(&forged).await.unwrap_err().code());
        }
        assert_eq!(codes[0], tonic::Code::Unauthenticated);
        assert_eq!(codes[79], tonic::Code::ResourceExhausted);
        assert!(reviews() <= 61, "{} reviews", reviews());
        let good = api::token(&api::claims(), "good");
        let elsewhere = std::net::Ipv4Addr::new(127, 0, 0, 77);
        operator.issue_from(elsewhere, &good).await.unwrap();
    });
    // The same bound applies to forged tokens in requests for metrics.
    let before = reviews();
    for n in 0..80 {
        let request = operator::get("/metrics", &format!("authorization: Bearer x{n}\r\n"));
        let answer = operator.https(15014, &request).unwrap();
        assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    assert!(reviews() - before <= 60, "{} reviews", reviews() - before);
}

#[test]
fn with_few_open_files_the_bounds_of_all_ports_are_lower() {
    raise_open_files().unwrap();
    let operator = Operator::start("ulimit -n 1024", Duration::from_secs(30), Duration::ZERO);
    let held: Vec<_> = PORTS
        .into_iter()
        .flat_map(|port| idle(&operator, port, 700))
        .collect();
    all_work(&operator);
    let log = operator.log();
    assert!(log.contains("the limit of open files is low"), "{log}");
    assert!(!log.contains("Too many open files"), "{log}");
    drop(held);
}
