//! The certificate authority: one root, kept by a [`crate::RootStore`], and the certificates that it signs.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use ring::rand::SecureRandom;
use rustls_pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{CsrError, KeyError, RootPem, SpiffeId, TrustDomain, WorkloadKey, check_csr};

/// Clocks of a cluster differ; a machine with a clock that is behind would refuse a certificate that begins now.
const BACKDATE: Duration = Duration::from_secs(5 * 60);
const ROOT_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Why a root is unusable, or the CA could not sign. The text never holds key material.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// The stored root lacks a property of a root.
    #[error("the root certificate can't be used: {0}")]
    Root(String),
    /// The root is over, or does not begin yet.
    #[error("the root certificate is valid from {not_before} to {not_after}, which is not now")]
    NotValidNow {
        /// When it begins.
        not_before: OffsetDateTime,
        /// When it ends.
        not_after: OffsetDateTime,
    },
    /// The stored key is unusable.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Signing failed.
    #[error("the certificate could not be signed: {0}")]
    Sign(String),
}

/// Why nothing was issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The caller's fault.
    #[error(transparent)]
    Csr(#[from] CsrError),
    /// Ours.
    #[error(transparent)]
    Ca(#[from] CaError),
}

/// An issued certificate.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The leaf first; without the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// From when it is valid: a little before it was issued.
    pub not_before: SystemTime,
    /// Until when it is valid.
    pub not_after: SystemTime,
}

/// A certificate with its key, for the control plane's own listeners.
#[derive(Debug)]
pub struct ServerIdentity {
    /// The certificate.
    pub issued: Issued,
    /// Its key.
    pub key: WorkloadKey,
}

/// The certificate authority. Its key stays inside, and prints as `[redacted]`.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    bundle: String,
    fingerprint: String,
    trust_domain: Option<TrustDomain>,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
}

impl Ca {
    /// A fresh self-signed root of ten years, and its PEM to store.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn create(trust_domain: &TrustDomain, now: SystemTime) -> Result<(Self, RootPem), CaError> {
        let key = WorkloadKey::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::OrganizationName, "heddle");
        params
            .distinguished_name
            .push(DnType::CommonName, "heddle root");
        params.subject_alt_names = vec![uri(&format!("spiffe://{trust_domain}"))?];
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = OffsetDateTime::from(now) - BACKDATE;
        params.not_after = OffsetDateTime::from(now) + ROOT_LIFETIME;
        params.serial_number = Some(serial()?);
        let certificate = params.self_signed(key.pair()).map_err(sign)?;
        let root = RootPem {
            certificates: certificate.pem(),
            private_key: key.private_key_pem(),
        };
        Ok((Self::load(&root, now)?, root))
    }

    /// A stored root.
    ///
    /// # Errors
    /// When the certificate is not a self-signed CA certificate, is not valid now, or the key is not its key.
    pub fn load(root: &RootPem, now: SystemTime) -> Result<Self, CaError> {
        let blocks = pem::parse_many(&root.certificates).map_err(|_| broken("it is not PEM"))?;
        let first = blocks
            .first()
            .ok_or_else(|| broken("there is no certificate"))?;
        let mut bundle = String::new();
        for block in &blocks {
            parse_root(block)?;
            bundle.push_str(&pem::encode_config(
                block,
                pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF),
            ));
        }
        let parsed = parse_root(first)?;
        let key = WorkloadKey::from_pem(&root.private_key)?.into_pair();
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err(broken(
                "the private key is not that of the first certificate",
            ));
        }
        let (not_before, not_after) = (
            parsed.validity().not_before.to_datetime(),
            parsed.validity().not_after.to_datetime(),
        );
        let now = OffsetDateTime::from(now);
        if now < not_before || now >= not_after {
            return Err(CaError::NotValidNow {
                not_before,
                not_after,
            });
        }
        let fingerprint = hex(&Sha256::digest(first.contents()));
        let trust_domain = domain_of(&parsed);
        let der = CertificateDer::from(first.contents().to_vec());
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(sign)?;
        Ok(Self {
            issuer,
            bundle,
            fingerprint,
            trust_domain,
            not_before,
            not_after,
        })
    }

    /// Every trusted root, in PEM.
    pub fn trust_bundle(&self) -> &str {
        &self.bundle
    }

    /// SHA-256 of the signing root, in hexadecimal: fit for logs and status.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The trust domain that the signing root names (X.509-SVID, section 2: the URI `spiffe://<trust domain>`). `None`: it names none.
    pub const fn trust_domain(&self) -> Option<&TrustDomain> {
        self.trust_domain.as_ref()
    }

    /// When the signing root ends. Nothing issued outlives it.
    pub fn not_after(&self) -> SystemTime {
        self.not_after.into()
    }

    /// Checks the request (PKCS#10, DER) of a caller authenticated as `id` in the pod of this name, and certifies its key.
    /// The subject's common name is [`holder_of`] the pod, so that the control plane distinguishes pods of one service account.
    ///
    /// # Errors
    /// When the request is refused, or the root is over.
    pub fn issue(
        &self,
        csr: &[u8],
        id: &SpiffeId,
        pod: &str,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Issued, IssueError> {
        let checked = check_csr(csr, id)?;
        let mut subject = DistinguishedName::new();
        subject.push(DnType::CommonName, holder_of(pod).as_ref());
        let names = vec![uri(&checked.id().to_string())?];
        Ok(self.sign(checked.key(), subject, names, lifetime, now)?)
    }

    /// A certificate with a fresh key for the control plane's own listeners: names for clients that have no identity yet,
    /// and the SPIFFE id for clients that have one.
    ///
    /// # Errors
    /// When a name is not valid, or the root is over.
    pub fn server_certificate(
        &self,
        dns_names: &[String],
        ips: &[IpAddr],
        id: &SpiffeId,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<ServerIdentity, CaError> {
        let key = WorkloadKey::generate()?;
        let mut names = vec![uri(&id.to_string())?];
        for name in dns_names {
            names.push(SanType::DnsName(name.as_str().try_into().map_err(sign)?));
        }
        names.extend(ips.iter().copied().map(SanType::IpAddress));
        let issued = self.sign(key.pair(), DistinguishedName::new(), names, lifetime, now)?;
        Ok(ServerIdentity { issued, key })
    }

    fn sign(
        &self,
        key: &impl PublicKeyData,
        subject: DistinguishedName,
        names: Vec<SanType>,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Issued, CaError> {
        let now = OffsetDateTime::from(now);
        let not_before = (now - BACKDATE).max(self.not_before);
        let not_after = now.checked_add(lifetime.try_into().unwrap_or(time::Duration::MAX));
        let not_after = not_after.map_or(self.not_after, |end| end.min(self.not_after));
        if not_after <= now {
            return Err(CaError::NotValidNow {
                not_before: self.not_before,
                not_after: self.not_after,
            });
        }
        let mut params = CertificateParams::default();
        // X.509-SVID leaves the subject free: the identity is the URI alone.
        params.distinguished_name = subject;
        params.subject_alt_names = names;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        params.not_before = not_before;
        params.not_after = not_after;
        params.serial_number = Some(serial()?);
        let certificate = params.signed_by(key, &self.issuer).map_err(sign)?;
        let chain = vec![certificate.der().clone()];
        Ok(Issued {
            chain,
            not_before: not_before.into(),
            not_after: not_after.into(),
        })
    }
}

impl fmt::Debug for Ca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ca")
            .field("fingerprint", &self.fingerprint)
            .field("not_after", &self.not_after)
            .field("key", &"[redacted]")
            .finish()
    }
}

fn domain_of(root: &X509Certificate<'_>) -> Option<TrustDomain> {
    let names = root.subject_alternative_name().ok().flatten()?;
    let mut uris = names
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => uri.strip_prefix("spiffe://"),
            _ => None,
        });
    uris.next()?.trim_end_matches('/').parse().ok()
}

/// The text that stands for a pod in the certificates that are issued to it: its name, or the name's SHA-256 in hexadecimal digits if
/// it is longer than a common name can be (64 characters, RFC 5280, appendix A.1).
#[must_use]
pub fn holder_of(pod: &str) -> Cow<'_, str> {
    const LONGEST: usize = 64;
    if pod.len() <= LONGEST {
        return Cow::Borrowed(pod);
    }
    Cow::Owned(hex(&Sha256::digest(pod.as_bytes())))
}

/// Returns the SHA-256 of the first certificate of a PEM text, in hexadecimal as [`Ca::fingerprint`] has it; `None` if the text holds none.
#[must_use]
pub fn fingerprint_of(pem: &[u8]) -> Option<String> {
    let blocks = pem::parse_many(pem).ok()?;
    let first = blocks.iter().find(|block| block.tag() == "CERTIFICATE")?;
    Some(hex(&Sha256::digest(first.contents())))
}

/// A root of a trust bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootDates {
    /// SHA-256 of the certificate, in hexadecimal digits.
    pub fingerprint: String,
    /// Seconds since 1970.
    pub not_before: i64,
    /// Seconds since 1970.
    pub not_after: i64,
}

/// The roots of a trust bundle in PEM. Blocks that are not certificates are left out.
#[must_use]
pub fn dates_of(pem: &[u8]) -> Vec<RootDates> {
    let blocks = pem::parse_many(pem).unwrap_or_default();
    let roots = blocks.iter().filter_map(|block| {
        let (_, certificate) = X509Certificate::from_der(block.contents()).ok()?;
        let validity = certificate.validity();
        Some(RootDates {
            fingerprint: hex(&Sha256::digest(block.contents())),
            not_before: validity.not_before.timestamp(),
            not_after: validity.not_after.timestamp(),
        })
    });
    roots.collect()
}

fn parse_root(block: &pem::Pem) -> Result<X509Certificate<'_>, CaError> {
    if block.tag() != "CERTIFICATE" {
        return Err(broken(
            "there is something else than certificates among the certificates",
        ));
    }
    let (rest, certificate) = X509Certificate::from_der(block.contents())
        .map_err(|_| broken("it is not an X.509 certificate"))?;
    if !rest.is_empty() {
        return Err(broken("there is something after the certificate"));
    }
    let signs = certificate
        .key_usage()
        .ok()
        .flatten()
        .is_none_or(|usage| usage.value.key_cert_sign());
    if !certificate.is_ca() || !signs {
        return Err(broken("it is not a CA certificate"));
    }
    certificate
        .verify_signature(None)
        .map_err(|_| broken("it is not signed by itself"))?;
    Ok(certificate)
}

fn serial() -> Result<SerialNumber, CaError> {
    let mut bytes = [0u8; 16];
    ring::rand::SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| CaError::Sign("the system gives no randomness".into()))?;
    // Positive and of full length in DER, for any random bytes.
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

fn uri(text: &str) -> Result<SanType, CaError> {
    Ok(SanType::URI(text.try_into().map_err(sign)?))
}

fn sign(error: rcgen::Error) -> CaError {
    CaError::Sign(error.to_string())
}

fn broken(why: &str) -> CaError {
    CaError::Root(why.to_owned())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
