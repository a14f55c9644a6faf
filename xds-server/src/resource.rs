//! What is served: resources, each the encoded bytes of one Envoy message, and the views made of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

/// The name of a resource, shared between everyone who mentions it.
pub type Name = Arc<str>;

/// The kinds of resources served. Their order is the order in which responses are sent (CDS, EDS, LDS, RDS).
///
/// A new kind is a variant here; every `match` that has to know about it then fails to compile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceKind {
    /// `envoy.config.cluster.v3.Cluster`, CDS.
    Cluster,
    /// `envoy.config.endpoint.v3.ClusterLoadAssignment`, EDS; named as its cluster.
    Endpoints,
    /// `envoy.config.listener.v3.Listener`, LDS.
    Listener,
    /// `envoy.config.route.v3.RouteConfiguration`, RDS.
    Route,
}

impl ResourceKind {
    /// Every kind, in the order in which they are sent.
    pub const ALL: [Self; 4] = [Self::Cluster, Self::Endpoints, Self::Listener, Self::Route];

    /// The type URL of the kind, as it stands in requests and in `Any`.
    #[must_use]
    pub const fn type_url(self) -> &'static str {
        match self {
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Endpoints => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::Route => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        }
    }

    /// The kind a type URL means, if it is one of ours.
    #[must_use]
    pub fn from_type_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == url)
    }

    /// The short name of the discovery service, for logs and metric labels.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Cluster => "cds",
            Self::Endpoints => "eds",
            Self::Listener => "lds",
            Self::Route => "rds",
        }
    }

    /// Whether an empty first subscription means everything, and a state-of-the-world response is always complete.
    ///
    /// The protocol says so of LDS and CDS only; the other kinds are subscribed by name.
    #[must_use]
    pub const fn is_complete(self) -> bool {
        match self {
            Self::Cluster | Self::Listener => true,
            Self::Endpoints | Self::Route => false,
        }
    }
}

impl fmt::Display for ResourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// One resource is known by its kind and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceKey {
    /// What it is.
    pub kind: ResourceKind,
    /// Its name on the wire.
    pub name: Name,
}

impl ResourceKey {
    /// The key of a resource.
    pub fn new(kind: ResourceKind, name: impl Into<Name>) -> Self {
        Self {
            kind,
            name: name.into(),
        }
    }
}

impl fmt::Display for ResourceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind, self.name)
    }
}

/// One resource, immutable: another content is another version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Its kind and name.
    pub key: ResourceKey,
    /// A hash of the body: equal versions of a key have equal bodies.
    pub version: Arc<str>,
    /// The encoded message itself, not the `Any` around it.
    pub body: Bytes,
    /// What a client must have acknowledged before it is given this one.
    ///
    /// Requirements must not form a circle. One that is not in the view does not count. See [`crate::session`]
    /// for those that a client can only ask for once it holds this one.
    pub requires: Vec<ResourceKey>,
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
