//! The asker's check of its answer: the mirror image of [`crate::check_csr`].

use std::time::Duration;

use rcgen::PublicKeyData;
use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::wire::IssueResponse;
use crate::{SpiffeId, WorkloadKey};

/// Why an answer of the issuing service can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the control plane's answer can't be used: {0}")]
pub struct AnswerError(&'static str);

/// A certificate that fits the asker's key and identity, and the roots to trust.
#[derive(Debug, Clone)]
pub struct Credential {
    /// The leaf first; without the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// PEM.
    pub trust_bundle: String,
    /// How long it holds from when it was issued, by the issuer's clock.
    pub lifetime: Duration,
    /// The zone of the pod's node, as the control plane has it.
    pub zone: Option<String>,
}

impl Credential {
    /// Checks an answer against the key and the identity it was asked for.
    ///
    /// # Errors
    /// When the certificate is for another key or name, is not signed by a root of the bundle, or is over.
    pub fn accept(
        answer: IssueResponse,
        key: &WorkloadKey,
        id: &SpiffeId,
    ) -> Result<Self, AnswerError> {
        let parsed = answer
            .certificate_chain
            .iter()
            .map(|der| parse(der))
            .collect::<Result<Vec<_>, _>>()?;
        let leaf = parsed
            .first()
            .ok_or(AnswerError("it holds no certificate"))?;
        if leaf.public_key().raw != key.pair().subject_public_key_info() {
            return Err(AnswerError("the certificate is for another key"));
        }
        let names = leaf.subject_alternative_name().ok().flatten();
        let own = id.to_string();
        if names.is_none_or(|n| n.value.general_names != [GeneralName::URI(&own)]) {
            return Err(AnswerError("the certificate is for another identity"));
        }
        check_signatures(&parsed, &answer.trust_bundle)?;
        let seconds = answer.not_after.saturating_sub(answer.issued_at);
        let lifetime = u64::try_from(seconds)
            .ok()
            .filter(|s| *s > 0)
            .ok_or(AnswerError("the certificate is over"))?;
        Ok(Self {
            chain: answer
                .certificate_chain
                .into_iter()
                .map(CertificateDer::from)
                .collect(),
            trust_bundle: answer.trust_bundle,
            lifetime: Duration::from_secs(lifetime),
            zone: Some(answer.zone).filter(|zone| !zone.is_empty()),
        })
    }

    /// The chain in PEM, as Envoy wants it.
    pub fn chain_pem(&self) -> String {
        self.chain
            .iter()
            .map(|der| pem::encode(&pem::Pem::new("CERTIFICATE", der.to_vec())))
            .collect()
    }
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, AnswerError> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) | Err(_) => Err(AnswerError("it holds a part that is not a certificate")),
    }
}

fn check_signatures(chain: &[X509Certificate<'_>], bundle: &str) -> Result<(), AnswerError> {
    let roots = pem::parse_many(bundle).map_err(|_| AnswerError("its trust bundle is not PEM"))?;
    let mut signed = false;
    for root in &roots {
        let root = parse(root.contents())?;
        signed |= chain
            .last()
            .is_some_and(|last| last.verify_signature(Some(root.public_key())).is_ok());
    }
    let linked = chain
        .iter()
        .zip(chain.iter().skip(1))
        .all(|(lower, upper)| lower.verify_signature(Some(upper.public_key())).is_ok());
    if signed && linked {
        Ok(())
    } else {
        Err(AnswerError(
            "no root of its trust bundle has signed the certificate",
        ))
    }
}
