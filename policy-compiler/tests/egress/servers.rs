//! Servers outside the mesh, and the DNS server that resolves their names.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};

use anyhow::Result;
use rustls::{HandshakeKind, ServerConfig, ServerConnection, StreamOwned};

use crate::PORT;
use crate::harness::running::{Trust, request, serve};
use crate::harness::tls;

/// A server with a name: it answers requests with the request, and TLS with its name for every byte.
pub fn server(ip: &str, name: &'static str) -> Result<()> {
    let own = rcgen::generate_simple_self_signed(vec![name.to_owned()])?;
    let (chain, key) = tls::pair(&own.cert.pem(), &own.signing_key.serialize_pem());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    let config = Arc::new(config);
    serve(format!("{ip}:{PORT}"), move |stream| {
        let mut first = [0];
        match stream.peek(&mut first) {
            Ok(1) if first == *b"G" => {
                while let Some(seen) = request(stream) {
                    let length = seen.len();
                    let head = format!(
                        "HTTP/1.1 200 OK\r\nx-server: {name}\r\ncontent-length: {length}\r\n\r\n"
                    );
                    let _ = stream.write_all(&[head.as_bytes(), &seen].concat());
                }
            }
            Ok(1) => {
                let server = ServerConnection::new(Arc::clone(&config)).unwrap();
                let mut stream = StreamOwned::new(server, stream);
                let mut buffer = [0; 64];
                while let Ok(1..) = stream.read(&mut buffer) {
                    let _ = stream.write_all(name.as_bytes());
                }
            }
            _ => {}
        }
    })
}

/// A DNS server that resolves these names, and the names that it was asked for.
pub fn dns(names: Names) -> Result<(SocketAddr, Arc<Mutex<BTreeSet<String>>>)> {
    let socket = UdpSocket::bind("127.96.0.53:0")?;
    let (at, asked) = (socket.local_addr()?, Arc::<Mutex<BTreeSet<_>>>::default());
    let seen = Arc::clone(&asked);
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((n, from)) = socket.recv_from(&mut buffer) {
            let Some((name, end)) = question(&buffer[..n]) else {
                continue;
            };
            // Type A, class IN.
            let is_a = buffer[end..].starts_with(&[0, 1, 0, 1]);
            let addresses = names.iter().filter(|(of, _)| is_a && *of == name);
            let addresses: Vec<Ipv4Addr> = addresses.map(|(_, address)| *address).collect();
            let known = names.iter().any(|(known, _)| *known == name);
            seen.lock().unwrap().insert(name);
            let mut answer = buffer[..end + 4].to_vec();
            answer[2] = 0x85;
            answer[3] = if known { 0x80 } else { 0x83 };
            answer[4..12].copy_from_slice(&[
                0,
                1,
                0,
                u8::try_from(addresses.len()).unwrap(),
                0,
                0,
                0,
                0,
            ]);
            for address in addresses {
                answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
                answer.extend_from_slice(&address.octets());
            }
            let _ = socket.send_to(&answer, from);
        }
    });
    Ok((at, asked))
}

/// The name of the first question of a query, and the place behind the name.
pub fn question(query: &[u8]) -> Option<(String, usize)> {
    let (mut labels, mut at) = (Vec::new(), 12);
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            return Some((labels.join(".").to_lowercase(), at));
        }
        labels.push(String::from_utf8_lossy(query.get(at..at + length)?).into_owned());
        at += length;
    }
}

/// The names that a DNS server resolves.
pub type Names = &'static [(&'static str, Ipv4Addr)];

/// A request, as a server got it by TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Received {
    pub sni: String,
    pub alpn: String,
    /// Whether the TLS session was resumed, so that the server showed no certificate.
    pub resumed: bool,
    pub bytes: String,
}

/// A server of HTTP by TLS with a certificate for a name, and the requests that it got. It answers HTTP/1.1 alone, resumes sessions, and takes
/// one request by a connection.
pub fn https(at: &str, trust: &Trust, name: &str) -> Result<Arc<Mutex<Vec<Received>>>> {
    let (chain, key) = trust.issue_for(name)?;
    let (chain, key) = tls::pair(&chain, &key);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let (config, all) = (Arc::new(config), Arc::<Mutex<Vec<Received>>>::default());
    let received = Arc::clone(&all);
    serve(at.to_owned(), move |stream| {
        let server = ServerConnection::new(Arc::clone(&config)).unwrap();
        let mut stream = StreamOwned::new(server, stream);
        let mut buffer = [0; 1 << 16];
        if let Ok(n @ 1..) = stream.read(&mut buffer) {
            let text = |bytes: Option<&[u8]>| {
                String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned()
            };
            let kind = stream.conn.handshake_kind();
            received.lock().unwrap().push(Received {
                sni: stream.conn.server_name().unwrap_or_default().to_owned(),
                alpn: text(stream.conn.alpn_protocol()),
                resumed: kind == Some(HandshakeKind::Resumed),
                bytes: text(Some(&buffer[..n])),
            });
            let answer = "HTTP/1.1 200 OK\r\nx-server: tls\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
            let _ = stream.write_all(answer.as_bytes());
            stream.conn.send_close_notify();
            let _ = stream.flush();
        }
    })?;
    Ok(all)
}
