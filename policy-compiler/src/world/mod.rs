//! The input of a compile: an immutable, sorted picture of the cluster in our own valid types.

mod builder;
mod declared;
mod names;
mod protocol;
mod service;
mod workload;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

pub use builder::WorldBuilder;
pub use declared::Declared;
pub use names::{Labels, NamespacedName, PodRef, Port, SpiffeId, selects};
pub use protocol::Protocol;
pub use service::{Endpoint, EndpointsByPort, Service, ServicePort, TargetPort};
pub use workload::{Capture, ContainerPort, Probe, ProbeKind, Standalone, Workload};

use crate::finding::ObjectRef;

/// A generation of an object that Envoy refused.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refusal {
    /// The object that caused the refused resource.
    pub object: ObjectRef,
    /// The generation refused.
    pub generation: i64,
    /// Envoy's own words.
    pub text: String,
}

/// All that a compile depends on.
#[derive(Clone, Debug, Default)]
pub struct World {
    pub(crate) meshes: BTreeMap<Arc<str>, Declared<heddle_crds::MeshSpec>>,
    pub(crate) splits: BTreeMap<NamespacedName, Declared<heddle_crds::TrafficSplitSpec>>,
    pub(crate) policies: BTreeMap<NamespacedName, Declared<heddle_crds::AuthPolicySpec>>,
    pub(crate) services: BTreeMap<NamespacedName, Service>,
    pub(crate) endpoints: BTreeMap<NamespacedName, EndpointsByPort>,
    pub(crate) workloads: BTreeMap<PodRef, Workload>,
    /// No endpoint slice and no pod is known: a directory of manifests, where readiness means nothing.
    pub(crate) offline: bool,
    pub(crate) refusals: BTreeMap<ObjectRef, Refusal>,
}

impl World {
    /// Starts an empty world.
    #[must_use]
    pub fn builder() -> WorldBuilder {
        WorldBuilder::default()
    }

    /// The services by name.
    #[must_use]
    pub const fn services(&self) -> &BTreeMap<NamespacedName, Service> {
        &self.services
    }

    /// The pods by name.
    #[must_use]
    pub const fn workloads(&self) -> &BTreeMap<PodRef, Workload> {
        &self.workloads
    }

    /// The endpoints of a service by port name.
    #[must_use]
    pub fn endpoints(&self, service: &NamespacedName) -> Option<&EndpointsByPort> {
        self.endpoints.get(service)
    }

    /// The pod that has an address, if exactly one living pod has it (pods of the host's network share theirs).
    #[must_use]
    pub fn workload_at(&self, ip: IpAddr) -> Option<&Workload> {
        let mut found = self
            .workloads
            .values()
            .filter(|w| w.alive && w.ips.contains(&ip));
        let first = found.next()?;
        found.next().is_none().then_some(first)
    }
}
