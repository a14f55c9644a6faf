//! Private keys: in memory only, and never in any text that is printed.

use std::fmt;

use rcgen::{
    CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::SpiffeId;

/// A key could not be made or used. The text never holds any of it.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {reason}")]
pub struct KeyError {
    what: &'static str,
    reason: String,
}

impl KeyError {
    fn new(what: &'static str, reason: &dyn fmt::Display) -> Self {
        Self {
            what,
            reason: reason.to_string(),
        }
    }
}

/// An ECDSA P-256 key pair of one workload.
pub struct WorkloadKey(KeyPair);

impl WorkloadKey {
    /// A fresh key.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn generate() -> Result<Self, KeyError> {
        KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
            .map(Self)
            .map_err(|e| KeyError::new("a key could not be made", &e))
    }

    /// The request, in DER, to certify this key for `id`.
    ///
    /// # Errors
    /// When signing fails.
    pub fn csr(&self, id: &SpiffeId) -> Result<Vec<u8>, KeyError> {
        let failed =
            |e: rcgen::Error| KeyError::new("the certificate request could not be made", &e);
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::OrganizationName, "heddle");
        params.subject_alt_names = vec![SanType::URI(id.to_string().try_into().map_err(failed)?)];
        Ok(params
            .serialize_request(&self.0)
            .map_err(failed)?
            .der()
            .to_vec())
    }

    /// PKCS#8 PEM, for handing the key to Envoy over a private socket. Keep it out of anything that is kept.
    pub fn private_key_pem(&self) -> String {
        self.0.serialize_pem()
    }

    /// PKCS#8, for rustls.
    pub fn private_key_der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.0.serialize_der()))
    }

    pub(crate) fn pair(&self) -> &KeyPair {
        &self.0
    }

    pub(crate) fn from_pem(pem: &str) -> Result<Self, KeyError> {
        KeyPair::from_pem(pem).map(Self).map_err(|_| {
            KeyError::new(
                "the private key could not be read",
                &"it is not a PKCS#8 PEM of a supported kind",
            )
        })
    }

    pub(crate) fn into_pair(self) -> KeyPair {
        self.0
    }
}

impl fmt::Debug for WorkloadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WorkloadKey([redacted])")
    }
}

/// A root as it is stored: certificates and the private key of the first of them.
#[derive(Clone, PartialEq, Eq)]
pub struct RootPem {
    /// The signing root first; any further ones are only trusted, as while roots are changed.
    pub certificates: String,
    /// PKCS#8 PEM.
    pub private_key: String,
}

impl fmt::Debug for RootPem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RootPem")
            .field("certificates", &self.certificates)
            .field("private_key", &"[redacted]")
            .finish()
    }
}
