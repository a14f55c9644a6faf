//! The units of a compile, their inputs, and the index from inputs to the units that read them.
//!
//! A unit is a memoized function of its inputs. A unit that belongs to one service (or namespace) reads the inputs of that service (or
//! namespace) without a record: [`UnitInput::own_readers`] names the readers. Reads of other services are recorded, in any namespace.

use std::collections::BTreeSet;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};

use crate::kind::ObjectKind;
use crate::validation::inputs::{Target, UnitInput};
use crate::world::{NamespacedName, PodTemplate};

/// A unit of a compile, except the settings and the descriptions of proxies. A unit reads outputs of earlier variants only, so that the
/// order of the variants is the order of compilation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum UnitId {
    /// The policies of a kind in a namespace. Kinds are in the order of the list.
    Policies(ObjectKind, Arc<str>),
    /// The server side of a pod template.
    Template(Arc<PodTemplate>),
    /// The effect of the policies of a namespace on its pods.
    Reach(Arc<str>),
    /// The statuses of the policies of a namespace, with the feedback of its pods.
    Statuses(Arc<str>),
    /// The callers that a service admits.
    Admission(NamespacedName),
    /// The clusters of a service as a whole.
    Clusters(NamespacedName),
    /// The client side of a service, and its findings.
    Client(NamespacedName),
    /// The callers that are denied by every backend of a service. Views read this themselves.
    Callers(NamespacedName),
    /// The hosts outside the mesh for the workloads of a namespace; for those of namespaces that no object names (`None`).
    Egress(Option<Arc<str>>),
}

impl UnitId {
    fn namespace(&self) -> Option<&Arc<str>> {
        match self {
            Self::Policies(_, namespace) | Self::Reach(namespace) | Self::Statuses(namespace) => {
                Some(namespace)
            }
            Self::Template(template) => Some(&template.namespace),
            Self::Admission(service)
            | Self::Clusters(service)
            | Self::Client(service)
            | Self::Callers(service) => Some(&service.namespace),
            Self::Egress(namespace) => namespace.as_ref(),
        }
    }

    /// The service that the unit belongs to.
    pub(crate) const fn service(&self) -> Option<&NamespacedName> {
        match self {
            Self::Admission(service)
            | Self::Clusters(service)
            | Self::Client(service)
            | Self::Callers(service) => Some(service),
            Self::Policies(..)
            | Self::Template(_)
            | Self::Reach(_)
            | Self::Statuses(_)
            | Self::Egress(_) => None,
        }
    }

    /// Whether both are compiled in one step: units of one kind and namespace.
    fn is_beside(&self, other: &Self) -> bool {
        // Policies of a later kind may read those of an earlier one.
        std::mem::discriminant(self) == std::mem::discriminant(other)
            && self.namespace() == other.namespace()
            && !matches!(self, Self::Policies(..))
    }
}

impl UnitInput {
    /// Calls `read` with every unit that reads this input by its name. Templates are not among them: a service and a policy concern those
    /// that they select.
    fn own_readers(&self, mut read: impl FnMut(UnitId)) {
        match self {
            Self::Service(service) => {
                read(UnitId::Reach(Arc::clone(&service.namespace)));
                read(UnitId::Admission(service.clone()));
                read(UnitId::Clusters(service.clone()));
                read(UnitId::Client(service.clone()));
            }
            Self::Endpoints(service) => {
                read(UnitId::Clusters(service.clone()));
                read(UnitId::Client(service.clone()));
            }
            Self::Pods(namespace) => read(UnitId::Reach(Arc::clone(namespace))),
            Self::Attached(kind, Target::Service(service)) => {
                if kind.is_in_clusters() {
                    read(UnitId::Clusters(service.clone()));
                }
                if *kind == ObjectKind::TrafficPolicy {
                    // Those of other namespaces may win over those of the service's namespace.
                    read(UnitId::Statuses(Arc::clone(&service.namespace)));
                }
                read(UnitId::Client(service.clone()));
            }
            Self::Attached(_, Target::Pods(namespace)) => {
                read(UnitId::Reach(Arc::clone(namespace)));
            }
            Self::Attached(_, Target::Callers(namespace)) => {
                read(UnitId::Egress(namespace.clone()));
            }
            Self::Backends(service) => {
                read(UnitId::Admission(service.clone()));
                read(UnitId::Callers(service.clone()));
            }
            Self::Selected(service) => read(UnitId::Admission(service.clone())),
            Self::Feedback(namespace) => read(UnitId::Statuses(Arc::clone(namespace))),
            Self::Clusters(service) => read(UnitId::Client(service.clone())),
            Self::Admission(service) | Self::Unmeshed(service) => {
                read(UnitId::Callers(service.clone()));
            }
            Self::Declared(..)
            | Self::Namespace(_)
            | Self::Namespaces
            | Self::Ready(_)
            | Self::PortAddresses(_)
            | Self::ServiceAt(_)
            | Self::ServiceAccounts(_) => {}
            // The hosts of an object are compiled for the namespaces that call them, the rules of a route with the services that it is
            // attached to.
            Self::Attached(_, Target::External(_) | Target::Route(_)) => {}
        }
    }

    /// Whether reads of it are recorded.
    const fn is_recorded(&self) -> bool {
        match self {
            Self::Declared(..)
            | Self::Namespace(_)
            | Self::Namespaces
            | Self::Service(_)
            | Self::Endpoints(_)
            | Self::Ready(_)
            | Self::Pods(_)
            | Self::Attached(
                _,
                Target::Service(_) | Target::Callers(_) | Target::External(_) | Target::Route(_),
            )
            | Self::Admission(_)
            | Self::Clusters(_)
            | Self::Unmeshed(_)
            | Self::PortAddresses(_)
            | Self::ServiceAt(_)
            | Self::ServiceAccounts(_) => true,
            Self::Attached(_, Target::Pods(_))
            | Self::Backends(_)
            | Self::Selected(_)
            | Self::Feedback(_) => false,
        }
    }
}

/// The recorded reads of all units, by input and by unit.
#[derive(Clone, Debug, Default)]
pub(crate) struct Readers {
    by_input: OrdMap<UnitInput, OrdSet<UnitId>>,
    by_unit: OrdMap<UnitId, Arc<BTreeSet<UnitInput>>>,
}

impl Readers {
    /// Puts the reads of a unit in the place of those of its last run.
    pub(crate) fn set(&mut self, unit: &UnitId, reads: BTreeSet<UnitInput>) {
        let none = Arc::default();
        let old = Arc::clone(self.by_unit.get(unit).unwrap_or(&none));
        if *old == reads {
            return;
        }
        for input in old.difference(&reads) {
            if let Some(units) = self.by_input.get_mut(input) {
                units.remove(unit);
                if units.is_empty() {
                    self.by_input.remove(input);
                }
            }
        }
        for input in reads.difference(&old) {
            let units = self.by_input.entry(input.clone()).or_default();
            units.insert(unit.clone());
        }
        if reads.is_empty() {
            self.by_unit.remove(unit);
        } else {
            self.by_unit.insert(unit.clone(), Arc::new(reads));
        }
    }

    /// Whether a unit has a recorded read of an input.
    pub(crate) fn reads(&self, input: &UnitInput) -> bool {
        self.by_input.contains_key(input)
    }

    /// Returns the units with a recorded read of an input.
    pub(crate) fn of(&self, input: &UnitInput) -> impl Iterator<Item = &UnitId> {
        let recorded = input.is_recorded().then(|| self.by_input.get(input));
        recorded.flatten().into_iter().flatten()
    }
}

/// The units to compile, in the order of compilation.
#[derive(Debug, Default)]
pub(crate) struct Queue(BTreeSet<UnitId>);

impl Queue {
    pub(crate) fn add(&mut self, unit: UnitId) {
        self.0.insert(unit);
    }

    /// Adds every reader of a changed input.
    pub(crate) fn add_readers(&mut self, input: &UnitInput, readers: &Readers) {
        input.own_readers(|unit| self.add(unit));
        self.0.extend(readers.of(input).cloned());
    }

    /// Whether all units of the queue come after these units, which [`Self::next`] returned. Else a unit has queued one that may have run
    /// before, with an input that is old now.
    pub(crate) fn is_after(&self, units: &[UnitId]) -> bool {
        let first = self.0.first();
        first.is_none_or(|first| units.iter().all(|unit| unit < first))
    }

    /// Takes the next units of one kind and namespace.
    pub(crate) fn next(&mut self) -> Option<Vec<UnitId>> {
        let first = self.0.pop_first()?;
        let mut units = Vec::new();
        while self.0.first().is_some_and(|next| next.is_beside(&first)) {
            units.extend(self.0.pop_first());
        }
        units.insert(0, first);
        Some(units)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(namespace: &str) -> NamespacedName {
        NamespacedName::new(namespace, "a")
    }

    fn queued(input: &UnitInput, readers: &Readers) -> Vec<UnitId> {
        let mut queue = Queue::default();
        queue.add_readers(input, readers);
        let batches = std::iter::from_fn(|| queue.next());
        batches.flatten().collect()
    }

    #[test]
    fn a_unit_is_queued_by_reads_of_other_namespaces() {
        let (shop, till, bank) = (service("shop"), service("till"), service("bank"));
        let unit = UnitId::Client(shop.clone());
        let mut readers = Readers::default();
        let reads = [&till, &bank].map(|name| UnitInput::Clusters(name.clone()));
        readers.set(&unit, BTreeSet::from(reads));
        for (changed, expected) in [
            (&shop, vec![unit.clone()]),
            (&till, vec![unit.clone(), UnitId::Client(till.clone())]),
            (&bank, vec![UnitId::Client(bank.clone()), unit.clone()]),
        ] {
            let mut queued = queued(&UnitInput::Clusters(changed.clone()), &readers);
            let mut expected = expected;
            queued.sort();
            expected.sort();
            assert_eq!(queued, expected, "{changed}");
        }
        readers.set(&unit, BTreeSet::from([UnitInput::Clusters(bank.clone())]));
        let queued = queued(&UnitInput::Clusters(till.clone()), &readers);
        assert_eq!(queued, [UnitId::Client(till)]);
        readers.set(&unit, BTreeSet::new());
        assert!(readers.by_input.is_empty() && readers.by_unit.is_empty());
    }

    #[test]
    fn a_unit_that_queues_an_earlier_kind_or_itself_is_noticed() {
        let name = service("shop");
        let unit = UnitId::Clusters(name.clone());
        for (queued, expected) in [
            (UnitId::Client(name.clone()), true),
            (unit.clone(), false),
            (UnitId::Reach(Arc::clone(&name.namespace)), false),
        ] {
            let mut queue = Queue::default();
            queue.add(unit.clone());
            let taken = queue.next().unwrap();
            assert!(queue.is_after(&taken), "an empty queue");
            queue.add(queued.clone());
            assert_eq!(queue.is_after(&taken), expected, "{queued:?}");
        }
    }
}
