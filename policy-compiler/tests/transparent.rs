//! Bytes and requests pass through real sidecars as they were sent: an application behaves as it does without a mesh.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod harness;

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use anyhow::{Context, Result, ensure};
use harness::running::{Trust, connect, echo, http, mirror_as, serve, start_as_is, status};
use heddle_policy_compiler::Compiled;

/// Of a service that declares no protocol.
const ANY: u16 = 8101;
/// The same, with a rule that needs HTTP.
const RULED: u16 = 8102;
/// HTTP by one service, TCP by another.
const MIXED: u16 = 8103;
const HTTP: u16 = 8001;

/// Ports of services: service, name, port.
const PORTS: [(&str, &str, u16); 5] = [
    ("api", "http", HTTP),
    ("api", "any", ANY),
    ("api", "ruled", RULED),
    ("mq", "tcp-mux", MIXED),
    ("mq-http", "http", MIXED),
];

fn world() -> String {
    let mut text = String::new();
    let mut upstreams = Vec::new();
    for service in ["api", "mq", "mq-http"] {
        let ports = PORTS.iter().filter(|(of, _, _)| *of == service);
        let ports: Vec<String> = ports
            .map(|(_, name, port)| format!("{{name: {name}, port: {port}}}"))
            .collect();
        let ports = ports.join(", ");
        writeln!(text, "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {service}, namespace: shop}}\nspec: {{clusterIP: 10.96.0.1, selector: {{app: api}}, ports: [{ports}]}}").unwrap();
        writeln!(text, "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {service}-1, namespace: shop, labels: {{kubernetes.io/service-name: {service}}}}}\naddressType: IPv4\nports: [{ports}]\nendpoints: [{{addresses: [127.83.0.2], targetRef: {{kind: Pod, name: api, namespace: shop}}}}]").unwrap();
    }
    for (service, _, port) in PORTS {
        let host = if service == "mq-http" { 7 } else { 6 };
        upstreams.push(format!("shop/{service}:{port}=127.83.0.{host}:{port}"));
    }
    for (pod, ip, app, upstreams) in [
        ("api", 2, 3, String::new()),
        ("client", 4, 5, upstreams.join(", ")),
    ] {
        writeln!(text, "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {pod}, namespace: shop, labels: {{app: {pod}}}, annotations: {{heddle.dev/standalone-app: 127.83.0.{app}, heddle.dev/standalone-upstreams: \"{upstreams}\"}}}}\nspec: {{serviceAccountName: {pod}, containers: [{{name: app}}]}}\nstatus: {{podIPs: [{{ip: 127.83.0.{ip}}}]}}").unwrap();
    }
    writeln!(text, "---\napiVersion: heddle.dev/v1alpha1\nkind: AuthPolicy\nmetadata: {{name: ruled, namespace: shop}}\nspec: {{selector: {{matchLabels: {{app: api}}}}, rules: [{{action: Deny, to: {{ports: [{RULED}], paths: [/admin]}}}}]}}").unwrap();
    text
}

/// Answers HTTP with HTTP, and echoes other bytes.
fn both(stream: &mut TcpStream) {
    let mut first = [0; 4];
    while matches!(stream.peek(&mut first), Ok(1..4)) {
        std::thread::yield_now();
    }
    if &first == b"GET " {
        large(stream);
    } else {
        echo(stream);
    }
}

/// Answers with the request in the body, a phrase of its own, and more headers than Envoy takes by default.
fn large(stream: &mut TcpStream) {
    let mut headers = format!("x-large: {}\r\n", "y".repeat(100_000));
    for number in 0..150 {
        let _ = write!(headers, "X-Header-{number}: {number}\r\n");
    }
    mirror_as(stream, "200 Fine By Me", &headers);
}

/// Sends these bytes and demands them back, byte by byte. The echo is not an HTTP answer: a filter that reads HTTP cannot pass it on.
fn passes(at: &str, bytes: &[u8]) -> Result<()> {
    let mut stream = connect(at)?;
    let mut sender = stream.try_clone()?;
    let sent = bytes.to_vec();
    let writer = std::thread::spawn(move || sender.write_all(&sent));
    let mut back = vec![0; bytes.len()];
    let result = stream.read_exact(&mut back);
    let head = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(80)]).into_owned();
    result.with_context(|| format!("{at}: {:?}, got {:?}", head(bytes), head(&back)))?;
    ensure!(
        back == bytes,
        "{at}: {:?} came back as {:?}",
        head(bytes),
        head(&back)
    );
    let _ = stream.shutdown(Shutdown::Both);
    let _ = writer.join();
    Ok(())
}

/// The bytes that are sent through ports without a declared protocol.
fn unusual() -> Vec<Vec<u8>> {
    let large = format!(
        "GET / HTTP/1.1\r\nHost: x\r\nx-large: {}\r\n\r\n",
        "y".repeat(8 << 20)
    );
    let texts = [
        "CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\nProxy-Connection: keep-alive\r\n\r\n\u{16}\u{3}\u{1} a tunnel",
        "GET http://example.com/x?y=1 HTTP/1.1\r\nHost: example.com\r\nProxy-Connection: keep-alive\r\n\r\n",
        "POST /containers/x/attach HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\nraw",
        "POST /exec HTTP/1.1\r\nHost: k\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n\u{0}\u{1}",
        "GET /reviews HTTP/1.0\r\n\r\n",
        "GET /reviews\r\n",
        "PROPFINDX /x HTTP/1.1\r\nHost: x\r\n\r\n",
        "get / HTTP/1.1\r\nhost: x\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /a#b HTTP/1.1\r\nHost: x\r\nHost: y\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\nabc",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nno frame of HTTP/2",
        "GET /a HTTP/1.1\nHost: x\n\n",
        "GET /b HTTP/1.1\r\nHost : x\r\n\r\nGET /c HTTP/1.0\r\n\r\nraw",
        "GET /d HTTP/1.1\r\nHost: x\r\nX-Null: a\u{0}b\r\n folded\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        "*1\r\n$4\r\nPING\r\n",
        "x",
    ];
    let mut all: Vec<Vec<u8>> = texts.iter().map(|text| text.as_bytes().to_vec()).collect();
    all.push(large.into_bytes());
    all
}

#[test]
fn requests_and_bytes_pass_as_they_were_sent() -> Result<()> {
    let (compiled, trust, folder) = (
        harness::compiled(&world()),
        Trust::new()?,
        tempfile::tempdir()?,
    );
    serve(format!("127.83.0.3:{ANY}"), echo)?;
    serve(format!("127.83.0.3:{MIXED}"), both)?;
    for port in [HTTP, RULED] {
        serve(format!("127.83.0.3:{port}"), large)?;
    }
    let _server = start_as_is(&compiled, "api", &trust, folder.path(), "127.83.0.8:9901")?;
    let _client = start_as_is(
        &compiled,
        "client",
        &trust,
        folder.path(),
        "127.83.0.9:9901",
    )?;
    undeclared()?;
    declared()?;
    rules_stay(&compiled)?;
    two_services(&compiled)
}

/// By the client's sidecar and without one.
fn undeclared() -> Result<()> {
    for host in ["127.83.0.6", "127.83.0.2"] {
        for bytes in unusual() {
            passes(&format!("{host}:{ANY}"), &bytes)?;
        }
    }
    Ok(())
}

/// The answer to these bytes.
fn answer(at: &str, request: &str) -> Result<String> {
    let mut stream = connect(at)?;
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn declared() -> Result<()> {
    for host in ["127.83.0.6", "127.83.0.2"] {
        let at = format!("{host}:{HTTP}");
        let many: String = (0..1000)
            .map(|number| format!("x-{number}: {number}\r\n"))
            .collect();
        for (request, seen) in [
            ("GET /reviews HTTP/1.0\r\n\r\n", "GET /reviews HTTP/1."),
            (
                "PROPFIND /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
                "PROPFIND /x ",
            ),
            (
                "GET /y HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, close\r\nUpgrade: tcp\r\n\r\n",
                "GET /y ",
            ),
            (
                "GET /z HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, close\r\nUpgrade: h2c\r\n\r\n",
                "GET /z ",
            ),
            (
                &format!("GET /many HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{many}\r\n"),
                "x-999: 999",
            ),
        ] {
            let got = answer(&at, request)?;
            let head = got.lines().next().unwrap_or_default();
            ensure!(
                head.ends_with(" 200 Fine By Me"),
                "{at}: {request:?}: {head}"
            );
            ensure!(got.contains(seen), "{at}: {seen:?} did not arrive: {got}");
            ensure!(
                got.contains("X-Header-149: 149") && got.len() > 100_000,
                "{at}: headers are missing"
            );
            ensure!(!got.contains("x-request-id"), "{at}: {got}");
        }
    }
    Ok(())
}

/// A rule that needs HTTP gets it, also where the port does not declare it. A finding reports a rule with HTTP fields on a port without
/// HTTP.
fn rules_stay(compiled: &Compiled) -> Result<()> {
    for host in ["127.83.0.6", "127.83.0.2"] {
        let at = format!("{host}:{RULED}");
        for (path, expected) in [("/", 200), ("/admin", 403), ("//admin", 403)] {
            let got = http(&at, "GET", path, "")?;
            ensure!(status(&got) == expected, "{at} {path}: {got}");
        }
    }
    let reported = compiled
        .findings
        .iter()
        .any(|finding| finding.code == "NotHttp");
    ensure!(reported, "{:#?}", compiled.findings);
    Ok(())
}

/// The clients of either service, by their sidecar, and without one.
fn two_services(compiled: &Compiled) -> Result<()> {
    for host in ["127.83.0.6", "127.83.0.2"] {
        passes(&format!("{host}:{MIXED}"), b"\x00\x01 raw bytes")?;
        passes(&format!("{host}:{MIXED}"), b"*1\r\n$4\r\nPING\r\n")?;
    }
    for host in ["127.83.0.7", "127.83.0.2"] {
        let got = http(&format!("{host}:{MIXED}"), "GET", "/", "")?;
        ensure!(got.starts_with("HTTP/1.1 200 Fine By Me"), "{host}: {got}");
    }
    let got = http(&format!("127.83.0.7:{MIXED}"), "GET", "/", "")?;
    ensure!(
        got.contains("URI=spiffe://cluster.local/ns/shop/sa/client"),
        "{got}"
    );
    let of = |name: &str| {
        compiled.findings.iter().any(|finding| {
            finding.code == "ProtocolConflict"
                && finding.message.contains(name)
                && finding.message.contains(&MIXED.to_string())
        })
    };
    ensure!(
        of("shop/mq ") && of("shop/mq-http "),
        "{:#?}",
        compiled.findings
    );
    Ok(())
}
