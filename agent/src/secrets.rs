//! The secrets that Envoy gets over SDS, and the channel in which they change.

use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::{DataSource, data_source::Specifier};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, TlsCertificate, secret::Type,
};
use tokio::sync::watch;

/// The names under which Envoy asks.
pub(crate) const WORKLOAD: &str = "workload";
pub(crate) const TRUST: &str = "trust";

/// A secret as Envoy takes it; never printed.
#[derive(Clone)]
pub(crate) struct Versioned {
    pub(crate) version: u64,
    pub(crate) secret: Arc<Secret>,
}

/// All secrets of one moment.
#[derive(Clone)]
pub(crate) struct Secrets {
    trust: Versioned,
    workload: Option<Versioned>,
}

/// A credential in PEM, and the roots to trust; never printed.
pub(crate) struct Pem {
    pub(crate) chain: Vec<u8>,
    pub(crate) key: Vec<u8>,
    pub(crate) trust: String,
}

impl Secrets {
    /// Returns the credential for connections of the agent itself; `None` before the first certificate.
    pub(crate) fn pem(&self) -> Option<Pem> {
        let Some(Type::ValidationContext(trust)) = &self.trust.secret.r#type else {
            return None;
        };
        let Some(Type::TlsCertificate(workload)) = &self.workload.as_ref()?.secret.r#type else {
            return None;
        };
        let trust = bytes(trust.trusted_ca.as_ref())?;
        Some(Pem {
            chain: bytes(workload.certificate_chain.as_ref())?,
            key: bytes(workload.private_key.as_ref())?,
            trust: String::from_utf8(trust).ok()?,
        })
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Versioned> {
        match name {
            TRUST => Some(&self.trust),
            WORKLOAD => self.workload.as_ref(),
            _ => None,
        }
    }
}

/// The one that changes them.
pub(crate) struct Publisher(watch::Sender<Secrets>);

impl Publisher {
    /// Before the first certificate there is only the trust bundle.
    pub(crate) fn new(trust_bundle: &str) -> Self {
        Self(watch::Sender::new(Secrets {
            trust: trust(trust_bundle, 1),
            workload: None,
        }))
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Secrets> {
        self.0.subscribe()
    }

    /// Trust first and leaf after it would be two steps; both change at once, and the former roots are the caller's to keep.
    pub(crate) fn publish(&self, chain_pem: &str, key_pem: &str, trust_bundle: &str) {
        self.0.send_modify(|secrets| {
            let next = trust(trust_bundle, secrets.trust.version + 1);
            // An unchanged bundle keeps its version, so that Envoy is not told twice.
            if next.secret != secrets.trust.secret {
                secrets.trust = next;
            }
            let version = secrets.workload.as_ref().map_or(1, |w| w.version + 1);
            secrets.workload = Some(workload(chain_pem, key_pem, version));
        });
    }
}

fn trust(bundle: &str, version: u64) -> Versioned {
    let context = CertificateValidationContext {
        trusted_ca: Some(inline(bundle)),
        ..Default::default()
    };
    versioned(TRUST, Type::ValidationContext(context), version)
}

fn workload(chain: &str, key: &str, version: u64) -> Versioned {
    let certificate = TlsCertificate {
        certificate_chain: Some(inline(chain)),
        private_key: Some(inline(key)),
        ..Default::default()
    };
    versioned(WORKLOAD, Type::TlsCertificate(certificate), version)
}

fn versioned(name: &str, kind: Type, version: u64) -> Versioned {
    Versioned {
        version,
        secret: Arc::new(Secret {
            name: name.to_owned(),
            r#type: Some(kind),
        }),
    }
}

fn bytes(source: Option<&DataSource>) -> Option<Vec<u8>> {
    match source?.specifier.as_ref()? {
        Specifier::InlineBytes(bytes) => Some(bytes.clone()),
        Specifier::InlineString(_) | Specifier::Filename(_) | Specifier::EnvironmentVariable(_) => {
            None
        }
    }
}

fn inline(text: &str) -> DataSource {
    DataSource {
        specifier: Some(Specifier::InlineBytes(text.as_bytes().to_vec())),
        ..Default::default()
    }
}
