//! The control plane's own certificates: issued by its own CA, renewed in place, never written to disk.

use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use heddle_identity::{Ca, CaError, Jitter, RotationPlan, SpiffeId, TrustDomain};
use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use tokio_util::sync::CancellationToken;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::tasks::{Ended, chain};

const LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// After a failed renewal; two thirds of the certificate's life remain for tries.
const RETRY: Duration = Duration::from_secs(30);

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum CertError {
    /// The CA did not sign.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// rustls did not accept the certificate of the CA.
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
}

fn tls(error: impl std::fmt::Display) -> CertError {
    CertError::Tls(error.to_string())
}

/// The certificate of all listeners, with a renewal that reaches them without a restart.
#[derive(Debug)]
pub struct OwnCertificate {
    ca: Arc<Ca>,
    id: SpiffeId,
    ips: Vec<IpAddr>,
    current: RwLock<(Arc<CertifiedKey>, RotationPlan)>,
}

impl OwnCertificate {
    /// A first certificate.
    ///
    /// # Errors
    /// When the CA does not sign.
    pub fn issue(
        ca: Arc<Ca>,
        trust_domain: TrustDomain,
        ips: Vec<IpAddr>,
    ) -> Result<Self, CertError> {
        let id = SpiffeId::control_plane(trust_domain);
        let current = RwLock::new(issue(&ca, &id, &ips)?);
        Ok(Self {
            ca,
            id,
            ips,
            current,
        })
    }

    /// Renews the certificate well before its end, for as long as the process lives.
    ///
    /// # Errors
    /// Never: a failed renewal is logged and tried again.
    pub async fn rotate(self: Arc<Self>, stop: CancellationToken) -> Ended {
        loop {
            let plan = self
                .current
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .1;
            if let Some(sleep) = plan.sleep(SystemTime::now(), Jitter::NONE) {
                tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    () = tokio::time::sleep(sleep) => continue,
                }
            }
            match issue(&self.ca, &self.id, &self.ips) {
                Ok(fresh) => {
                    *self.current.write().unwrap_or_else(PoisonError::into_inner) = fresh;
                    tracing::info!("the control plane's own certificate was renewed");
                }
                Err(error) => {
                    tracing::error!(
                        error = chain(&error),
                        "the control plane's own certificate could not be renewed"
                    );
                    tokio::select! {
                        () = stop.cancelled() => return Ok(()),
                        () = tokio::time::sleep(RETRY) => {}
                    }
                }
            }
        }
    }

    /// TLS that asks the client for nothing.
    ///
    /// # Errors
    /// When rustls refuses the setup.
    pub fn server(self: &Arc<Self>, alpn: &[&str]) -> Result<Arc<ServerConfig>, CertError> {
        let config = builder()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::<Self>::clone(self));
        Ok(with_alpn(config, alpn))
    }

    /// TLS that demands a certificate of this CA.
    ///
    /// # Errors
    /// When rustls refuses the setup.
    pub fn mutual(self: &Arc<Self>, alpn: &[&str]) -> Result<Arc<ServerConfig>, CertError> {
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(self.ca.trust_bundle().as_bytes()) {
            roots.add(root.map_err(tls)?).map_err(tls)?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .map_err(tls)?;
        let config = builder()?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::<Self>::clone(self));
        Ok(with_alpn(config, alpn))
    }
}

impl ResolvesServerCert for OwnCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(
            &self
                .current
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .0,
        ))
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn builder() -> Result<rustls::ConfigBuilder<ServerConfig, rustls::WantsVerifier>, CertError> {
    ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(tls)
}

fn with_alpn(mut config: ServerConfig, alpn: &[&str]) -> Arc<ServerConfig> {
    config.alpn_protocols = alpn
        .iter()
        .map(|protocol| protocol.as_bytes().to_vec())
        .collect();
    // A resumed session would skip the check of a certificate that may be over by now.
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Arc::new(config)
}

fn issue(
    ca: &Ca,
    id: &SpiffeId,
    ips: &[IpAddr],
) -> Result<(Arc<CertifiedKey>, RotationPlan), CertError> {
    let now = SystemTime::now();
    let names = [
        "heddle.heddle-system.svc.cluster.local",
        "heddle.heddle-system.svc",
        "heddle.heddle-system",
        "localhost",
    ];
    let server = ca.server_certificate(&names.map(str::to_owned), ips, id, LIFETIME, now)?;
    let key = provider()
        .key_provider
        .load_private_key(server.key.private_key_der())
        .map_err(tls)?;
    let plan = RotationPlan::new(now, server.issued.not_after);
    Ok((Arc::new(CertifiedKey::new(server.issued.chain, key)), plan))
}

/// The reason for which a certificate does not identify its bearer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WhoError {
    /// No certificate.
    #[error("no certificate was presented")]
    Missing,
    /// Not parseable, or without exactly one URI.
    #[error("the certificate does not hold exactly one URI")]
    NotOne,
    /// The URI is not an identity of this mesh.
    #[error("{0}")]
    NotOurs(String),
}

/// The holder in a certificate that the TLS handshake has verified, as [`heddle_identity::holder_of`] writes it. `None`: the
/// certificate was issued before certificates named their pods.
#[must_use]
pub fn holder_in(chain: &[CertificateDer<'_>]) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(chain.first()?).ok()?;
    let mut names = certificate.subject().iter_common_name();
    names.next()?.as_str().ok().map(str::to_owned)
}

/// The identity in a certificate that the TLS handshake has verified.
///
/// # Errors
/// When there is no certificate, or it names no single identity of the trust domain.
pub fn identity_of(
    chain: &[CertificateDer<'_>],
    trust_domain: &TrustDomain,
) -> Result<SpiffeId, WhoError> {
    let leaf = chain.first().ok_or(WhoError::Missing)?;
    let (_, certificate) = X509Certificate::from_der(leaf).map_err(|_| WhoError::NotOne)?;
    let names = certificate
        .subject_alternative_name()
        .ok()
        .flatten()
        .ok_or(WhoError::NotOne)?;
    let mut uris = names
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
    let (Some(uri), None) = (uris.next(), uris.next()) else {
        return Err(WhoError::NotOne);
    };
    let id: SpiffeId = uri
        .parse()
        .map_err(|error: heddle_identity::SpiffeError| WhoError::NotOurs(error.to_string()))?;
    if id.trust_domain() == trust_domain {
        Ok(id)
    } else {
        Err(WhoError::NotOurs(format!(
            "`{id}` is not of the trust domain `{trust_domain}`"
        )))
    }
}

#[cfg(test)]
mod tests {
    use heddle_identity::WorkloadKey;

    use super::*;

    #[test]
    fn the_identity_is_read_from_a_certificate_of_the_ca() {
        let domain: TrustDomain = "cluster.local".parse().unwrap();
        let (ca, _) = Ca::create(&domain, SystemTime::now()).unwrap();
        let id = SpiffeId::new(domain.clone(), "shop", "cart").unwrap();
        let csr = WorkloadKey::generate().unwrap().csr(&id).unwrap();
        let now = SystemTime::now();
        let issued = ca.issue(&csr, &id, "cart-1", LIFETIME, now).unwrap();
        assert_eq!(identity_of(&issued.chain, &domain), Ok(id));
        assert_eq!(holder_in(&issued.chain).as_deref(), Some("cart-1"));
        assert_eq!(holder_in(&[]), None);
        let other: TrustDomain = "elsewhere".parse().unwrap();
        assert!(matches!(
            identity_of(&issued.chain, &other),
            Err(WhoError::NotOurs(_))
        ));
        assert_eq!(identity_of(&[], &domain), Err(WhoError::Missing));
        assert_eq!(
            identity_of(&[CertificateDer::from(vec![1, 2, 3])], &domain),
            Err(WhoError::NotOne)
        );
    }

    /// The end of a handshake: its kind, and the tickets that the client got.
    type Done = (Option<rustls::HandshakeKind>, u32);

    /// A handshake with a server, by a client that keeps every session that it is given.
    fn handshake(
        server: &Arc<ServerConfig>,
        client: &Arc<rustls::ClientConfig>,
    ) -> Result<Done, rustls::Error> {
        let name = "localhost".try_into().unwrap();
        let mut client = rustls::ClientConnection::new(Arc::clone(client), name).unwrap();
        let mut server = rustls::ServerConnection::new(Arc::clone(server)).unwrap();
        while client.is_handshaking() || server.is_handshaking() || server.wants_write() {
            let mut wire = Vec::new();
            client.write_tls(&mut wire).unwrap();
            server.read_tls(&mut wire.as_slice()).unwrap();
            server.process_new_packets()?;
            wire.clear();
            server.write_tls(&mut wire).unwrap();
            client.read_tls(&mut wire.as_slice()).unwrap();
            client.process_new_packets()?;
        }
        Ok((client.handshake_kind(), client.tls13_tickets_received()))
    }

    fn domain() -> TrustDomain {
        "cluster.local".parse().unwrap()
    }

    /// A certificate of `shop/cart` that was issued then.
    fn leaf(ca: &Ca, now: SystemTime) -> Arc<CertifiedKey> {
        let id = SpiffeId::new(domain(), "shop", "cart").unwrap();
        let key = WorkloadKey::generate().unwrap();
        let issued = ca.issue(&key.csr(&id).unwrap(), &id, "cart-1", LIFETIME, now);
        let signer = provider().key_provider;
        let key = signer.load_private_key(key.private_key_der()).unwrap();
        Arc::new(CertifiedKey::new(issued.unwrap().chain, key))
    }

    /// The certificate that a client has now.
    #[derive(Debug)]
    struct Current(RwLock<Arc<CertifiedKey>>);

    impl rustls::client::ResolvesClientCert for Current {
        fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
            Some(Arc::clone(&self.0.read().unwrap()))
        }

        fn has_certs(&self) -> bool {
            true
        }
    }

    fn client(
        ca: &Ca,
        version: &'static rustls::SupportedProtocolVersion,
        current: &Arc<Current>,
    ) -> Arc<rustls::ClientConfig> {
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(ca.trust_bundle().as_bytes()) {
            roots.add(root.unwrap()).unwrap();
        }
        let mut client = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_client_cert_resolver(Arc::<Current>::clone(current));
        client.alpn_protocols = vec![b"h2".to_vec()];
        Arc::new(client)
    }

    const VERSIONS: [&rustls::SupportedProtocolVersion; 2] =
        [&rustls::version::TLS13, &rustls::version::TLS12];

    #[test]
    fn no_session_is_resumed() {
        let (ca, _) = Ca::create(&domain(), SystemTime::now()).unwrap();
        let ca = Arc::new(ca);
        let own = OwnCertificate::issue(Arc::clone(&ca), domain(), Vec::new()).unwrap();
        let own = Arc::new(own);
        let current = Arc::new(Current(RwLock::new(leaf(&ca, SystemTime::now()))));
        for server in [own.server(&["h2"]).unwrap(), own.mutual(&["h2"]).unwrap()] {
            for version in VERSIONS {
                let client = client(&ca, version, &current);
                for _ in 0..2 {
                    let (kind, tickets) = handshake(&server, &client).unwrap();
                    assert!(
                        kind.is_some_and(|kind| kind != rustls::HandshakeKind::Resumed),
                        "{version:?}: {kind:?}"
                    );
                    assert_eq!(tickets, 0, "{version:?}");
                }
            }
        }
    }

    /// A client that has sessions of before, from a server that gives them, offers one with each handshake.
    #[test]
    fn an_expired_identity_or_one_of_another_root_gets_in_by_no_session() {
        let now = SystemTime::now();
        let (ca, _) = Ca::create(&domain(), now).unwrap();
        let (other, _) = Ca::create(&domain(), now).unwrap();
        let ca = Arc::new(ca);
        let own = OwnCertificate::issue(Arc::clone(&ca), domain(), Vec::new()).unwrap();
        let mutual = Arc::new(own).mutual(&["h2"]).unwrap();
        let mut giving = ServerConfig::clone(&mutual);
        giving.session_storage = rustls::server::ServerSessionMemoryCache::new(64);
        giving.send_tls13_tickets = 2;
        let giving = Arc::new(giving);
        for version in VERSIONS {
            for (late, then) in [
                ("expired", leaf(&ca, now - 2 * LIFETIME)),
                ("another root", leaf(&other, now)),
            ] {
                let current = Arc::new(Current(RwLock::new(leaf(&ca, now))));
                let client = client(&ca, version, &current);
                handshake(&giving, &client).unwrap();
                let (kind, _) = handshake(&giving, &client).unwrap();
                assert_eq!(kind, Some(rustls::HandshakeKind::Resumed), "{version:?}");
                handshake(&mutual, &client).unwrap();

                *current.0.write().unwrap() = then;
                let (kind, _) = handshake(&giving, &client).unwrap();
                let resumed = Some(rustls::HandshakeKind::Resumed);
                assert_eq!(kind, resumed, "a session lets it in elsewhere: {version:?}");
                let got = handshake(&mutual, &client);
                assert!(got.is_err(), "{late}, {version:?}: {got:?}");
            }
        }
    }
}
