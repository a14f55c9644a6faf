//! The inputs of units, and the record of the inputs that a unit read.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;

use crate::kind::ObjectKind;
use crate::world::NamespacedName;

/// A fact that units read: a part of the world, or the output of a unit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum UnitInput {
    /// The objects of a kind in a namespace, and their rejections.
    Declared(ObjectKind, Arc<str>),
    /// The definition of a service.
    Service(NamespacedName),
    /// The endpoints of a service, and the pods behind them.
    Endpoints(NamespacedName),
    /// The templates that the pods of a namespace have.
    Pods(Arc<str>),
    /// The rules of a service.
    Rules(NamespacedName),
    /// The backends that the rules of a service name, without their weights.
    Backends(NamespacedName),
    /// The traffic policy of a service in force.
    TrafficPolicy(NamespacedName),
    /// The policies of a namespace in force.
    Policies(Arc<str>),
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
    pub(super) fn record(&self, name: &NamespacedName, input: fn(NamespacedName) -> UnitInput) {
        if self.own.as_ref() != Some(name) {
            self.add(input(name.clone()));
        }
    }

    /// Records that a unit which knows its service reads the service's rules all the same.
    pub(super) fn record_own_rules(&self) {
        if let Some(own) = &self.own {
            self.add(UnitInput::Rules(own.clone()));
        }
    }

    pub(super) fn add(&self, input: UnitInput) {
        self.recorded.borrow_mut().insert(input);
    }

    pub(super) fn into_inputs(self) -> BTreeSet<UnitInput> {
        self.recorded.into_inner()
    }
}
