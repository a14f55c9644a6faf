//! Requests as bytes: the tests also send requests that HTTP libraries would not send.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use anyhow::Result;

use super::harness::running::connect;
use super::random::{Call, Http};

/// An answer of the server's sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Passed,
    Denied,
    /// Envoy refused the request as malformed, before any rule.
    Malformed,
}

/// The bytes that an application sends to each connection before it reads.
pub const GREETING: &[u8] = b"220 hello\r\n";

/// Sends a call. A `silent` caller of bytes only listens.
pub fn send(at: &str, call: &Call, silent: bool, kept: &mut Option<TcpStream>) -> Result<Answer> {
    match &call.http {
        None if silent => listens(at),
        None => bytes(at),
        Some(http) if http.version2 => version2(at, http),
        Some(http) => {
            // A kept connection may have been closed after the answer before.
            let reused = kept.is_some();
            match version1(at, http, kept)? {
                None if reused => Ok(version1(at, http, kept)?.unwrap_or(Answer::Malformed)),
                answer => Ok(answer.unwrap_or(Answer::Malformed)),
            }
        }
    }
}

/// Waits for the end of a connection, and demands that no byte comes before.
fn listens(at: &str) -> Result<Answer> {
    let mut heard = Vec::new();
    let ended = connect(at)?.read_to_end(&mut heard);
    // Envoy may end it by a reset.
    let waits = ended.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
    Ok(if heard.is_empty() && !waits {
        Answer::Denied
    } else {
        Answer::Passed
    })
}

/// The application greets, and echoes its input.
fn bytes(at: &str) -> Result<Answer> {
    let mut stream = connect(at)?;
    let (mut greeting, mut buffer) = ([0; GREETING.len()], [0; 4]);
    let echoed = stream
        .write_all(b"ping")
        .and_then(|()| stream.read_exact(&mut greeting))
        .and_then(|()| stream.read_exact(&mut buffer));
    // To the end of the connection, so that the server's sidecar writes its log in the order of calls.
    let _ = stream.shutdown(Shutdown::Write);
    let _ = stream.read_to_end(&mut Vec::new());
    Ok(if echoed.is_ok() && &buffer == b"ping" {
        Answer::Passed
    } else {
        Answer::Denied
    })
}

fn version1(at: &str, http: &Http, kept: &mut Option<TcpStream>) -> Result<Option<Answer>> {
    let mut stream = kept.take().map_or_else(|| connect(at), Ok)?;
    let mut text = format!(
        "{} {} HTTP/1.1\r\nhost: {}\r\n",
        http.method, http.path, http.host
    );
    for (name, value) in &http.headers {
        text += &format!("{name}: {value}\r\n");
    }
    text += "\r\n";
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    if stream.write_all(text.as_bytes()).is_err() {
        return Ok(None);
    }
    loop {
        let seen = String::from_utf8_lossy(&answer).to_lowercase();
        if let Some((head, body)) = seen.split_once("\r\n\r\n") {
            let field = |name: &str| head.split(&format!("\r\n{name}: ")).nth(1)?.lines().next();
            let length = field("content-length")
                .and_then(|l| l.parse().ok())
                .unwrap_or(0);
            if body.len() >= length {
                if field("connection") != Some("close") {
                    *kept = Some(stream);
                }
                return Ok(Some(match head.split(' ').nth(1) {
                    Some("200") => Answer::Passed,
                    Some("403") => Answer::Denied,
                    _ => Answer::Malformed,
                }));
            }
        }
        match stream.read(&mut buffer) {
            Ok(n @ 1..) => answer.extend_from_slice(&buffer[..n]),
            Ok(0) | Err(_) => return Ok(None),
        }
    }
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const GO_AWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;
/// `:status: 200` of HPACK's static table.
const STATUS_200: u8 = 0x88;

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags, 0, 0, 0, stream]);
    frame.extend(payload);
    frame
}

/// A string without Huffman coding.
fn literal(block: &mut Vec<u8>, text: &str) {
    let mut length = text.len();
    if length < 127 {
        block.push(u8::try_from(length).unwrap());
    } else {
        block.push(127);
        length -= 127;
        while length >= 128 {
            block.push(u8::try_from(length % 128).unwrap() | 128);
            length /= 128;
        }
        block.push(u8::try_from(length).unwrap());
    }
    block.extend(text.as_bytes());
}

fn version2(at: &str, http: &Http) -> Result<Answer> {
    let pseudo = [
        (":method", &*http.method),
        (":scheme", "http"),
        (":authority", &*http.host),
        (":path", &*http.path),
    ];
    let fields = http.headers.iter().map(|(name, value)| (&**name, &**value));
    let mut block = Vec::new();
    for (name, value) in pseudo.into_iter().chain(fields) {
        block.push(0);
        literal(&mut block, name);
        literal(&mut block, value);
    }
    // Without a table the answer's first byte shows its status.
    let no_table = [0, 1, 0, 0, 0, 0];
    let mut sent = PREFACE.to_vec();
    sent.extend(frame(SETTINGS, 0, 0, &no_table));
    sent.extend(frame(HEADERS, END_STREAM | END_HEADERS, 1, &block));
    let mut stream = connect(at)?;
    if stream.write_all(&sent).is_err() {
        return Ok(Answer::Malformed);
    }
    let (mut passed, mut body) = (false, Vec::new());
    loop {
        let mut head = [0; 9];
        if stream.read_exact(&mut head).is_err() {
            return Ok(Answer::Malformed);
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length)?];
        if stream.read_exact(&mut payload).is_err() {
            return Ok(Answer::Malformed);
        }
        match head[3] {
            // The first update of the table's size comes before the fields.
            HEADERS => passed |= payload.iter().find(|b| **b & 0xe0 != 0x20) == Some(&STATUS_200),
            DATA => body.extend(&payload),
            RESET | GO_AWAY => return Ok(Answer::Malformed),
            SETTINGS if head[4] & ACK == 0 => stream.write_all(&frame(SETTINGS, ACK, 0, &[]))?,
            _ => {}
        }
        if matches!(head[3], HEADERS | DATA) && head[4] & END_STREAM != 0 {
            let denied = body.starts_with(b"RBAC: access denied");
            return Ok(match (passed, denied) {
                (true, _) => Answer::Passed,
                (false, true) => Answer::Denied,
                (false, false) => Answer::Malformed,
            });
        }
    }
}
