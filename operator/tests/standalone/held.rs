//! WebSockets, streams of events and streams of gRPC that stay open while everything around them changes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use crate::bytes::works;
use crate::harness::Fixture;
use crate::programmed;
use crate::rpc::{self, Stream};

const PORT: u16 = 9090;
const RPC: u16 = 9091;
/// `HELD_SOCKETS` sets another number.
const SOCKETS: usize = 200;
const EVENTS: usize = 10;
const STREAMS: usize = 10;
const EDITS: i64 = 500;
const OWN_EDITS: i64 = 100;
const PATIENCE: Duration = Duration::from_secs(20);

const CHAT: &str = "
apiVersion: v1
kind: Service
metadata: {name: chat, namespace: shop}
spec:
  clusterIP: 10.96.9.5
  clusterIPs: [10.96.9.5]
  selector: {app: reviews, version: v1}
  ports: [{name: http, port: 9090, appProtocol: http}, {name: grpc, port: 9091}]
";

/// The endpoints of the service, with the pod without a sidecar or without that pod.
fn endpoints(second: bool) -> String {
    let second = if second {
        "\n- {addresses: [\"NET.22\"], conditions: {ready: true}, targetRef: {kind: Pod, namespace: shop, name: reviews-v2-1}}"
    } else {
        ""
    };
    format!(
        "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: chat-1, namespace: shop, labels: {{kubernetes.io/service-name: chat}}}}
addressType: IPv4
ports: [{{name: http, port: 9090, protocol: TCP, appProtocol: http}}, {{name: grpc, port: 9091, protocol: TCP}}]
endpoints:
- {{addresses: [\"NET.21\"], conditions: {{ready: true}}, targetRef: {{kind: Pod, namespace: shop, name: reviews-v1-1}}}}{second}
"
    )
}

fn unrelated(n: i64) -> String {
    format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: other-{n}, namespace: elsewhere}}
spec: {{clusterIP: 10.96.10.1, selector: {{app: x}}, ports: [{{name: http, port: {port}}}]}}
",
        port = 1000 + n
    )
}

/// The three kinds of policies of the service, each with a value of its own.
fn own(n: i64) -> [(&'static str, &'static str, String); 3] {
    let policy = format!(
        "
apiVersion: heddle.dev/v1alpha1
kind: AuthPolicy
metadata: {{name: chat, namespace: shop}}
spec: {{target: {{service: chat}}, rules: [{{from: {{identities: [shop/frontend, shop/other-{n}]}}, to: {{ports: [9090, 9091], methods: [GET, POST]}}}}]}}
"
    );
    let traffic = format!(
        "
apiVersion: heddle.dev/v1alpha1
kind: TrafficPolicy
metadata: {{name: chat, namespace: shop}}
spec: {{target: {{service: chat}}, timeouts: {{request: {}s}}, rateLimits: [{{requests: {}, per: 1m}}]}}
",
        100 + n,
        100_000 + n
    );
    let split = format!(
        "
apiVersion: heddle.dev/v1alpha1
kind: TrafficSplit
metadata: {{name: chat, namespace: shop}}
spec: {{service: chat, backends: [{{labels: {{version: v1}}, weight: {}}}, {{labels: {{version: v2}}, weight: {n}}}]}}
",
        1000 - n
    );
    [
        ("AuthPolicy", "auth.yaml", policy),
        ("TrafficPolicy", "traffic.yaml", traffic),
        ("TrafficSplit", "chat-split.yaml", split),
    ]
}

/// An application that takes every upgrade and echoes from then on, and sends events without end to others that ask.
fn application(at: SocketAddr) {
    let listener = TcpListener::bind(at).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || answer(stream));
        }
    });
}

fn answer(mut stream: TcpStream) {
    let head = head(&mut stream);
    if head.contains("upgrade: websocket") {
        let accept =
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n";
        let _ = stream.write_all(accept.as_bytes());
        let mut buffer = [0; 64];
        while let Ok(read @ 1..) = stream.read(&mut buffer) {
            let _ = stream.write_all(&buffer[..read]);
        }
        return;
    }
    let head =
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    let _ = stream.write_all(head.as_bytes());
    while stream.write_all(b"9\r\ndata: a\n\n\r\n").is_ok() {
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// The head of a message, in lower case.
fn head(stream: &mut TcpStream) -> String {
    let (mut seen, mut byte) = (Vec::new(), [0]);
    while !seen.ends_with(b"\r\n\r\n") && matches!(stream.read(&mut byte), Ok(1)) {
        seen.push(byte[0]);
    }
    String::from_utf8_lossy(&seen).to_lowercase()
}

fn ask(to: SocketAddr, headers: &str, answer: &str) -> TcpStream {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!("GET /chat HTTP/1.1\r\nhost: chat\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let got = head(&mut stream);
    assert!(got.starts_with(answer), "{got}");
    stream
}

/// Reads all events that have arrived, and one more.
fn goes_on(stream: &mut TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let mut buffer = [0; 1 << 16];
    while matches!(stream.read(&mut buffer), Ok(1..)) {}
    stream.set_nonblocking(false).unwrap();
    let mut line = String::new();
    let read = BufReader::new(stream).read_line(&mut line);
    matches!(read, Ok(1..))
}

pub fn connections_stay_while_everything_changes(mesh: &Fixture) {
    let sockets = std::env::var("HELD_SOCKETS").map_or(SOCKETS, |text| text.parse().unwrap());
    for host in [121, 22] {
        application(mesh.address(host, PORT));
        rpc::serve(mesh.address(host, RPC));
    }
    mesh.apply("chat.yaml", CHAT);
    mesh.apply("chat-1.yaml", &endpoints(false));
    let both = ["shop/frontend-1", "shop/reviews-v1-1"];
    mesh.until_in_sync(&both);
    let to = mesh.address(53, PORT);
    mesh.eventually("the service answers", || {
        let headers = "connection: close\r\n";
        let request = format!("GET / HTTP/1.1\r\nhost: chat\r\n{headers}\r\n");
        let Ok(mut stream) = TcpStream::connect(to) else {
            return false;
        };
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(request.as_bytes()).is_ok()
            && head(&mut stream).starts_with("http/1.1 200")
    });
    let upgrade = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let mut open: Vec<TcpStream> = (0..sockets)
        .map(|_| ask(to, upgrade, "http/1.1 101"))
        .collect();
    let mut events: Vec<TcpStream> = (0..EVENTS).map(|_| ask(to, "", "http/1.1 200")).collect();
    let mut streams: Vec<Stream> = (0..STREAMS)
        .map(|_| Stream::open(mesh.address(54, RPC)))
        .collect();
    let listeners = both.map(|pod| mesh.listener_changes(pod.split('/').nth(1).unwrap()));

    for n in 1..=EDITS {
        mesh.apply("other.yaml", &unrelated(n));
        mesh.apply("chat-1.yaml", &endpoints(n % 2 == 0));
        if n % 50 == 0 {
            mesh.until_in_sync(&both);
        }
    }
    for n in 1..=OWN_EDITS {
        for (_, file, text) in own(n) {
            mesh.apply(file, &text);
        }
        for (kind, ..) in own(n) {
            mesh.status(kind, "chat", programmed(n));
        }
    }
    mesh.until_in_sync(&both);

    let closed = open.iter_mut().filter_map(|s| (!works(s)).then_some(()));
    assert_eq!(closed.count(), 0, "of {sockets} WebSockets");
    let ended = events
        .iter_mut()
        .filter_map(|s| (!goes_on(s)).then_some(()));
    assert_eq!(ended.count(), 0, "of {EVENTS} streams of events");
    let ended = streams.iter_mut().filter_map(|s| s.echoes().err());
    let ended: Vec<_> = ended.collect();
    assert!(ended.is_empty(), "of {STREAMS} streams of gRPC: {ended:#?}");
    let now = both.map(|pod| mesh.listener_changes(pod.split('/').nth(1).unwrap()));
    assert_eq!(now, listeners, "no listener changes");
}
