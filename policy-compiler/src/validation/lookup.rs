//! What judging the objects of a namespace may look at. It remembers which services were looked at: those are the unit's inputs.

use std::cell::RefCell;
use std::collections::BTreeSet;

use super::addresses::Addresses;
use super::endpoints::{self, EndpointInputs, Readiness};
use crate::finding::ObjectRef;
use crate::world::{Labels, NamespacedName, Port, Refusal, Service, World, in_namespace, selects};

/// A world seen by one unit.
pub(crate) struct Lookup<'a> {
    world: &'a World,
    addresses: &'a Addresses,
    services: RefCell<BTreeSet<NamespacedName>>,
}

impl<'a> Lookup<'a> {
    pub(crate) const fn new(world: &'a World, addresses: &'a Addresses) -> Self {
        Self {
            world,
            addresses,
            services: RefCell::new(BTreeSet::new()),
        }
    }

    /// A service, whether it is there or not.
    pub(crate) fn service(&self, name: &NamespacedName) -> Option<&'a Service> {
        self.note(name);
        self.world.services.get(name).map(|service| &**service)
    }

    /// Whether a service is of type `ExternalName`: a name without endpoints.
    pub(crate) fn is_external(&self, name: &NamespacedName) -> bool {
        self.note(name);
        self.world.external.contains_key(name)
    }

    /// How many endpoints a service has, perhaps only of pods with these labels.
    pub(crate) fn readiness(
        &self,
        service: &NamespacedName,
        port: Port,
        subset: Option<&Labels>,
    ) -> Readiness {
        self.note(service);
        let inputs = EndpointInputs {
            world: self.world,
            addresses: self.addresses,
        };
        endpoints::readiness(inputs, service, port, subset)
    }

    /// Whether a service has a ready endpoint, perhaps only of pods with these labels.
    pub(crate) fn takes_traffic(
        &self,
        service: &NamespacedName,
        port: Port,
        subset: Option<&Labels>,
    ) -> bool {
        self.note(service);
        let inputs = EndpointInputs {
            world: self.world,
            addresses: self.addresses,
        };
        endpoints::takes_traffic(inputs, service, port, subset)
    }

    /// Whether manifests may contain a pod template of a service with these labels: one does, or none is of the service at all. Pods of a
    /// cluster are found by their endpoints.
    pub(crate) fn has_pod(&self, service: &NamespacedName, subset: &Labels) -> bool {
        self.note(service);
        let Some(service) = self.world.services.get(service) else {
            return false;
        };
        if !self.world.offline {
            return false;
        }
        let pods = in_namespace(&self.world.workloads, &service.name.namespace);
        let mut labels = pods
            .map(|(_, pod)| &pod.shape.labels)
            .filter(|labels| selects(&service.selector, labels))
            .peekable();
        labels.peek().is_none() || labels.any(|labels| selects(subset, labels))
    }

    /// Whether readiness means nothing.
    pub(crate) const fn offline(&self) -> bool {
        self.world.offline
    }

    /// What Envoy refused of an object.
    pub(crate) fn refusal(&self, object: &ObjectRef) -> Option<&'a Refusal> {
        self.world.refusals.get(object).map(|refusal| &**refusal)
    }

    /// Every service that was looked at.
    pub(crate) fn into_services(self) -> BTreeSet<NamespacedName> {
        self.services.into_inner()
    }

    fn note(&self, name: &NamespacedName) {
        self.services.borrow_mut().insert(name.clone());
    }
}
