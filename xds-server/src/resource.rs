//! The served data: resources, each the encoded bytes of one Envoy message, and the views made of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
pub use heddle_xds_types::{Name, PerKind, ResourceKey, ResourceKind};

/// One resource, immutable: another content is another version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Its kind and name.
    pub key: ResourceKey,
    /// A hash of the body: equal versions of a key have equal bodies.
    pub version: Arc<str>,
    /// The encoded message itself, not the `Any` around it.
    pub body: Bytes,
    /// The resources that a client must have acknowledged before it is given this one.
    ///
    /// Requirements must not form a circle. One that is not in the view does not count. See [`crate::session`]
    /// for those that a client can only ask for once it holds this one.
    pub requires: Vec<ResourceKey>,
    /// Endpoints without any address. A client that has some keeps them until its routes lead elsewhere.
    pub empty: bool,
}

/// Resources that come, change and go together.
///
/// Parts are immutable and shared: between views, between subscribers, and over time. The same `Arc` means that nothing
/// in it changed, and is not looked into again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// The resources, in no particular order, each key once.
    pub resources: Box<[Arc<Resource>]>,
}

/// All that one subscriber may hold at one moment. A view is consistent in itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// The parts, in no particular order. A key may stand in several of them, then everywhere at the same version.
    pub parts: Vec<Arc<Part>>,
    /// On-demand names that are to be refused. One that stands neither here nor among the resources is left
    /// unanswered until it does.
    pub absent: BTreeSet<Name>,
    /// When the change that led to this view was seen; how long it took until all was acknowledged is measured from here.
    pub since: Option<Instant>,
}

impl View {
    /// Every resource of every part.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.parts.iter().flat_map(|part| part.resources.iter())
    }

    /// The resources by key. It costs the whole view: for display and tests.
    #[must_use]
    pub fn resources(&self) -> BTreeMap<ResourceKey, Arc<Resource>> {
        self.iter()
            .map(|resource| (resource.key.clone(), Arc::clone(resource)))
            .collect()
    }
}

/// A view of one part.
impl FromIterator<Resource> for View {
    fn from_iter<I: IntoIterator<Item = Resource>>(resources: I) -> Self {
        let part = Part {
            resources: resources.into_iter().map(Arc::new).collect(),
        };
        Self {
            parts: vec![Arc::new(part)],
            ..Self::default()
        }
    }
}
