//! The inputs of units, and the record of the inputs that a unit read.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use crate::finding::ObjectRef;
use crate::kind::ObjectKind;
use crate::world::{NamespacedName, Port};

/// The object or objects that a policy is attached to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Target {
    /// A service, of any namespace.
    Service(NamespacedName),
    /// The pods of a namespace, or some of them.
    Pods(Arc<str>),
    /// The workloads of a namespace as callers of hosts outside the mesh; those of every namespace (`None`).
    Callers(Option<Arc<str>>),
    /// The hosts of an `ExternalService`.
    External(NamespacedName),
    /// The rules of a route or split.
    Route(ObjectRef),
}

/// A fact that units read: a part of the world, or the output of a unit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum UnitInput {
    /// Whether there is a namespace of that name.
    Namespace(Arc<str>),
    /// The names of all namespaces.
    Namespaces,
    /// The definition of a service.
    Service(NamespacedName),
    /// The endpoints of a service, and the pods behind them.
    Endpoints(NamespacedName),
    /// Which ports of a service have a ready endpoint.
    Ready(NamespacedName),
    /// The templates that the pods of a namespace have.
    Pods(Arc<str>),
    /// The objects of a kind in a namespace, as they are declared.
    Declared(ObjectKind, Arc<str>),
    /// The policies of a kind that are attached to a target.
    Attached(ObjectKind, Target),
    /// The backends that the rules of a service name, without their weights.
    Backends(NamespacedName),
    /// The compiled templates that a service selects.
    Selected(NamespacedName),
    /// The feedback of the pods of a namespace for policies.
    Feedback(Arc<str>),
    /// The callers that a service admits.
    Admission(NamespacedName),
    /// The clusters of a service as a whole.
    Clusters(NamespacedName),
    /// The ports of a service that have endpoints without a sidecar.
    Unmeshed(NamespacedName),
    /// The addresses of the services that have a port.
    PortAddresses(Port),
    /// The services that have an address.
    ServiceAt(IpAddr),
    /// The service accounts of the pods of a namespace that have a sidecar, and of those that have none.
    ServiceAccounts(Arc<str>),
}

/// The recorded reads of one run of a unit.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    /// The service that the unit belongs to. Reads of it are known without a record.
    own: Option<NamespacedName>,
    recorded: RefCell<BTreeSet<UnitInput>>,
}

impl Reads {
    pub(super) fn of_service(service: &NamespacedName) -> Self {
        Self {
            own: Some(service.clone()),
            recorded: RefCell::default(),
        }
    }

    /// Records the read of an input of a service.
    pub(super) fn record(
        &self,
        name: &NamespacedName,
        input: impl FnOnce(NamespacedName) -> UnitInput,
    ) {
        if self.own.as_ref() != Some(name) {
            self.add(input(name.clone()));
        }
    }

    pub(super) fn record_own_attached(&self, kind: ObjectKind) {
        if let Some(own) = &self.own {
            self.add(UnitInput::Attached(kind, Target::Service(own.clone())));
        }
    }

    pub(super) fn add(&self, input: UnitInput) {
        self.recorded.borrow_mut().insert(input);
    }

    pub(super) fn into_inputs(self) -> BTreeSet<UnitInput> {
        self.recorded.into_inner()
    }
}
