//! SPIFFE ids of the one form the mesh uses: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Why a text is not a trust domain or not an id of the mesh.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeError {
    /// SPIFFE allows lower-case letters, digits, `.`, `-` and `_`, at most 255 of them.
    #[error("`{0}` is not a trust domain; use 1 to 255 of a-z, 0-9, `.`, `-`, `_`")]
    TrustDomain(String),
    /// Kubernetes wants a DNS label.
    #[error("`{0}` is not a namespace name")]
    Namespace(String),
    /// Kubernetes wants a DNS subdomain.
    #[error("`{0}` is not a service account name")]
    ServiceAccount(String),
    /// Not the mesh's form at all.
    #[error("`{0}` is not of the form spiffe://<trust domain>/ns/<namespace>/sa/<service account>")]
    Form(String),
}

/// The name under which identities of one root are known.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TrustDomain {
    type Err = SpiffeError;

    fn from_str(text: &str) -> Result<Self, SpiffeError> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._".contains(&b);
        if (1..=255).contains(&text.len()) && text.bytes().all(allowed) {
            Ok(Self(text.into()))
        } else {
            Err(SpiffeError::TrustDomain(shortened(text)))
        }
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A workload's identity: the service account it runs as.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    trust_domain: TrustDomain,
    namespace: Arc<str>,
    service_account: Arc<str>,
}

impl SpiffeId {
    /// An id of checked parts.
    ///
    /// # Errors
    /// When a name is none that Kubernetes would have accepted.
    pub fn new(
        trust_domain: TrustDomain,
        namespace: &str,
        service_account: &str,
    ) -> Result<Self, SpiffeError> {
        if !is_dns_label(namespace) {
            return Err(SpiffeError::Namespace(shortened(namespace)));
        }
        if service_account.len() > 253
            || !service_account.split('.').all(is_dns_label_of_any_length)
        {
            return Err(SpiffeError::ServiceAccount(shortened(service_account)));
        }
        Ok(Self {
            trust_domain,
            namespace: namespace.into(),
            service_account: service_account.into(),
        })
    }

    /// The control plane's own id.
    pub fn control_plane(trust_domain: TrustDomain) -> Self {
        Self {
            trust_domain,
            namespace: "heddle-system".into(),
            service_account: "heddle-operator".into(),
        }
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The service account.
    pub fn service_account(&self) -> &str {
        &self.service_account
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "spiffe://{}/ns/{}/sa/{}",
            self.trust_domain, self.namespace, self.service_account
        )
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeError;

    fn from_str(text: &str) -> Result<Self, SpiffeError> {
        let form = || SpiffeError::Form(shortened(text));
        let rest = text.strip_prefix("spiffe://").ok_or_else(form)?;
        let mut parts = rest.split('/');
        match (
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
        ) {
            (Some(domain), Some("ns"), Some(namespace), Some("sa"), Some(account), None) => {
                Self::new(domain.parse()?, namespace, account)
            }
            _ => Err(form()),
        }
    }
}

fn is_dns_label(text: &str) -> bool {
    text.len() <= 63 && is_dns_label_of_any_length(text)
}

/// Kubernetes bounds a subdomain as a whole, not each of its labels.
fn is_dns_label_of_any_length(text: &str) -> bool {
    let alphanumeric =
        |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    alphanumeric(text.bytes().next())
        && alphanumeric(text.bytes().last())
        && text.bytes().all(|b| b == b'-' || alphanumeric(Some(b)))
}

/// A stranger's text reaches a log, so the stranger may choose neither its length nor its control characters.
pub(crate) fn shortened(text: &str) -> String {
    text.chars()
        .take(128)
        .flat_map(char::escape_default)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip() {
        for text in [
            "spiffe://cluster.local/ns/shop/sa/cart",
            "spiffe://a/ns/b/sa/c.d-e.f",
            "spiffe://under_score.example/ns/0/sa/9",
        ] {
            let id: SpiffeId = text.parse().unwrap();
            assert_eq!(id.to_string(), text);
        }
    }

    #[test]
    fn texts_of_another_form_are_refused() {
        let long = format!("spiffe://a/ns/{}/sa/c", "n".repeat(64));
        for text in [
            "",
            "spiffe://",
            "spiffe://a",
            "spiffe:///ns/b/sa/c",
            "https://a/ns/b/sa/c",
            "SPIFFE://a/ns/b/sa/c",
            "spiffe://A/ns/b/sa/c",
            "spiffe://a:8443/ns/b/sa/c",
            "spiffe://u@a/ns/b/sa/c",
            "spiffe://a/ns/b/sa/c/",
            "spiffe://a/ns/b/sa/c/d",
            "spiffe://a/ns//sa/c",
            "spiffe://a/ns/b/sa/",
            "spiffe://a/sa/c/ns/b",
            "spiffe://a/ns/b/sa/c?x=y",
            "spiffe://a/ns/b/sa/c#d",
            "spiffe://a/ns/b/sa/%63",
            "spiffe://a/ns/../sa/c",
            "spiffe://a/ns/b/sa/-c",
            "spiffe://a/ns/b/sa/c\n",
            "spiffe://a/ns/b.c/sa/d",
            &long,
        ] {
            assert!(text.parse::<SpiffeId>().is_err(), "{text} was taken");
        }
    }

    #[test]
    fn an_error_repeats_little_and_nothing_raw() {
        let text = format!("spiffe://a\n{}", "x".repeat(10_000));
        let error = text.parse::<SpiffeId>().unwrap_err().to_string();
        assert!(error.len() < 400 && !error.contains('\n'), "{error}");
    }
}
