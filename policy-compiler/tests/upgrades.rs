//! Upgrades and CONNECT through two sidecars, on ports that declare HTTP: known upgrades pass, and nothing else becomes a tunnel.

#![allow(clippy::indexing_slicing, reason = "tests")]

mod harness;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, ensure};
use harness::running::{Trust, connect, request, serve, start_as_is, status};

const WORLD: &str = include_str!("upgrades/world.yaml");
/// The server of the client's sidecar, with and without an HTTPRoute for every path, and the server's own sidecar.
const PLACES: [&str; 3] = ["127.114.0.6:8001", "127.114.0.6:8002", "127.114.0.2:8001"];

/// Every byte that the application has received.
static RECEIVED: Mutex<Vec<u8>> = Mutex::new(Vec::new());

fn received() -> String {
    let bytes = RECEIVED.lock().unwrap_or_else(PoisonError::into_inner);
    String::from_utf8_lossy(&bytes).into_owned()
}

fn record(bytes: &[u8]) {
    let mut received = RECEIVED.lock().unwrap_or_else(PoisonError::into_inner);
    received.extend_from_slice(bytes);
}

/// Agrees to upgrades unless the request has `x-refuse`, and echoes the bytes that follow. It answers every other request with 200 and a body, and
/// keeps the connection, as many applications answer CONNECT.
fn application(stream: &mut TcpStream) {
    while let Some(head) = request(stream) {
        record(&head);
        let text = String::from_utf8_lossy(&head).to_lowercase();
        let protocol = text
            .split("upgrade: ")
            .nth(1)
            .and_then(|of| of.lines().next());
        let Some(protocol) = protocol.filter(|_| !text.contains("x-refuse: ")) else {
            if stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                .is_err()
            {
                return;
            }
            continue;
        };
        let agreed = format!(
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: {protocol}\r\n\r\n"
        );
        let _ = stream.write_all(agreed.as_bytes());
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = stream.read(&mut buffer) {
            record(&buffer[..n]);
            let _ = stream.write_all(&buffer[..n]);
        }
        return;
    }
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

fn caller(at: &str) -> Result<TcpStream> {
    let stream = connect(at)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    Ok(stream)
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
        let mut stream = caller(at)?;
        let head = format!(
            "GET /exec HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\r\n"
        );
        let seen = talk(&mut stream, &head, "\r\n\r\n");
        let expected = if passed { 101 } else { 200 };
        ensure!(status(&seen) == expected, "{at} {protocol}: {seen}");
        if !passed {
            continue;
        }
        let back = talk(&mut stream, "\u{0}bytes", "bytes");
        ensure!(back.ends_with("\u{0}bytes"), "{at} {protocol}: {back:?}");
        // Bytes behind a request for an upgrade that the application does not agree to are not a further request.
        let mut stream = caller(at)?;
        let head = head.replace("Host: x", "Host: x\r\nx-refuse: 1");
        talk(
            &mut stream,
            &format!("{head}\u{0}GET /smuggled HTTP/1.1\r\n\r\n"),
            "never",
        );
        ensure!(!received().contains("/smuggled"), "{at} {protocol}");
    }
    Ok(())
}

/// No tunnel opens. An application that answers CONNECT as any other request would take the bytes of a tunnel for further requests.
fn tunnels(at: &str) -> Result<()> {
    for target in ["example.test:443", "127.0.0.1:15000", "/admin", "*"] {
        let mut stream = caller(at)?;
        let head = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
        let seen = talk(&mut stream, &head, "\r\n\r\n");
        ensure!(status(&seen) >= 400, "{at} {target}: {seen}");
        let received = received();
        ensure!(!received.contains("CONNECT"), "{at} {target}: {received}");
    }
    Ok(())
}

#[test]
fn known_upgrades_pass_and_nothing_else_becomes_a_tunnel() -> Result<()> {
    let compiled = harness::compiled(WORLD);
    ensure!(compiled.findings.is_empty(), "{:#?}", compiled.findings);
    let (trust, folder) = (Trust::new()?, tempfile::tempdir()?);
    serve("127.114.0.3:8001".to_owned(), application)?;
    let start = |pod, admin| start_as_is(&compiled, pod, &trust, folder.path(), admin);
    let _server = start("server", "127.114.0.8:9901")?;
    let _client = start("client", "127.114.0.9:9901")?;
    for at in PLACES {
        tunnels(at)?;
        upgrades(at)?;
    }
    Ok(())
}
