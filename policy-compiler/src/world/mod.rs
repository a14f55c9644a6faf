//! The input of a compile: the objects of the cluster, immutable and sorted, in our own valid types.
//!
//! The maps are persistent: the copy of a world costs next to nothing, and a comparison of two worlds skips their shared parts.

mod bucket;
mod declared;
mod declared_destinations;
mod family;
mod intern;
mod names;
mod protocol;
mod remembered;
mod service;
mod slips;
mod workload;

use std::sync::Arc;

use imbl::{OrdMap, OrdSet};

pub use bucket::Bucket;
pub use declared::Declared;
pub(crate) use declared::{DeclaredObjects, DeclaredSpec};
pub use declared_destinations::{DESTINATIONS, DeclaredDestination};
pub use family::Family;
pub(crate) use family::mapped_block;
pub(crate) use intern::Interner;
pub use names::{
    Labels, NamespacedName, PodRef, Port, SpiffeId, WorkloadRef, is_namespace_name, selects,
};
pub(crate) use names::{
    MAX_LABEL, MAX_NAME, is_dns_label, is_label_key, is_label_value, to_labels, too_large,
};
pub use protocol::Protocol;
pub(crate) use protocol::is_tcp;
pub(crate) use remembered::History;
pub use remembered::Remembered;
pub use service::{
    Endpoint, EndpointsByPort, ExternalAddresses, Near, OtherServicePort, Service, ServicePort,
    TargetPort,
};
pub(crate) use slips::{is_near, is_slip};
pub use workload::{
    Capture, ContainerPort, OtherPort, OtherTransport, Pod, PodTemplate, Probe, ProbeKind,
    Standalone,
};

use crate::finding::{Finding, ObjectRef};

/// A generation of an object that Envoy rejected.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectRejection {
    /// The object that caused the rejected resource.
    pub object: ObjectRef,
    /// The rejected generation.
    pub generation: i64,
    /// Envoy's text.
    pub text: String,
}

/// A namespace that every API server has.
pub(crate) const OF_EVERY_CLUSTER: &str = "kube-system";

/// All that a compile depends on.
#[derive(Clone, Debug, Default)]
pub struct World {
    pub(crate) declared: Arc<DeclaredObjects>,
    /// The names of the namespaces.
    pub(crate) namespaces: OrdSet<Arc<str>>,
    pub(crate) services: OrdMap<NamespacedName, Arc<Service>>,
    /// The host names of `ExternalName` services. They have no addresses, so that no proxy is told of them.
    pub(crate) external: OrdMap<NamespacedName, Arc<String>>,
    pub(crate) endpoints: OrdMap<NamespacedName, Arc<EndpointsByPort>>,
    pub(crate) pods: OrdMap<PodRef, Arc<Pod>>,
    /// The webhook's messages about pods that do not exist yet.
    pub(crate) injection: Arc<[Finding]>,
    /// No endpoint slice and no pod is known: a directory of manifests, where readiness means nothing.
    pub(crate) offline: bool,
    pub(crate) rejections: OrdMap<ObjectRef, Arc<ObjectRejection>>,
    /// The past of declared objects.
    pub(crate) remembered: OrdMap<ObjectRef, Arc<Remembered>>,
    /// The trust domain of the mesh's root. `None`: no root exists yet, so that the `Mesh` chooses.
    pub(crate) trust_domain: Option<Arc<str>>,
}

impl World {
    /// Whether a namespace is missing. A list without [`OF_EVERY_CLUSTER`] is one of some files, and proves nothing.
    pub(crate) fn lacks_namespace(&self, name: &str) -> bool {
        self.namespaces.contains(OF_EVERY_CLUSTER) && !self.namespaces.contains(name)
    }

    /// If a namespace is missing, returns the fix: another name, which is probably meant.
    pub(crate) fn missing_namespace(&self, name: &str) -> Option<String> {
        self.lacks_namespace(name).then(|| {
            let mut all = self.namespaces.iter();
            match all.find(|known| is_slip(known, name)) {
                Some(known) => format!("there is a namespace {known}: is that meant?"),
                None => "correct the name, or create the namespace".to_owned(),
            }
        })
    }

    /// The services by name.
    #[must_use]
    pub const fn services(&self) -> &OrdMap<NamespacedName, Arc<Service>> {
        &self.services
    }

    /// The pods by name.
    #[must_use]
    pub const fn pods(&self) -> &OrdMap<PodRef, Arc<Pod>> {
        &self.pods
    }

    /// Whether both are of the same maps, so that nothing differs. Equal worlds with maps of their own are not the same.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.declared.is_same(&other.declared)
            && self.namespaces.ptr_eq(&other.namespaces)
            && self.services.ptr_eq(&other.services)
            && self.external.ptr_eq(&other.external)
            && self.endpoints.ptr_eq(&other.endpoints)
            && self.pods.ptr_eq(&other.pods)
            && self.rejections.ptr_eq(&other.rejections)
            && self.remembered.ptr_eq(&other.remembered)
            && self.injection == other.injection
            && self.offline == other.offline
            && self.trust_domain == other.trust_domain
    }

    /// Returns the world as it would be if Envoy had rejected these objects, too.
    #[must_use]
    pub fn rejecting(&self, rejections: impl IntoIterator<Item = ObjectRejection>) -> Self {
        let mut world = self.clone();
        for rejection in rejections {
            let object = rejection.object.clone();
            world.rejections.insert(object, Arc::new(rejection));
        }
        world
    }

    /// The endpoints of a service by port name.
    #[must_use]
    pub fn endpoints(&self, service: &NamespacedName) -> Option<&EndpointsByPort> {
        self.endpoints.get(service).map(|endpoints| &**endpoints)
    }
}

/// The entries of one namespace, in order.
pub(crate) fn in_namespace<'a, V>(
    map: &'a OrdMap<NamespacedName, V>,
    namespace: &'a str,
) -> impl Iterator<Item = (&'a NamespacedName, &'a V)> {
    map.range(NamespacedName::new(namespace, "")..)
        .take_while(move |(name, _)| *name.namespace == *namespace)
}
