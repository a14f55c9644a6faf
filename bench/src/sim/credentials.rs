//! What a simulated proxy shows: certificates from files, or enrolled by a real CSR as the agent does it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use heddle_identity::wire::{IdentityClient, IssueRequest, set_bearer};
use heddle_identity::{SpiffeId, WorkloadKey};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

const ENROLL_TIMEOUT: Duration = Duration::from_secs(20);

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
        let encode = |der: Vec<u8>| pem::encode(&pem::Pem::new("CERTIFICATE", der));
        let chain = issued.certificate_chain.into_iter().map(encode).collect();
        Ok(Self {
            trust: issued.trust_bundle,
            chain,
            key: key.private_key_pem(),
        })
    }

    /// As tonic wants it.
    pub fn tls(&self, server_name: &str) -> ClientTlsConfig {
        ClientTlsConfig::new()
            .domain_name(server_name)
            .ca_certificate(Certificate::from_pem(&self.trust))
            .identity(Identity::from_pem(&self.chain, &self.key))
    }
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
