//! CONNECT and upgrades through two sidecars, on ports that declare HTTP: a forward proxy works, and policies judge it.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod harness;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::running::{Trust, connect, echo, request, serve, start};
use heddle_policy_compiler::traffic::{Request, evaluate};
use heddle_policy_compiler::{Compiled, NamespacedName};

const PROXY: u16 = 8001;
/// One service for each case, with the rules of an AuthPolicy for its port, or the rules of an HTTPRoute.
const SERVICES: [(&str, &str, &str); 8] = [
    ("plain", "", ""),
    ("denied", "{action: Deny, to: {methods: [CONNECT]}}", ""),
    (
        "target",
        "{action: Deny, to: {methods: [CONNECT], headers: [{name: host, exact: \"blocked.test:443\"}]}}",
        "",
    ),
    ("by-path", "{action: Deny, to: {paths: [/admin]}}", ""),
    ("every-path", "{action: Deny, to: {paths: [/*]}}", ""),
    ("allowed-path", "{action: Allow, to: {paths: [/*]}}", ""),
    ("routed", "", "{matches: [{path: {value: /x}}]}"),
    (
        "caught",
        "",
        "{matches: [{method: CONNECT, headers: [{name: x-a, value: b}]}]}",
    ),
];
/// The port of HTTP/2.
const HTTP2: u16 = 8099;

fn port(name: &str) -> u16 {
    let index = SERVICES.iter().position(|(own, ..)| *own == name).unwrap();
    PROXY + u16::try_from(index).unwrap()
}

fn at(name: &str) -> String {
    format!("127.114.0.6:{}", port(name))
}

fn world() -> String {
    let mut ports = vec![("second".to_owned(), HTTP2)];
    ports.extend(
        SERVICES
            .iter()
            .map(|(name, ..)| ((*name).to_owned(), port(name))),
    );
    let mut text = String::new();
    let mut upstreams = Vec::new();
    for (name, number) in &ports {
        let list = format!("[{{name: http, port: {number}}}]");
        writeln!(text, "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{clusterIP: 10.96.0.1, selector: {{app: proxy}}, ports: {list}}}").unwrap();
        writeln!(text, "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}-1, namespace: shop, labels: {{kubernetes.io/service-name: {name}}}}}\naddressType: IPv4\nports: {list}\nendpoints: [{{addresses: [127.114.0.2], targetRef: {{kind: Pod, name: proxy, namespace: shop}}}}]").unwrap();
        upstreams.push(format!("shop/{name}:{number}=127.114.0.6:{number}"));
    }
    for (name, rule, route) in SERVICES {
        if !rule.is_empty() {
            let rule = rule.replacen("to: {", &format!("to: {{ports: [{}], ", port(name)), 1);
            writeln!(text, "---\napiVersion: heddle.dev/v1alpha1\nkind: AuthPolicy\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{selector: {{matchLabels: {{app: proxy}}}}, rules: [{rule}]}}").unwrap();
        }
        if !route.is_empty() {
            let backend = format!("backendRefs: [{{name: {name}, port: {}}}]", port(name));
            let rule = route.replacen('{', &format!("{{{backend}, "), 1);
            writeln!(text, "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{parentRefs: [{{group: \"\", kind: Service, name: {name}}}], rules: [{rule}]}}").unwrap();
        }
    }
    let upstreams = upstreams.join(", ");
    for (pod, ip, app, upstreams) in [("proxy", 2, 3, ""), ("client", 4, 5, &*upstreams)] {
        writeln!(text, "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {pod}, namespace: shop, labels: {{app: {pod}}}, annotations: {{heddle.dev/standalone-app: 127.114.0.{app}, heddle.dev/standalone-upstreams: \"{upstreams}\"}}}}\nspec: {{serviceAccountName: {pod}, containers: [{{name: app}}]}}\nstatus: {{podIPs: [{{ip: 127.114.0.{ip}}}]}}").unwrap();
    }
    text
}

/// A forward proxy: a tunnel echoes behind the request as it came. It asks some callers for credentials, and others it does not know.
fn proxy(stream: &mut TcpStream) {
    let Some(head) = request(stream) else { return };
    let text = String::from_utf8_lossy(&head).to_lowercase();
    let end = head
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .unwrap()
        + 4;
    let answer = match () {
        () if text.contains("x-refuse: ") => {
            "407 Proxy Authentication Required\r\nproxy-authenticate: Basic\r\ncontent-length: 2\r\n\r\nno".to_owned()
        }
        () if text.starts_with("connect ") => "200 Connection established\r\n\r\n".to_owned(),
        () if text.contains("upgrade: ") => {
            let protocol = text.split("upgrade: ").nth(1).unwrap_or_default();
            let protocol = protocol.lines().next().unwrap_or_default();
            format!("101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: {protocol}\r\n\r\n")
        }
        () => "200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok".to_owned(),
    };
    let opens = answer.ends_with("\r\n\r\n");
    let _ = write!(stream, "HTTP/1.1 {answer}");
    if opens {
        let _ = stream.write_all(&head);
        let _ = stream.write_all(&head[end..]);
    }
    // Of one that does not open, more bytes would be the next request: the echo shows them.
    echo(stream);
}

/// The bytes that come back until `until` is among them, or the connection ends or is silent.
fn talk(stream: &mut TcpStream, bytes: &str, until: &str) -> String {
    let _ = stream.write_all(bytes.as_bytes());
    let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
    while !String::from_utf8_lossy(&seen).contains(until) {
        match stream.read(&mut buffer) {
            Ok(n @ 1..) => seen.extend_from_slice(&buffer[..n]),
            Ok(0) | Err(_) => break,
        }
    }
    String::from_utf8_lossy(&seen).into_owned()
}

fn ask(at: &str, head: &str) -> Result<String> {
    let mut stream = connect(at)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    Ok(talk(&mut stream, &format!("{head}\r\n\r\n"), "\r\n\r\n"))
}

const TARGET: &str = "CONNECT example.test:443 HTTP/1.1\r\nHost: other";

/// Bytes pass both ways, those that come with the request too, and the application sees the request as it was sent.
fn tunnel(at: &str) -> Result<()> {
    let mut stream = connect(at)?;
    let first = format!("{TARGET}\r\nProxy-Authorization: Basic eA==\r\n\r\nearly");
    let seen = talk(&mut stream, &first, "\r\n\r\nearly");
    ensure!(
        seen.starts_with("HTTP/1.1 200 Connection established\r\n"),
        "{at}: {seen}"
    );
    let head = seen.split_once("\r\n\r\n").context("no head")?.1.to_owned();
    ensure!(
        head.starts_with("CONNECT example.test:443 HTTP/1.1\r\n"),
        "{at}: {head}"
    );
    ensure!(head.contains("Host: example.test:443"), "{at}: {head}");
    ensure!(
        head.contains("Proxy-Authorization: Basic eA=="),
        "{at}: {head}"
    );
    let back = talk(&mut stream, "\u{16}\u{3}\u{1} more", "more");
    ensure!(back.ends_with("\u{16}\u{3}\u{1} more"), "{at}: {back:?}");
    Ok(())
}

fn status(answer: &str) -> u16 {
    harness::running::status(answer)
}

/// An answer other than 200 arrives, and no byte behind the request reaches the application.
fn refusals(at: &str) -> Result<()> {
    let mut stream = connect(at)?;
    let smuggled = format!("{TARGET}\r\nx-refuse: 1\r\n\r\nGET /admin HTTP/1.1\r\nHost: x\r\n\r\n");
    let seen = talk(&mut stream, &smuggled, "GET /admin");
    ensure!(
        status(&seen) == 407 && seen.contains("\r\n\r\nno"),
        "{at}: {seen}"
    );
    ensure!(!seen.contains("/admin"), "{at}: {seen}");
    for target in [
        "/admin",
        "*",
        "example.test",
        "http://a/b",
        "a/b:1",
        "x@y:1",
    ] {
        let seen = ask(at, &format!("CONNECT {target} HTTP/1.1\r\nHost: x"))?;
        ensure!(status(&seen) == 400, "{at} {target}: {seen}");
    }
    Ok(())
}

fn upgrades(at: &str) -> Result<()> {
    for (protocol, passed) in [
        ("websocket", true),
        ("SPDY/3.1", true),
        ("spdy/3.1", true),
        ("tailscale-control-protocol", true),
        ("tcp", false),
        ("h2c", false),
        ("TLS/1.0", false),
        ("irc/6.9", false),
    ] {
        let mut stream = connect(at)?;
        let head = format!(
            "POST /exec HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\r\n"
        );
        let seen = talk(&mut stream, &head, "\r\n\r\n");
        let expected = if passed { 101 } else { 200 };
        ensure!(status(&seen) == expected, "{at} {protocol}: {seen}");
        if !passed {
            continue;
        }
        let back = talk(&mut stream, "\u{0}bytes", "bytes");
        ensure!(back.ends_with("\u{0}bytes"), "{at} {protocol}: {back:?}");
        // Bytes behind a request for an upgrade that the application does not agree to are no further request.
        let mut stream = connect(at)?;
        let head = head.replace("Host: x", "Host: x\r\nx-refuse: 1");
        let seen = talk(&mut stream, &format!("{head}\u{0}GET /admin"), "GET /admin");
        ensure!(!seen.contains("/admin"), "{at} {protocol}: {seen}");
    }
    Ok(())
}

fn rules(compiled: &Compiled) -> Result<()> {
    let server = |name: &str| format!("127.114.0.2:{}", port(name));
    let blocked = "CONNECT blocked.test:443 HTTP/1.1\r\nHost: example.test:443";
    let get = "GET /x HTTP/1.1\r\nHost: x";
    for (name, head, expected) in [
        ("denied", TARGET, 403),
        ("denied", get, 200),
        ("target", TARGET, 200),
        ("target", blocked, 403),
        ("by-path", TARGET, 200),
        ("every-path", TARGET, 403),
        ("every-path", get, 403),
        ("allowed-path", TARGET, 403),
        ("allowed-path", get, 200),
    ] {
        // By the client's sidecar, and without one.
        for at in [at(name), server(name)] {
            let seen = ask(&at, head)?;
            ensure!(status(&seen) == expected, "{at} {name} {head}: {seen}");
        }
    }
    for (name, headers, expected) in [
        ("routed", "", 404),
        ("caught", "", 404),
        ("caught", "\r\nx-a: b", 200),
    ] {
        let seen = ask(&at(name), &format!("{TARGET}{headers}"))?;
        ensure!(status(&seen) == expected, "{name}: {seen}");
        let service = NamespacedName::new("shop", name);
        let (_, table) = compiled.route_tables(&service).next().context("no table")?;
        let lines = headers.lines().filter_map(|line| line.split_once(": "));
        let request = Request {
            host: "example.test:443".to_owned(),
            method: "CONNECT".to_owned(),
            path: "/x".to_owned(),
            headers: lines.map(|(n, v)| (n.to_owned(), v.to_owned())).collect(),
        };
        let taken = evaluate(table, &request).is_some();
        ensure!(taken == (expected == 200), "{name}: {taken}");
    }
    Ok(())
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    [&[0, 0, length, kind, flags, 0, 0, 0, stream], payload].concat()
}

/// The next frame: kind, flags, stream, payload.
fn next(stream: &mut TcpStream) -> std::io::Result<(u8, u8, u8, Vec<u8>)> {
    let mut head = [0; 9];
    stream.read_exact(&mut head)?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut payload = vec![0; usize::try_from(length).unwrap()];
    stream.read_exact(&mut payload)?;
    Ok((head[3], head[4], head[8], payload))
}

/// A proxy of HTTP/2: it answers each request with 200 (`:status: 200` of the static table), and echoes the bytes behind it.
fn second(stream: &mut TcpStream) {
    let mut preface = [0; PREFACE.len()];
    if stream.read_exact(&mut preface).is_err() {
        return;
    }
    let _ = stream.write_all(&frame(4, 0, 0, &[]));
    while let Ok((kind, flags, id, payload)) = next(stream) {
        let answer = match kind {
            0 => frame(0, 0, id, &payload),
            1 => frame(1, 4, id, &[0x88]),
            4 if flags == 0 => frame(4, 1, 0, &[]),
            _ => continue,
        };
        let _ = stream.write_all(&answer);
    }
}

/// A tunnel by HTTP/2 from end to end.
fn by_http2() -> Result<()> {
    let mut block = Vec::new();
    for text in [":method", "CONNECT", ":authority", "example.test:443"] {
        if text.starts_with(':') {
            block.push(0);
        }
        block.push(u8::try_from(text.len())?);
        block.extend(text.as_bytes());
    }
    let mut stream = connect(&format!("127.114.0.6:{HTTP2}"))?;
    let mut sent = PREFACE.to_vec();
    sent.extend(frame(4, 0, 0, &[]));
    sent.extend(frame(1, 4, 1, &block));
    sent.extend(frame(0, 0, 1, b"\x16bytes"));
    stream.write_all(&sent)?;
    let mut answered = false;
    loop {
        let (kind, flags, _, payload) = next(&mut stream).context("no echo")?;
        match kind {
            0 => {
                ensure!(answered && payload == b"\x16bytes", "{payload:?}");
                return Ok(());
            }
            // The first update of the table's size may come before the fields.
            1 => answered = payload.iter().find(|b| **b & 0xe0 != 0x20) == Some(&0x88),
            3 | 7 => anyhow::bail!("refused: {payload:?}"),
            4 if flags == 0 => stream.write_all(&frame(4, 1, 0, &[]))?,
            _ => {}
        }
    }
}

#[test]
fn a_forward_proxy_works_behind_a_port_with_http_and_policies_judge_it() -> Result<()> {
    let compiled = harness::compiled(&world());
    // An Allow rule for one port leaves the others open; this finding is expected.
    let mut findings = compiled.findings.iter();
    ensure!(
        findings.all(|of| of.code == "OpenPorts"),
        "{:#?}",
        compiled.findings
    );
    let (trust, folder) = (Trust::new()?, tempfile::tempdir()?);
    for (name, ..) in SERVICES {
        serve(format!("127.114.0.3:{}", port(name)), proxy)?;
    }
    serve(format!("127.114.0.3:{HTTP2}"), second)?;
    let none = BTreeSet::new();
    let start = |pod, admin| {
        start(
            &compiled,
            (pod, &none),
            &trust,
            folder.path(),
            admin,
            |_| (),
        )
    };
    let _server = start("proxy", "127.114.0.8:9901")?;
    let _client = start("client", "127.114.0.9:9901")?;
    for at in [at("plain"), format!("127.114.0.2:{PROXY}")] {
        tunnel(&at)?;
        refusals(&at)?;
        upgrades(&at)?;
    }
    by_http2()?;
    rules(&compiled)
}
