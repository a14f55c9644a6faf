//! Small types that can only hold valid values.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU16;
use std::sync::Arc;

use crate::finding::ObjectRef;

/// Labels of a pod or the pairs of a selector.
pub type Labels = BTreeMap<Arc<str>, Arc<str>>;

/// Returns the labels of an object of the API.
pub(crate) fn to_labels(of: &BTreeMap<String, String>) -> Labels {
    of.iter()
        .map(|(key, value)| (key.as_str().into(), value.as_str().into()))
        .collect()
}

/// Whether a text is a DNS label (RFC 1123) in lower case, of any length.
pub(crate) fn is_dns_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty() && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

/// Bytes of all annotations of an object, keys and values: the API server's `TotalAnnotationSizeLimitB`.
const MAX_ANNOTATIONS: usize = 256 << 10;

/// The reason for which the API server refuses the annotations of an object, and the fix.
pub(crate) fn too_large<'a>(
    annotations: impl Iterator<Item = (&'a String, &'a str)>,
) -> Option<(String, &'static str)> {
    let bytes: usize = annotations
        .map(|(key, value)| key.len() + value.len())
        .sum();
    (bytes > MAX_ANNOTATIONS).then(|| {
        let message = format!(
            "the annotations have {bytes} bytes together, more than the {MAX_ANNOTATIONS} that an API server takes"
        );
        (message, "move the largest ones to a ConfigMap")
    })
}

/// The longest name of an object of ours: a DNS subdomain.
pub(crate) const MAX_NAME: usize = 253;
/// The longest DNS label, which is also the longest name and value of a label.
pub(crate) const MAX_LABEL: usize = 63;

/// Whether a namespace can have this name.
#[must_use]
pub fn is_namespace_name(name: &str) -> bool {
    name.len() <= MAX_LABEL && is_dns_label(name)
}

/// Whether a text is the key of a label: a word, after a DNS name and a slash if there is one.
pub(crate) fn is_label_key(key: &str) -> bool {
    match key.split_once('/') {
        Some((domain, name)) => {
            domain.len() <= MAX_NAME && domain.split('.').all(is_dns_label) && is_label_word(name)
        }
        None => is_label_word(key),
    }
}

/// Whether a text is the value of a label: a word, or nothing.
pub(crate) fn is_label_value(value: &str) -> bool {
    value.is_empty() || is_label_word(value)
}

fn is_label_word(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    let outer = |c: char| c.is_ascii_alphanumeric();
    text.len() <= MAX_LABEL
        && text.bytes().all(inner)
        && text.starts_with(outer)
        && text.ends_with(outer)
}

/// Namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NamespacedName {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
}

/// A pod by namespace and name: the node id that its proxy presents.
pub type PodRef = NamespacedName;

/// A workload, by namespace and name: `shop/reviews` for the pod `shop/reviews-7d4b9c-x2x1z`.
pub type WorkloadRef = NamespacedName;

impl NamespacedName {
    /// Joins the two.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// The name of an object of a namespace.
    pub(crate) fn of(object: &ObjectRef) -> Self {
        Self {
            namespace: Arc::clone(&object.namespace),
            name: Arc::clone(&object.name),
        }
    }
}

/// Compares the namespaces, then the names. Interned namespaces that are equal are the same `Arc`, and their text is not compared.
impl Ord for NamespacedName {
    fn cmp(&self, other: &Self) -> Ordering {
        let same = Arc::ptr_eq(&self.namespace, &other.namespace);
        let namespaces = if same {
            Ordering::Equal
        } else {
            self.namespace.cmp(&other.namespace)
        };
        namespaces.then_with(|| self.name.cmp(&other.name))
    }
}

impl PartialOrd for NamespacedName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for NamespacedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A TCP port, 1 to 65535.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port(NonZeroU16);

impl Port {
    /// The sidecar's own metrics port.
    pub const METRICS: Self = match NonZeroU16::new(heddle_ports::METRICS) {
        Some(port) => Self(port),
        None => Self(NonZeroU16::MIN),
    };

    /// The number.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0.get()
    }
}

impl TryFrom<i32> for Port {
    type Error = i32;

    fn try_from(value: i32) -> Result<Self, i32> {
        u16::try_from(value)
            .ok()
            .and_then(NonZeroU16::new)
            .map(Self)
            .ok_or(value)
    }
}

impl From<NonZeroU16> for Port {
    fn from(value: NonZeroU16) -> Self {
        Self(value)
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Whether every pair of the selector is among the labels. An empty selector selects nothing here: callers that mean "all" say so.
#[must_use]
pub fn selects(selector: &Labels, labels: &Labels) -> bool {
    !selector.is_empty()
        && selector
            .iter()
            .all(|(key, value)| labels.get(key) == Some(value))
}

/// A SPIFFE id of a workload of this mesh.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId(Arc<str>);

impl SpiffeId {
    /// The id of a service account.
    #[must_use]
    pub fn new(trust_domain: &str, namespace: &str, service_account: &str) -> Self {
        Self(format!("spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}").into())
    }

    /// Any full id, as a user wrote it; None if it is not a SPIFFE URI.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix("spiffe://")?;
        let (domain, path) = rest.split_once('/')?;
        let clean = |part: &str| {
            !part.is_empty()
                && part
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "._-/".contains(c))
        };
        (clean(domain) && clean(path) && !path.ends_with('/')).then(|| Self(text.into()))
    }

    /// The URI.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_without_pairs_selects_nothing() {
        let labels = Labels::from([("app".into(), "a".into()), ("tier".into(), "x".into())]);
        assert!(!selects(&Labels::new(), &labels));
        assert!(selects(
            &Labels::from([("app".into(), "a".into())]),
            &labels
        ));
        assert!(!selects(
            &Labels::from([("app".into(), "b".into())]),
            &labels
        ));
    }

    #[test]
    fn a_name_that_no_namespace_has_is_refused() {
        for (name, expected) in [
            ("shop", true),
            ("a", true),
            ("shop-2", true),
            ("", false),
            ("-shop", false),
            ("shop-", false),
            ("Shop", false),
            ("shop/reviews", false),
            ("sh\u{1b}p", false),
            (&*"a".repeat(64), false),
        ] {
            assert_eq!(is_namespace_name(name), expected, "{name}");
        }
    }
}
