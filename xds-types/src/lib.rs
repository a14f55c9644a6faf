//! The kinds of xDS resources, their keys, the names in a sidecar's bootstrap, the report on a sidecar, the traffic of
//! edges, the ends of pods, and taps: each defined once for the compiler, the discovery server, the operator, the agent and the command line.

pub mod api;
pub mod bootstrap;
pub mod denial;
pub mod edges;
pub mod golden;
mod identity;
mod kind;
pub mod prometheus;
mod proxy_state;
pub mod rollout;
pub mod tap;

use std::fmt;
use std::sync::Arc;

pub use identity::account_of;
pub use kind::{PerKind, ResourceKind};
pub use proxy_state::{CertificateTimes, ProxyState};

/// The name of a resource, shared by all structures that mention it.
pub type Name = Arc<str>;

/// Kind and name: they identify a resource.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceKey {
    /// The xDS type.
    pub kind: ResourceKind,
    /// The name on the wire.
    pub name: Name,
}

impl ResourceKey {
    /// Returns the key of a resource.
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
