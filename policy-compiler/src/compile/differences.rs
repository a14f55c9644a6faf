//! What differs between two worlds. Whatever they share is not looked at.

use std::collections::BTreeSet;
use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;

use crate::finding::{ObjectKind, ObjectRef};
use crate::world::{NamespacedName, PodRef, Service, Workload, World};

/// One entry that came, went, or is another.
#[derive(Debug)]
pub(super) struct Change<'a, K, V> {
    pub(super) key: &'a K,
    pub(super) old: Option<&'a V>,
    pub(super) new: Option<&'a V>,
}

/// The entries that differ, in order.
pub(super) fn changes<'a, K: Ord, V: PartialEq>(
    old: &'a OrdMap<K, V>,
    new: &'a OrdMap<K, V>,
) -> impl Iterator<Item = Change<'a, K, V>> {
    old.diff(new).map(|item| match item {
        DiffItem::Add(key, value) => Change {
            key,
            old: None,
            new: Some(value),
        },
        DiffItem::Update { old, new } => Change {
            key: new.0,
            old: Some(old.1),
            new: Some(new.1),
        },
        DiffItem::Remove(key, value) => Change {
            key,
            old: Some(value),
            new: None,
        },
    })
}

/// What differs, by what is compiled of it.
#[derive(Debug)]
pub(super) struct Differences<'a> {
    /// Whether a `Mesh`, or what Envoy refused of one, differs.
    pub(super) meshes: bool,
    /// Namespaces with other splits.
    pub(super) splits: BTreeSet<Arc<str>>,
    /// Namespaces with other policies.
    pub(super) policies: BTreeSet<Arc<str>>,
    pub(super) services: Vec<Change<'a, NamespacedName, Arc<Service>>>,
    /// `ExternalName` services that differ.
    pub(super) external: BTreeSet<NamespacedName>,
    /// Services with other endpoints.
    pub(super) endpoints: BTreeSet<NamespacedName>,
    pub(super) pods: Vec<Change<'a, PodRef, Arc<Workload>>>,
}

impl<'a> Differences<'a> {
    pub(super) fn between(old: &'a World, new: &'a World) -> Self {
        let namespace = |name: &NamespacedName| Arc::clone(&name.namespace);
        let splits = changes(&old.splits, &new.splits);
        let policies = changes(&old.policies, &new.policies);
        let endpoints = changes(&old.endpoints, &new.endpoints);
        let mut differences = Self {
            meshes: changes(&old.meshes, &new.meshes).next().is_some(),
            splits: splits.map(|change| namespace(change.key)).collect(),
            policies: policies.map(|change| namespace(change.key)).collect(),
            services: changes(&old.services, &new.services).collect(),
            external: changes(&old.external, &new.external)
                .map(|change| change.key.clone())
                .collect(),
            endpoints: endpoints.map(|change| change.key.clone()).collect(),
            pods: changes(&old.workloads, &new.workloads).collect(),
        };
        for change in changes(&old.refusals, &new.refusals) {
            differences.refused(change.key);
        }
        differences
    }

    fn refused(&mut self, object: &ObjectRef) {
        match object.kind {
            ObjectKind::Mesh => self.meshes = true,
            ObjectKind::TrafficSplit => {
                self.splits.insert(Arc::clone(&object.namespace));
            }
            ObjectKind::AuthPolicy => {
                self.policies.insert(Arc::clone(&object.namespace));
            }
            // A refusal of what is not ours changes no judgement.
            ObjectKind::Document
            | ObjectKind::Namespace
            | ObjectKind::Service
            | ObjectKind::EndpointSlice
            | ObjectKind::Pod
            | ObjectKind::Workload => {}
        }
    }
}
