//! Connections that take a place and give nothing: each kind is closed at its deadline, and honest callers are answered
//! meanwhile.
// Clippy takes only the test functions themselves for tests, not the functions they call.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::join_all;
use heddle_acceptor::{
    Acceptor, Bounds, Counters, Deadlines, Http, Link, Options, Protocol, Security,
};
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_util::sync::{CancellationToken, DropGuard};

const DEADLINE: Duration = Duration::from_millis(500);
/// No wait of a test is longer.
const PATIENCE: Duration = Duration::from_secs(20);
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

struct Server {
    address: SocketAddr,
    counters: Arc<Counters>,
    client: Option<TlsConnector>,
    _stop: DropGuard,
}

impl Server {
    async fn start(bounds: Bounds, deadlines: Deadlines, tls: bool) -> Self {
        let (security, client) = match tls {
            true => {
                let (server, client) = certificates();
                (server.into(), Some(client))
            }
            false => (Security::Plain, None),
        };
        let options = Options {
            name: "test",
            bounds,
            deadlines,
            http: Http {
                protocol: Protocol::Any,
                ..Http::default()
            },
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (counters, stop) = (Arc::<Counters>::default(), CancellationToken::new());
        let acceptor = Acceptor::new(options, Arc::clone(&counters));
        let handler = |_: Arc<Link>| service_fn(answer);
        tokio::spawn(acceptor.serve(listener, security, handler, stop.clone()));
        Self {
            address,
            counters,
            client,
            _stop: stop.drop_guard(),
        }
    }

    async fn tcp(&self, from: u8) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket
            .bind((IpAddr::from(Ipv4Addr::new(127, 0, 0, from)), 0).into())
            .unwrap();
        socket.connect(self.address).await.unwrap()
    }

    async fn connect(&self, from: u8) -> std::io::Result<Box<dyn Io>> {
        let tcp = self.tcp(from).await;
        Ok(match &self.client {
            Some(tls) => {
                let name = ServerName::try_from("localhost").unwrap();
                Box::new(tls.connect(name, tcp).await?)
            }
            None => Box::new(tcp),
        })
    }

    /// A whole request over HTTP/1.1.
    async fn get(&self, from: u8) -> String {
        let mut io = self.connect(from).await.unwrap();
        io.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut text = String::new();
        io.read_to_string(&mut text).await.unwrap();
        text
    }
}

/// `/` at once; `/slow` never; `/stream` with a first frame and no end.
async fn answer(request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let body = match request.uri().path() {
        "/slow" => std::future::pending().await,
        "/stream" => {
            let first = futures::stream::iter([Ok(Frame::data(Bytes::from_static(b"first")))]);
            let endless = futures::StreamExt::chain(first, futures::stream::pending());
            StreamBody::new(endless).boxed_unsync()
        }
        _ => {
            let _ = request.into_body().collect().await;
            Full::from("ok").boxed_unsync()
        }
    };
    Ok(Response::new(body))
}

type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, Infallible>;

fn certificates() -> (Arc<ServerConfig>, TlsConnector) {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let mut server = server;
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (Arc::new(server), TlsConnector::from(Arc::new(client)))
}

fn bounds(connections: usize, per_source: usize) -> Bounds {
    Bounds {
        connections,
        per_source,
        reserved: 0,
        displace_busy: false,
    }
}

fn short() -> Deadlines {
    Deadlines {
        handshake: DEADLINE,
        first_request: DEADLINE,
        idle: DEADLINE,
        request: Some(DEADLINE),
        grace: DEADLINE,
    }
}

/// Reads until the server closes.
async fn closed(mut io: impl AsyncRead + Unpin) -> Vec<u8> {
    let mut seen = Vec::new();
    let end = tokio::time::timeout(PATIENCE, io.read_to_end(&mut seen)).await;
    // A reset ends a connection as well as an orderly close.
    let _ = end.expect("the server never closed the connection");
    seen
}

#[tokio::test]
async fn every_kind_of_idle_connection_is_closed_at_its_deadline() {
    let plain = Server::start(bounds(100, 100), short(), false).await;
    let tls = Server::start(bounds(100, 100), short(), true).await;
    // Before the handshake, and in the middle of it.
    closed(tls.tcp(1).await).await;
    let mut half = tls.tcp(1).await;
    half.write_all(&[0x16, 3, 1, 2, 0, 1]).await.unwrap();
    closed(half).await;
    assert_eq!(tls.counters.snapshot().handshakes_failed, 2);
    let openings: [&[u8]; 5] = [
        b"",
        b"GET / HTTP/1.1\r\nhost: a\r\nx-slow: ",
        b"PRI * HTTP",
        PREFACE,
        // The frame header of HEADERS, and not the headers.
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x20\x01\x04\0\0\0\x01\x82",
    ];
    for server in [&plain, &tls] {
        for opening in openings {
            let mut io = server.connect(1).await.unwrap();
            io.write_all(opening).await.unwrap();
            let seen = closed(io).await;
            assert!(!seen.starts_with(b"HTTP/1.1 200"), "{opening:?}");
        }
        assert_eq!(server.counters.snapshot().without_request, 5);
    }
}

/// Sends bytes again and again until the server closes the connection.
async fn closed_though_busy(io: impl AsyncRead + AsyncWrite, opening: &[u8], more: &[u8]) {
    let (reading, mut writing) = tokio::io::split(io);
    let sending = async {
        let mut next = writing.write_all(opening).await;
        while next.is_ok() {
            tokio::time::sleep(DEADLINE / 25).await;
            next = writing.write_all(more).await;
        }
    };
    tokio::select! {
        seen = closed(reading) => assert!(!seen.starts_with(b"HTTP/1.1 200"), "{opening:?}"),
        () = sending => {}
    }
}

#[tokio::test]
async fn bytes_that_are_not_a_whole_request_buy_no_time() {
    let plain = Server::start(bounds(100, 100), short(), false).await;
    let tls = Server::start(bounds(100, 100), short(), true).await;
    let hello = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    tokio::time::timeout(PATIENCE, closed_though_busy(tls.tcp(1).await, &hello, &[0]))
        .await
        .expect("a handshake without end");
    let ping = b"\0\0\x08\x06\0\0\0\0\0pingping";
    // The header frame of stream 1 and its continuations, none of which is the last.
    let headers = [PREFACE, b"\0\0\x01\x01\x01\0\0\0\x01\x82"].concat();
    let continuation = b"\0\0\x01\x09\0\0\0\0\x01\x84";
    let busy: [(&[u8], &[u8]); 5] = [
        (b"GET / HTTP/1.1\r\nhost: a\r\nx-slow: ", b"y"),
        (b"\r\n", b"\r\n"),
        (PREFACE, ping),
        (PREFACE, b"\0\0\0\x04\0\0\0\0\0"),
        (&headers, continuation),
    ];
    for server in [&plain, &tls] {
        for (opening, more) in busy {
            let io = server.connect(1).await.unwrap();
            tokio::time::timeout(PATIENCE, closed_though_busy(io, opening, more))
                .await
                .unwrap_or_else(|_| panic!("{opening:?} keeps its place"));
        }
        assert!(server.get(2).await.contains("200 OK"));
    }
}

#[tokio::test]
async fn a_connection_without_a_further_request_is_closed() {
    let server = Server::start(bounds(10, 10), short(), false).await;
    let mut io = server.tcp(1).await;
    io.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .unwrap();
    let seen = closed(io).await;
    assert!(seen.starts_with(b"HTTP/1.1 200"));
    let counts = server.counters.snapshot();
    assert_eq!((counts.idle, counts.without_request), (1, 0));
}

#[tokio::test]
async fn a_request_that_does_not_end_is_cut_off() {
    let server = Server::start(bounds(10, 10), short(), false).await;
    for opening in [
        &b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\nten bytes."[..],
        b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET /stream HTTP/1.1\r\nhost: a\r\n\r\n",
    ] {
        let mut io = server.tcp(1).await;
        io.write_all(opening).await.unwrap();
        closed(io).await;
    }
    assert_eq!(server.counters.snapshot().slow_requests, 3);
}

#[tokio::test]
async fn an_open_stream_outlives_the_idle_deadline() {
    let deadlines = Deadlines {
        request: None,
        ..short()
    };
    let server = Server::start(bounds(10, 10), deadlines, false).await;
    let io = TokioIo::new(server.tcp(1).await);
    let (mut client, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    let request = Request::get("http://a/stream")
        .body(Empty::<Bytes>::new())
        .unwrap();
    let mut response = client.send_request(request).await.unwrap();
    response.frame().await.unwrap().unwrap();
    // A silent connection of the same age is gone, so the deadline has passed.
    closed(server.tcp(1).await).await;
    closed(server.tcp(1).await).await;
    assert!(!connection.is_finished());
    drop(response);
    let ended = tokio::time::timeout(PATIENCE, connection).await;
    ended
        .expect("without a stream the connection ends")
        .unwrap()
        .unwrap();
    assert_eq!(server.counters.snapshot().idle, 1);
}

#[tokio::test]
async fn idle_connections_keep_nobody_out() {
    let long = Deadlines {
        handshake: PATIENCE * 10,
        first_request: PATIENCE * 10,
        ..Deadlines::default()
    };
    for tls in [false, true] {
        let server = Server::start(bounds(32, 16), long, tls).await;
        // More than all places, of several sources, and none of them times out.
        let silent: Vec<_> = join_all((0..96).map(|n| server.tcp(10 + n % 4))).await;
        assert!(server.get(2).await.ends_with("ok"));
        // Also from an address that holds its whole share.
        assert!(server.get(10).await.ends_with("ok"));
        let counts = server.counters.snapshot();
        assert!(counts.open <= 32 + 16 && counts.displaced > 0, "{counts:?}");
        drop(silent);
    }
}

#[tokio::test]
async fn displaced_connections_in_their_grace_keep_nobody_out() {
    let deadlines = Deadlines {
        first_request: PATIENCE * 10,
        grace: PATIENCE * 10,
        ..short()
    };
    let server = Server::start(bounds(64, 64), deadlines, false).await;
    // One request each; afterwards these clients neither read nor answer.
    let request = b"\0\0\x06\x01\x05\0\0\0\x01\x82\x84\x86\x41\x01a";
    let mut deaf = Vec::new();
    for _ in 0..64 {
        let mut io = server.tcp(1).await;
        io.write_all(&[PREFACE, request].concat()).await.unwrap();
        deaf.push(io);
    }
    let all_idle = async {
        while server.counters.snapshot().idle < 64 {
            tokio::task::yield_now().await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, all_idle).await;
    waited.expect("not every connection became idle");
    let silent = join_all((0..20).map(|_| server.tcp(3))).await;
    let answer = tokio::time::timeout(PATIENCE / 4, server.get(2)).await;
    assert!(answer.expect("no connection is accepted").ends_with("ok"));
    assert!(server.counters.snapshot().displaced >= 20);
    drop((silent, deaf));
}

#[tokio::test]
async fn a_full_server_refuses_counts_and_logs() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone());
    // The runtime of the test has one thread.
    let _logging = tracing::subscriber::set_default(subscriber.finish());
    let server = Server::start(bounds(2, 2), Deadlines::default(), false).await;
    let mut busy = Vec::new();
    for _ in 0..2 {
        let mut io = server.tcp(1).await;
        io.write_all(b"GET /stream HTTP/1.1\r\nhost: a\r\n\r\n")
            .await
            .unwrap();
        io.read_exact(&mut [0; 12]).await.unwrap();
        busy.push(io);
    }
    closed(server.tcp(1).await).await;
    closed(server.tcp(2).await).await;
    let counts = server.counters.snapshot();
    assert_eq!((counts.refused_source, counts.refused_full), (1, 1));
    // The second refusal comes too soon for a line of its own.
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let refusals = text.matches("connection refused").count();
    assert_eq!(refusals, 1, "{text}");
    assert!(text.contains("the source has its share"), "{text}");
    drop(busy);
}

/// The lines of the log.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
