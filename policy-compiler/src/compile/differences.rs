//! The differences between two worlds. Their shared parts are not visited.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::ordmap::DiffItem;
use imbl::ordset::DiffItem as SetDiffItem;
use imbl::{OrdMap, OrdSet};

use crate::finding::ObjectRef;
use crate::kind::{ObjectKind, with_kinds};
use crate::world::{DeclaredObjects, NamespacedName, Pod, PodRef, Service, World};

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

/// The names that only one of two sets has.
fn names(old: &OrdSet<Arc<str>>, new: &OrdSet<Arc<str>>) -> Vec<Arc<str>> {
    let differing = old.diff(new).map(|item| match item {
        SetDiffItem::Add(name) | SetDiffItem::Remove(name) => Arc::clone(name),
    });
    differing.collect()
}

/// The differences, by the units that compile them.
#[derive(Debug)]
pub(super) struct Differences<'a> {
    /// By kind, the namespaces where a declared object, or the history of one, differs.
    declared: BTreeMap<ObjectKind, BTreeSet<Arc<str>>>,
    /// The names of namespaces that came or went.
    pub(super) namespaces: Vec<Arc<str>>,
    pub(super) services: Vec<Change<'a, NamespacedName, Arc<Service>>>,
    /// `ExternalName` services that differ.
    pub(super) external: BTreeSet<NamespacedName>,
    /// Services with other endpoints.
    pub(super) endpoints: BTreeSet<NamespacedName>,
    pub(super) pods: Vec<Change<'a, PodRef, Arc<Pod>>>,
}

impl<'a> Differences<'a> {
    pub(super) fn between(old: &'a World, new: &'a World) -> Self {
        let endpoints = changes(&old.endpoints, &new.endpoints);
        let mut differences = Self {
            declared: declared(&old.declared, &new.declared),
            namespaces: names(&old.namespaces, &new.namespaces),
            services: changes(&old.services, &new.services).collect(),
            external: changes(&old.external, &new.external)
                .map(|change| change.key.clone())
                .collect(),
            endpoints: endpoints.map(|change| change.key.clone()).collect(),
            pods: changes(&old.pods, &new.pods).collect(),
        };
        for change in changes(&old.rejections, &new.rejections) {
            differences.history_of(change.key);
        }
        for change in changes(&old.remembered, &new.remembered) {
            differences.history_of(change.key);
        }
        differences
    }

    /// Takes the namespaces where an object of a kind differs.
    pub(super) fn take(&mut self, kind: ObjectKind) -> BTreeSet<Arc<str>> {
        self.declared.remove(&kind).unwrap_or_default()
    }

    /// Takes the kinds and namespaces where another object differs.
    pub(super) fn take_rest(&mut self) -> BTreeSet<(ObjectKind, Arc<str>)> {
        let rest = std::mem::take(&mut self.declared).into_iter();
        let each = rest.flat_map(|(kind, all)| all.into_iter().map(move |one| (kind, one)));
        each.collect()
    }

    fn history_of(&mut self, object: &ObjectRef) {
        // The history of another object changes no status.
        if object.kind.is_declared() {
            let namespaces = self.declared.entry(object.kind).or_default();
            namespaces.insert(Arc::clone(&object.namespace));
        }
    }
}

macro_rules! declared_differences {
    ($(
        $(#[$doc:meta])*
        $kind:ident: $role:expr, $scope:ident, $resource:expr
            $(=> $field:ident: $spec:ty, [$($input:literal),*])?;
    )*) => {
        fn declared(
            old: &DeclaredObjects,
            new: &DeclaredObjects,
        ) -> BTreeMap<ObjectKind, BTreeSet<Arc<str>>> {
            let mut all = BTreeMap::new();
            $($(
                for change in changes(&old.$field, &new.$field) {
                    let namespaces: &mut BTreeSet<_> = all.entry(ObjectKind::$kind).or_default();
                    namespaces.insert(Arc::clone(&change.key.namespace));
                }
            )?)*
            all
        }

        /// Returns the kinds and namespaces of all declared objects.
        pub(super) fn namespaces(of: &DeclaredObjects) -> BTreeSet<(ObjectKind, Arc<str>)> {
            let mut all = BTreeSet::new();
            $($(
                let names = of.$field.keys();
                all.extend(names.map(|name| (ObjectKind::$kind, Arc::clone(&name.namespace))));
            )?)*
            all
        }
    };
}
with_kinds!(declared_differences);
