//! The services that have a pod, and the services with configurations that can have its endpoints.

use std::collections::BTreeSet;

use super::Compiled;
use super::units::UnitId;
use crate::validation::inputs::UnitInput;
use crate::world::{Endpoint, NamespacedName, PodRef, in_namespace};

/// The ways by which callers can have the endpoints of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Exposure {
    /// The services with a slice that names the pod.
    pub services: BTreeSet<NamespacedName>,
    /// The services with clusters that can have endpoints of those: themselves, and those with rules that name one of them
    /// as a backend. A view with such a cluster depends on the service.
    pub called: BTreeSet<NamespacedName>,
    /// Whether a slice lists the pod as ready.
    pub ready: bool,
}

impl Compiled {
    /// Returns the exposure of a pod. The cost is that of the endpoints of its namespace.
    #[must_use]
    pub fn exposure(&self, pod: &PodRef) -> Exposure {
        let mut exposure = Exposure::default();
        for (service, ports) in in_namespace(&self.world.endpoints, &pod.namespace) {
            let own = |endpoint: &&Endpoint| endpoint.pod.as_ref() == Some(pod);
            let mut own = ports.values().flatten().filter(own).peekable();
            if own.peek().is_none() {
                continue;
            }
            exposure.ready |= own.any(|endpoint| endpoint.ready);
            exposure.services.insert(service.clone());
            exposure.called.insert(service.clone());
            for input in [
                UnitInput::Endpoints(service.clone()),
                UnitInput::Clusters(service.clone()),
            ] {
                for unit in self.readers.of(&input) {
                    if let UnitId::Client(called) = unit {
                        exposure.called.insert(called.clone());
                    }
                }
            }
        }
        exposure
    }
}
