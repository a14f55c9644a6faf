//! TLS that the sidecar begins: the application speaks HTTP, and the host sees HTTPS for its own name, or nothing.

use std::io::Write;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::cluster::external_service;
use crate::harness::running::{Trust, status};
use crate::servers::{Names, Received, dns, https};
use crate::sidecar::{Sidecar, server_of};
use crate::{NOTHING, PORT, compiled};

/// The port at which the hosts listen for TLS.
const TLS_PORT: u16 = 9444;
const NAMES: Names = &[
    ("secure.example.com", Ipv4Addr::new(127, 96, 1, 11)),
    // Its server has the certificate of another name.
    ("stolen.example.com", Ipv4Addr::new(127, 96, 1, 12)),
    // Its server has a certificate of an authority that no object names.
    ("forged.example.com", Ipv4Addr::new(127, 96, 1, 13)),
    // No object names its authority, so public authorities count.
    ("public.example.com", Ipv4Addr::new(127, 96, 1, 11)),
];

fn by_tls(name: &str, hosts: &[&str], authorities: Option<&str>) -> Value {
    let mut tls = json!({"port": TLS_PORT});
    if let Some(pem) = authorities {
        tls["caCertificates"] = json!(pem);
    }
    let ports = json!([{"port": PORT, "protocol": "HTTP", "tls": tls}]);
    external_service(name, json!({"hosts": hosts, "ports": ports}))
}

#[test]
fn tls_begins_at_the_sidecar_and_the_certificate_must_have_the_name() -> Result<()> {
    let (trust, other) = (Trust::new()?, Trust::new()?);
    let (at, _) = dns(NAMES)?;
    let secure = https("127.96.1.11:9444", &trust, "secure.example.com")?;
    let stolen = https("127.96.1.12:9444", &trust, "secure.example.com")?;
    let forged = https("127.96.1.13:9444", &other, "forged.example.com")?;
    let hosts = [
        "secure.example.com",
        "stolen.example.com",
        "forged.example.com",
    ];
    let objects = [
        by_tls("named", &hosts, Some(trust.ca())),
        by_tls("public", &["public.example.com"], None),
    ];
    let sidecar = Sidecar::start(&compiled("Deny", &objects), "127.96.1.2", at)?;
    for host in ["secure.example.com", "secure.example.com:9443"] {
        let answer = sidecar.get(NOTHING, host)?;
        ensure!(server_of(&answer) == Some("tls"), "{host}: {answer}");
        let request = secure.lock().unwrap().pop().unwrap();
        ensure!(request.sni == "secure.example.com", "{request:?}");
        ensure!(request.alpn == "http/1.1", "{request:?}");
        ensure!(!request.resumed, "{request:?}");
        let head = request.bytes.to_lowercase();
        ensure!(
            head.contains("\r\nhost: secure.example.com:9444\r\n"),
            "{head}"
        );
        for header in ["x-forwarded-proto", "x-heddle"] {
            ensure!(!head.contains(header), "{header} got out: {head}");
        }
    }
    for host in [
        "stolen.example.com",
        "forged.example.com",
        "public.example.com",
    ] {
        let answer = sidecar.get(NOTHING, host)?;
        ensure!(status(&answer) == 503, "{host}: {answer}");
        ensure!(
            answer.contains("CERTIFICATE_VERIFY_FAILED"),
            "{host}: {answer}"
        );
    }
    for (name, server) in [
        ("secure", &secure),
        ("stolen", &stolen),
        ("forged", &forged),
    ] {
        let got = server.lock().unwrap();
        ensure!(got.is_empty(), "{name} got {got:?}");
    }
    // HTTP/2 of the application stays HTTP/2.
    let mut stream = sidecar.connect(NOTHING)?;
    stream.write_all(&http2("secure.example.com"))?;
    let deadline = Instant::now() + Duration::from_secs(30);
    // The server answers as of HTTP/1.1, so that more than the preface may come.
    let is_http2 = |of: &Received| of.alpn == "h2" && of.bytes.starts_with("PRI * HTTP/2.0");
    while !secure.lock().unwrap().iter().any(is_http2) {
        ensure!(Instant::now() < deadline, "no request by HTTP/2");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// The preface of HTTP/2, settings, and a request.
fn http2(host: &str) -> Vec<u8> {
    let length = u8::try_from(host.len()).unwrap();
    // By the static table of HPACK: GET, /, http, and a literal for :authority.
    let mut headers = vec![0x82, 0x84, 0x86, 0x41, length];
    headers.extend_from_slice(host.as_bytes());
    let settings: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    let frame = [0, 0, length + 5, 1, 5, 0, 0, 0, 1];
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        settings,
        &frame,
        &headers,
    ]
    .concat()
}
