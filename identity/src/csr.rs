//! The check of a certificate request: the asker may bring a key, and no name but its own.

use rcgen::SubjectPublicKeyInfo;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{GeneralName, ParsedExtension, X509Extension};
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_SIG_ECDSA_WITH_SHA256, OID_SIG_ED25519,
};
use x509_parser::prelude::FromDer;
use x509_parser::x509::{AlgorithmIdentifier, SubjectPublicKeyInfo as ParsedKey};

use crate::SpiffeId;
use crate::spiffe::shortened;

/// A request of ours is about 300 bytes.
pub const MAX_CSR_BYTES: usize = 8 * 1024;

/// Why a request is refused. Each is the asker's fault, and may be told to it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// Longer than [`MAX_CSR_BYTES`].
    #[error("the certificate request has {0} bytes, more than the {MAX_CSR_BYTES} allowed")]
    TooLarge(usize),
    /// No PKCS#10, or with something after it.
    #[error("the certificate request is not PKCS#10 in DER")]
    Malformed,
    /// Neither ECDSA P-256 with SHA-256 nor Ed25519.
    #[error(
        "the key or signature of the certificate request is neither ECDSA P-256 with SHA-256 nor Ed25519"
    )]
    Algorithm,
    /// The asker does not hold the key.
    #[error("the signature of the certificate request does not match its key")]
    Signature,
    /// It asks for someone else's identity.
    #[error("the certificate request asks for `{asked}`, but the caller is {caller}")]
    ForeignName {
        /// The name it asks for, shortened.
        asked: String,
        /// The caller's identity.
        caller: Box<SpiffeId>,
    },
    /// It asks to be a CA, or to sign certificates.
    #[error("the certificate request asks for the right to sign certificates")]
    Authority,
    /// It asks for an extension or attribute that has no place in a workload's certificate.
    #[error(
        "the certificate request holds the extension or attribute {0}, which a workload does not get"
    )]
    Unexpected(String),
}

/// A request that passed: a key, proven to be held by the sender, and the identity it is for.
#[derive(Debug, Clone)]
pub struct CheckedCsr {
    key: SubjectPublicKeyInfo,
    id: SpiffeId,
}

impl CheckedCsr {
    /// The identity the request was checked against.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    pub(crate) fn key(&self) -> &SubjectPublicKeyInfo {
        &self.key
    }
}

/// Checks a PKCS#10 request in DER from a caller that was authenticated as `id`.
///
/// Nothing but the public key of it is ever used; a foreign name is refused rather than dropped, for it is an error or an attack.
///
/// # Errors
/// When the request is not sound, or asks for more than the caller is.
pub fn check_csr(der: &[u8], id: &SpiffeId) -> Result<CheckedCsr, CsrError> {
    if der.len() > MAX_CSR_BYTES {
        return Err(CsrError::TooLarge(der.len()));
    }
    let (rest, csr) = X509CertificationRequest::from_der(der).map_err(|_| CsrError::Malformed)?;
    if !rest.is_empty() {
        return Err(CsrError::Malformed);
    }
    let info = &csr.certification_request_info;
    check_algorithm(&info.subject_pki, &csr.signature_algorithm)?;
    csr.verify_signature().map_err(|_| CsrError::Signature)?;
    for attribute in info.attributes() {
        match attribute.parsed_attribute() {
            ParsedCriAttribute::ExtensionRequest(request) => {
                request
                    .extensions
                    .iter()
                    .try_for_each(|e| check_extension(e, id))?;
            }
            ParsedCriAttribute::ChallengePassword(_) | ParsedCriAttribute::UnsupportedAttribute => {
                return Err(CsrError::Unexpected(attribute.oid.to_id_string()));
            }
        }
    }
    let key =
        SubjectPublicKeyInfo::from_der(info.subject_pki.raw).map_err(|_| CsrError::Algorithm)?;
    Ok(CheckedCsr {
        key,
        id: id.clone(),
    })
}

fn check_algorithm(
    key: &ParsedKey<'_>,
    signature: &AlgorithmIdentifier<'_>,
) -> Result<(), CsrError> {
    let curve = key
        .algorithm
        .parameters
        .as_ref()
        .and_then(|p| p.as_oid().ok());
    let p256 = key.algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY
        && curve.is_some_and(|c| c == OID_EC_P256)
        && signature.algorithm == OID_SIG_ECDSA_WITH_SHA256;
    let ed25519 =
        key.algorithm.algorithm == OID_SIG_ED25519 && signature.algorithm == OID_SIG_ED25519;
    if p256 || ed25519 {
        Ok(())
    } else {
        Err(CsrError::Algorithm)
    }
}

fn check_extension(extension: &X509Extension<'_>, id: &SpiffeId) -> Result<(), CsrError> {
    match extension.parsed_extension() {
        ParsedExtension::SubjectAlternativeName(names) => names
            .general_names
            .iter()
            .try_for_each(|name| check_name(name, id)),
        ParsedExtension::BasicConstraints(constraints) if !constraints.ca => Ok(()),
        ParsedExtension::BasicConstraints(_) => Err(CsrError::Authority),
        ParsedExtension::KeyUsage(usage) if usage.key_cert_sign() || usage.crl_sign() => {
            Err(CsrError::Authority)
        }
        // The CA decides the uses of the key: a request for others does no harm, and changes nothing.
        ParsedExtension::KeyUsage(_) | ParsedExtension::ExtendedKeyUsage(_) => Ok(()),
        ParsedExtension::ParseError { .. } => Err(CsrError::Malformed),
        _ => Err(CsrError::Unexpected(extension.oid.to_id_string())),
    }
}

fn check_name(name: &GeneralName<'_>, id: &SpiffeId) -> Result<(), CsrError> {
    match name {
        GeneralName::URI(uri) if *uri == id.to_string() => Ok(()),
        GeneralName::URI(uri) => Err(foreign(uri, id)),
        other => Err(foreign(&other.to_string(), id)),
    }
}

fn foreign(asked: &str, id: &SpiffeId) -> CsrError {
    CsrError::ForeignName {
        asked: shortened(asked),
        caller: Box::new(id.clone()),
    }
}
