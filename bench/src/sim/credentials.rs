//! The credentials of a simulated proxy: certificates from files, signed by the mesh's root, or enrolled by a real CSR as the
//! agent does it.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use heddle_identity::wire::{IdentityClient, IssueRequest, set_bearer};
use heddle_identity::{Ca, SpiffeId, WorkloadKey};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};

const ENROLL_TIMEOUT: Duration = Duration::from_secs(20);
/// Longer than any measurement.
const LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// TLS material of one proxy, in PEM.
#[derive(Clone)]
pub struct Credentials {
    trust: String,
    chain: String,
    key: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("chain", &self.chain)
            .field("key", &"[redacted]")
            .finish_non_exhaustive()
    }
}

impl Credentials {
    /// From PEM files.
    ///
    /// # Errors
    /// When a file can't be read.
    pub fn from_files(trust: &Path, chain: &Path, key: &Path) -> Result<Self> {
        let read =
            |path: &Path| std::fs::read_to_string(path).with_context(|| path.display().to_string());
        Ok(Self {
            trust: read(trust)?,
            chain: read(chain)?,
            key: read(key)?,
        })
    }

    /// Straight from the mesh's root, without a request to the control plane: the cost of enrolling is measured apart.
    ///
    /// # Errors
    /// When the root does not sign.
    pub fn sign(root: &Ca, id: &SpiffeId, pod: &str) -> Result<Self> {
        let key = WorkloadKey::generate()?;
        let issued = root.issue(&key.csr(id)?, id, pod, LIFETIME, SystemTime::now())?;
        Ok(Self {
            trust: root.trust_bundle().to_owned(),
            chain: issued.chain.iter().map(|der| pem_of(der)).collect(),
            key: key.private_key_pem(),
        })
    }

    /// From the mesh's CA: a fresh key, a CSR and the pod's token.
    ///
    /// # Errors
    /// When the CA can't be reached or refuses.
    pub async fn enroll(authority: &Authority, id: &SpiffeId, token: &str) -> Result<Self> {
        let tls = ClientTlsConfig::new()
            .domain_name(&authority.server_name)
            .ca_certificate(Certificate::from_pem(&authority.trust));
        let endpoint = Endpoint::from_shared(format!("https://{}", authority.address))?
            .timeout(ENROLL_TIMEOUT)
            .connect_timeout(ENROLL_TIMEOUT)
            .tls_config(tls)?;
        let channel = endpoint
            .connect()
            .await
            .with_context(|| format!("the CA at {}", authority.address))?;
        let key = WorkloadKey::generate()?;
        let mut request = tonic::Request::new(IssueRequest {
            csr: key.csr(id)?,
            lifetime_seconds: 0,
        });
        set_bearer(request.metadata_mut(), token)?;
        let issued = IdentityClient::new(channel)
            .issue(request)
            .await?
            .into_inner();
        let chain = issued.certificate_chain.iter();
        Ok(Self {
            trust: issued.trust_bundle,
            chain: chain.map(|der| pem_of(der)).collect(),
            key: key.private_key_pem(),
        })
    }

    /// As a TLS client wants it. No session is resumed: each proxy is another machine.
    ///
    /// # Errors
    /// When the PEM is none.
    pub fn client_config(&self) -> Result<Arc<rustls::ClientConfig>> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(self.trust.as_bytes()) {
            roots.add(root?)?;
        }
        let chain = CertificateDer::pem_slice_iter(self.chain.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .context("the certificate chain")?;
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).context("the private key")?;
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        config.resumption = rustls::client::Resumption::disabled();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config))
    }
}

fn pem_of(der: &[u8]) -> String {
    pem::encode(&pem::Pem::new("CERTIFICATE", der.to_vec()))
}

/// Where certificates are issued, and how to know that it is the right place.
#[derive(Debug, Clone)]
pub struct Authority {
    /// `host:port`.
    pub address: String,
    /// The name its certificate has to bear.
    pub server_name: String,
    /// The trust bundle, in PEM.
    pub trust: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_of_the_root_makes_a_client() {
        let domain = "cluster.local".parse().unwrap();
        let (root, _) = Ca::create(&domain, SystemTime::now()).unwrap();
        let id = SpiffeId::new(domain, "shop", "cart").unwrap();
        let credentials = Credentials::sign(&root, &id, "proxy-1").unwrap();
        credentials.client_config().unwrap();
        assert!(!format!("{credentials:?}").contains("PRIVATE"));
    }
}
