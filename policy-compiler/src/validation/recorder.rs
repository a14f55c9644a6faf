//! The world as one unit sees it. Records each read.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use heddle_crds::ExternalServiceSpec;

use super::addresses::Addresses;
use super::endpoints::{self, EndpointInputs, Readiness};
use super::inputs::{Reads, Target, UnitInput};
use crate::finding::ObjectRef;
use crate::kind::ObjectKind;
use crate::settings::Settings;
use crate::world::{
    Declared, DeclaredSpec, Family, History, Labels, NamespacedName, OF_EVERY_CLUSTER, Port,
    Service, World, in_namespace, selects,
};

/// The world of one unit. Settings are not recorded: if they change, every unit is compiled.
pub(crate) struct Recorder<'a> {
    world: &'a World,
    addresses: &'a Addresses,
    reads: Reads,
}

impl<'a> Recorder<'a> {
    /// The world of a unit of a namespace.
    pub(crate) fn new(world: &'a World, addresses: &'a Addresses) -> Self {
        Self {
            world,
            addresses,
            reads: Reads::default(),
        }
    }

    /// The world of a unit of a service.
    pub(crate) fn of_service(
        world: &'a World,
        addresses: &'a Addresses,
        service: &NamespacedName,
    ) -> Self {
        Self {
            world,
            addresses,
            reads: Reads::of_service(service),
        }
    }

    /// The recorded reads.
    pub(crate) fn into_reads(self) -> BTreeSet<UnitInput> {
        self.reads.into_inputs()
    }

    /// Records the read of an input of a service.
    pub(crate) fn record(
        &self,
        name: &NamespacedName,
        input: impl FnOnce(NamespacedName) -> UnitInput,
    ) {
        self.reads.record(name, input);
    }

    /// Records the read of the policies of a kind that are attached to a service.
    pub(crate) fn record_attached(&self, kind: ObjectKind, service: &NamespacedName) {
        self.record(service, |name| {
            UnitInput::Attached(kind, Target::Service(name))
        });
    }

    /// Records the read of the policies of a kind that are attached to the callers of every namespace.
    pub(crate) fn record_for_all_callers(&self, kind: ObjectKind) {
        let target = Target::Callers(None);
        self.reads.add(UnitInput::Attached(kind, target));
    }

    /// Records the read of the policies of a kind that are attached to the hosts of an `ExternalService`.
    pub(crate) fn record_of_external(&self, kind: ObjectKind, object: &ObjectRef) {
        let target = Target::External(NamespacedName::of(object));
        self.reads.add(UnitInput::Attached(kind, target));
    }

    /// Records the read of the policies of a kind that are attached to a route or split.
    pub(crate) fn record_of_route(&self, kind: ObjectKind, route: &ObjectRef) {
        let target = Target::Route(route.clone());
        self.reads.add(UnitInput::Attached(kind, target));
    }

    /// Reads an object of another kind than that of the unit.
    pub(crate) fn other<S: DeclaredSpec>(&self, name: &NamespacedName) -> Option<&'a Declared<S>> {
        let namespace = Arc::clone(&name.namespace);
        self.reads.add(UnitInput::Declared(S::KIND, namespace));
        let all = S::objects(&self.world.declared);
        all.get(name).map(|declared| &**declared)
    }

    /// Reads an `ExternalService`.
    pub(crate) fn external_service(
        &self,
        name: &NamespacedName,
    ) -> Option<&'a Declared<ExternalServiceSpec>> {
        self.other(name)
    }

    /// Records the read of the addresses of the services that have a port.
    pub(crate) fn record_port(&self, port: Port) {
        self.reads.add(UnitInput::PortAddresses(port));
    }

    /// Records that the unit of a service reads the policies of a kind that are attached to that service. The client side reads them without a
    /// record.
    pub(crate) fn record_own_attached(&self, kind: ObjectKind) {
        self.reads.record_own_attached(kind);
    }

    /// Records that views of the unit's service read the callers that a backend denies.
    pub(crate) fn denied_by(&self, backend: &NamespacedName) {
        self.record(backend, UnitInput::Admission);
        self.record(backend, UnitInput::Unmeshed);
    }

    /// If a namespace is missing, returns the fix.
    pub(crate) fn missing_namespace(&self, name: &str) -> Option<String> {
        for name in [name, OF_EVERY_CLUSTER] {
            self.reads.add(UnitInput::Namespace(name.into()));
        }
        let fix = self.world.missing_namespace(name)?;
        self.reads.add(UnitInput::Namespaces);
        Some(fix)
    }

    /// Whether the labels of a namespace are known. Files may lack it, and its pods then seem to get no sidecar.
    pub(crate) fn knows_namespace(&self, name: &str) -> bool {
        self.reads.add(UnitInput::Namespace(name.into()));
        !self.world.offline || self.world.namespaces.contains(name)
    }

    /// Records the read of the service accounts of the pods of a namespace.
    pub(crate) fn record_service_accounts(&self, namespace: &str) {
        self.reads.add(UnitInput::ServiceAccounts(namespace.into()));
    }

    /// The service that has an address.
    pub(crate) fn service_at(&self, ip: IpAddr) -> Option<&'a NamespacedName> {
        let ip = ip.to_canonical();
        self.reads.add(UnitInput::ServiceAt(ip));
        self.addresses.services(ip).next()
    }

    /// The objects of a declared kind in the unit's namespace, by name.
    pub(crate) fn declared<S: DeclaredSpec>(
        &self,
        namespace: &'a str,
    ) -> impl Iterator<Item = &'a Declared<S>> {
        let all = in_namespace(S::objects(&self.world.declared), namespace);
        all.map(|(_, declared)| &**declared)
    }

    /// The history of an object of the unit's namespace.
    pub(crate) fn history(&self, object: &ObjectRef) -> History<'a> {
        self.world.history(object)
    }

    /// Whether readiness means nothing. A change of this compiles every unit.
    pub(crate) const fn offline(&self) -> bool {
        self.world.offline
    }

    /// A service, whether it is there or not.
    pub(crate) fn service(&self, name: &NamespacedName) -> Option<&'a Service> {
        self.record(name, UnitInput::Service);
        self.world.services.get(name).map(|service| &**service)
    }

    /// Whether a service is of type `ExternalName`: a name without endpoints.
    pub(crate) fn is_external(&self, name: &NamespacedName) -> bool {
        self.record(name, UnitInput::Service);
        self.world.external.contains_key(name)
    }

    /// Whether manifests contain a pod template of a service with these labels; `None` if none is of the service at all. Pods of a
    /// cluster are found by their endpoints.
    pub(crate) fn has_pod(&self, service: &NamespacedName, subset: &Labels) -> Option<bool> {
        let service = self.service(service).filter(|_| self.world.offline);
        let Some(service) = service else {
            return Some(false);
        };
        let namespace = &service.name.namespace;
        self.reads.add(UnitInput::Pods(Arc::clone(namespace)));
        let pods = in_namespace(&self.world.pods, namespace);
        let mut labels = pods
            .map(|(_, pod)| &pod.template.labels)
            .filter(|labels| selects(&service.selector, labels))
            .peekable();
        labels.peek()?;
        Some(labels.any(|labels| selects(subset, labels)))
    }

    /// Returns how many endpoints a service has, perhaps only of pods with these labels.
    pub(crate) fn readiness(
        &self,
        settings: &Settings,
        service: &NamespacedName,
        port: Port,
        subset: Option<&Labels>,
    ) -> Readiness {
        endpoints::readiness(self.endpoint_inputs(), settings, service, port, subset)
    }

    /// Whether a service has a ready endpoint, perhaps only of pods with these labels.
    pub(crate) fn takes_traffic(
        &self,
        settings: &Settings,
        service: &NamespacedName,
        port: Port,
        subset: Option<&Labels>,
    ) -> bool {
        endpoints::takes_traffic(self.endpoint_inputs(), settings, service, port, subset)
    }

    /// Whether a port of a service has a ready endpoint for callers of a family. In contrast to [`Self::takes_traffic`], the unit does not run
    /// again for other changes of the endpoints.
    pub(crate) fn is_ready(
        &self,
        settings: &Settings,
        (service, port): (&NamespacedName, Port),
        called: Option<Family>,
    ) -> bool {
        self.record(service, UnitInput::Service);
        self.record(service, UnitInput::Ready);
        let unrecorded = Reads::default();
        let inputs = EndpointInputs::new(&unrecorded, self.world, self.addresses);
        endpoints::is_ready(inputs, settings, (service, port), None, called)
    }

    pub(crate) const fn endpoint_inputs(&self) -> EndpointInputs<'_> {
        EndpointInputs::new(&self.reads, self.world, self.addresses)
    }
}
