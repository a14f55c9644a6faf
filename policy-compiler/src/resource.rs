//! The output of the compiler: Envoy resources as bytes, with their version, their requirements and their origins.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
pub use heddle_xds_types::{ResourceKey, ResourceKind};
use sha2::{Digest, Sha256};

use crate::dependency::Dependency;
use crate::finding::ObjectRef;

/// One Envoy resource, ready to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Kind and name.
    pub key: ResourceKey,
    /// The first 16 hex digits of the SHA-256 of `body`: equal bytes, equal version, on every replica and after every restart.
    pub version: Arc<str>,
    /// The serialised message (not the `Any` around it).
    pub body: Bytes,
    /// The resources that the proxy must have acknowledged before this one is sent to it.
    pub requires: Vec<ResourceKey>,
    /// The objects that decided the content of this resource.
    pub origins: BTreeSet<ObjectRef>,
}

impl Resource {
    pub(crate) fn new(
        kind: ResourceKind,
        name: &str,
        body: Vec<u8>,
        mut requires: Vec<ResourceKey>,
        origins: BTreeSet<ObjectRef>,
    ) -> Arc<Self> {
        requires.sort();
        requires.dedup();
        let version = version_of(&body);
        Arc::new(Self {
            key: ResourceKey::new(kind, name),
            version,
            body: body.into(),
            requires,
            origins,
        })
    }
}

fn version_of(body: &[u8]) -> Arc<str> {
    use std::fmt::Write;
    let digest = Sha256::digest(body);
    let mut text = String::with_capacity(16);
    for byte in digest.iter().take(8) {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text.into()
}

/// Resources that stand or fall together. One that is unchanged between compiles, or shared by several proxies, is the very same `Arc`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// The resources. The same resource may be in several parts of a view; then it is the very same `Arc`.
    pub resources: Vec<Arc<Resource>>,
}

/// Everything one proxy should have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// The parts, in the order of their keys.
    pub parts: Vec<Arc<Part>>,
    /// Names that the proxy asked for and shall not get.
    pub absent: BTreeSet<Arc<str>>,
    /// The dependencies of the view: as long as none of them is touched, the view stays unchanged.
    pub depends: BTreeSet<Dependency>,
}

impl View {
    /// The resources of all parts by key.
    #[must_use]
    pub fn resources(&self) -> BTreeMap<ResourceKey, Arc<Resource>> {
        let all = self.parts.iter().flat_map(|part| &part.resources);
        all.map(|resource| (resource.key.clone(), Arc::clone(resource)))
            .collect()
    }
}
