//! The CA's certificates pass the checks of rustls and webpki, which are not this project's code: mutual TLS in memory.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use heddle_identity::{Ca, Issued, SpiffeId, TrustDomain, WorkloadKey};
use rustls::client::WebPkiServerVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

const HOUR: Duration = Duration::from_secs(3600);

fn roots(ca: &Ca) -> Arc<RootCertStore> {
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca.trust_bundle().as_bytes()) {
        store.add(certificate.unwrap()).unwrap();
    }
    Arc::new(store)
}

fn workload(ca: &Ca, account: &str, lifetime: Duration, now: SystemTime) -> (Issued, WorkloadKey) {
    let domain: TrustDomain = "cluster.local".parse().unwrap();
    let id = SpiffeId::new(domain, "shop", account).unwrap();
    let key = WorkloadKey::generate().unwrap();
    (
        ca.issue(&key.csr(&id).unwrap(), &id, "cart-1", lifetime, now)
            .unwrap(),
        key,
    )
}

/// The URI names the server saw of the client, or the first error of either side.
fn handshake(
    server_ca: &Ca,
    client_ca: &Ca,
    client: (Issued, WorkloadKey),
    name: &str,
) -> Result<Vec<String>, rustls::Error> {
    let domain: TrustDomain = "cluster.local".parse().unwrap();
    let dns = ["heddle-operator.heddle-system.svc".to_owned()];
    let ips: [IpAddr; 2] = ["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()];
    let own = server_ca
        .server_certificate(
            &dns,
            &ips,
            &SpiffeId::control_plane(domain),
            HOUR,
            SystemTime::now(),
        )
        .unwrap();
    let verifier = WebPkiClientVerifier::builder(roots(client_ca))
        .build()
        .unwrap();
    let server = ServerConfig::builder()
        .with_client_cert_verifier(verifier)
        .with_single_cert(own.issued.chain, own.key.private_key_der())?;
    let config = ClientConfig::builder()
        .with_webpki_verifier(
            WebPkiServerVerifier::builder(roots(server_ca))
                .build()
                .unwrap(),
        )
        .with_client_auth_cert(client.0.chain, client.1.private_key_der())?;
    let mut client = ClientConnection::new(
        Arc::new(config),
        ServerName::try_from(name.to_owned()).unwrap(),
    )?;
    let mut server = ServerConnection::new(Arc::new(server))?;
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        server.read_tls(&mut wire.as_slice()).unwrap();
        server.process_new_packets()?;
        wire.clear();
        server.write_tls(&mut wire).unwrap();
        client.read_tls(&mut wire.as_slice()).unwrap();
        client.process_new_packets()?;
    }
    let (_, leaf) = X509Certificate::from_der(&server.peer_certificates().unwrap()[0]).unwrap();
    let names = &leaf
        .subject_alternative_name()
        .unwrap()
        .unwrap()
        .value
        .general_names;
    Ok(names
        .iter()
        .map(|n| match n {
            GeneralName::URI(u) => (*u).to_owned(),
            n => format!("{n:?}"),
        })
        .collect())
}

fn ca() -> Ca {
    Ca::create(&"cluster.local".parse().unwrap(), SystemTime::now())
        .unwrap()
        .0
}

#[test]
fn both_sides_know_each_other() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    for name in ["heddle-operator.heddle-system.svc", "127.0.0.1", "::1"] {
        let ca = ca();
        let client = workload(&ca, "cart", HOUR, SystemTime::now());
        let names = handshake(&ca, &ca, client, name).unwrap();
        assert_eq!(names, ["spiffe://cluster.local/ns/shop/sa/cart"]);
    }
}

#[test]
fn strangers_and_the_expired_are_refused() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let now = SystemTime::now();
    let (ca, foreign) = (ca(), ca());
    let (fresh, other) = (
        workload(&ca, "cart", HOUR, now),
        workload(&foreign, "cart", HOUR, now),
    );
    assert!(
        handshake(&ca, &ca, other, "127.0.0.1").is_err(),
        "a client of another root"
    );
    assert!(
        handshake(&ca, &ca, fresh, "127.0.0.2").is_err(),
        "a server of another address"
    );
    let (ca_long_ago, _) = Ca::create(&"cluster.local".parse().unwrap(), now - HOUR * 24).unwrap();
    let old = workload(&ca_long_ago, "cart", HOUR, now - HOUR * 2);
    assert!(
        handshake(&ca, &ca_long_ago, old, "127.0.0.1").is_err(),
        "an expired client"
    );
}

#[test]
fn a_clock_a_little_behind_accepts_a_fresh_leaf() {
    let ca = ca();
    let (issued, _) = workload(&ca, "cart", HOUR, SystemTime::now());
    let verifier = WebPkiClientVerifier::builder_with_provider(
        roots(&ca),
        rustls::crypto::ring::default_provider().into(),
    )
    .build()
    .unwrap();
    let at = |t: SystemTime| {
        UnixTime::since_unix_epoch(t.duration_since(SystemTime::UNIX_EPOCH).unwrap())
    };
    let behind = SystemTime::now() - Duration::from_secs(240);
    verifier
        .verify_client_cert(&issued.chain[0], &[], at(behind))
        .unwrap();
    let too_far = SystemTime::now() - Duration::from_secs(600);
    assert!(
        verifier
            .verify_client_cert(&issued.chain[0], &[], at(too_far))
            .is_err()
    );
}
