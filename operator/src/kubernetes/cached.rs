//! The objects of the watches by name, stripped, and the changes that the compile loop has not taken yet.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use heddle_policy_compiler::{Finding, KubeObject, ObjectKind, ObjectRef};
use tokio::sync::watch;

use super::NAMESPACE;
use super::kept::{Kept, kept, print};
use super::listing::Key;

/// The kept part of an object, and a fingerprint of the fields that the compiler reads: a change of other fields does not
/// count.
pub(super) struct CachedObject {
    print: u64,
    pub(super) kept: Kept,
}

impl CachedObject {
    /// Whether it is a pod that is ready.
    pub(super) fn is_ready(&self) -> bool {
        matches!(self.kept, Kept::Pod { ready: true, .. })
    }
}

/// The objects of a kind.
#[derive(Default)]
pub(super) struct Watched {
    /// Whether they were listed once.
    pub(super) synced: bool,
    pub(super) objects: HashMap<Key, CachedObject>,
}

/// The name of an object among those of its kind.
pub(super) fn key(object: &ObjectRef) -> Key {
    ((*object.namespace).into(), (*object.name).into())
}

/// The changes that the compile loop has not taken yet.
#[derive(Default)]
pub(super) struct Pending {
    pub(super) changes: BTreeMap<ObjectRef, Option<KubeObject>>,
    pub(super) since: Option<Instant>,
}

/// Everything that is watched.
#[derive(Default)]
pub(super) struct State {
    /// Every kind that is watched.
    pub(super) kinds: HashMap<ObjectKind, Watched>,
    pub(super) pending: Pending,
    pub(super) findings: BTreeMap<ObjectRef, Vec<Finding>>,
    /// The findings about the definitions of kinds.
    pub(super) definitions: Vec<Finding>,
    /// When a watch last failed.
    pub(super) failed: Option<Instant>,
    /// Ticks when a pod of the control plane becomes ready, or ends to be.
    pub(super) replicas: watch::Sender<u64>,
}

impl State {
    /// Adds kinds that are to be listed.
    pub(super) fn watch(&mut self, kinds: impl Iterator<Item = ObjectKind>) {
        self.kinds
            .extend(kinds.map(|kind| (kind, Watched::default())));
    }

    /// Whether every kind was listed once.
    pub(super) fn complete(&self) -> bool {
        !self.kinds.is_empty() && self.kinds.values().all(|watched| watched.synced)
    }

    /// Takes an object as it is now. Returns whether the compiler would read anything new.
    pub(super) fn apply(
        &mut self,
        reference: ObjectRef,
        object: KubeObject,
        findings: &[Finding],
    ) -> bool {
        let known = CachedObject {
            print: print(&object),
            kept: kept(&object),
        };
        let (fresh, ready) = (known.print, known.is_ready());
        let watched = self.kinds.get_mut(&reference.kind);
        let before = watched.and_then(|kind| kind.objects.insert(key(&reference), known));
        self.was_ready(&reference, before.as_ref(), ready);
        if before.is_some_and(|before| before.print == fresh) {
            return false;
        }
        if findings.is_empty() {
            self.findings.remove(&reference);
        } else {
            self.findings.insert(reference.clone(), findings.to_vec());
        }
        self.change(reference, Some(object));
        true
    }

    /// Forgets an object.
    pub(super) fn remove(&mut self, reference: ObjectRef) {
        let watched = self.kinds.get_mut(&reference.kind);
        let before = watched.and_then(|kind| kind.objects.remove(&key(&reference)));
        self.was_ready(&reference, before.as_ref(), false);
        self.findings.remove(&reference);
        self.change(reference, None);
    }

    fn was_ready(&self, reference: &ObjectRef, before: Option<&CachedObject>, ready: bool) {
        let changed = before.is_some_and(CachedObject::is_ready) != ready;
        if changed && &*reference.namespace == NAMESPACE {
            self.replicas.send_modify(|tick| *tick += 1);
        }
    }

    fn change(&mut self, reference: ObjectRef, object: Option<KubeObject>) {
        self.pending.since.get_or_insert_with(Instant::now);
        self.pending.changes.insert(reference, object);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;

    #[test]
    fn a_replica_is_ready_while_its_pod_runs_and_passes_its_probe() {
        let mut state = State::default();
        state.watch([ObjectKind::Pod].into_iter());
        let mut put = |namespace: &str, phase: &str, ready: &str| {
            let pod = json!({
                "metadata": {"name": "heddle-1", "namespace": namespace, "uid": "u"},
                "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready}]},
            });
            let pod = KubeObject::Pod(Arc::new(serde_json::from_value(pod).unwrap()));
            let before = *state.replicas.borrow();
            state.apply(pod.reference().unwrap(), pod, &[]);
            let pods = &state.kinds[&ObjectKind::Pod].objects;
            let pod = &pods[&(namespace.into(), "heddle-1".into())];
            (pod.is_ready(), *state.replicas.borrow() > before)
        };
        assert_eq!(put(NAMESPACE, "Pending", "False"), (false, false));
        assert_eq!(put(NAMESPACE, "Running", "True"), (true, true));
        assert_eq!(put(NAMESPACE, "Running", "True"), (true, false));
        assert_eq!(
            put(NAMESPACE, "Running", "False"),
            (false, true),
            "a lost node"
        );
        assert_eq!(
            put(NAMESPACE, "Running", "True"),
            (true, true),
            "it is back"
        );
        assert_eq!(put(NAMESPACE, "Failed", "True"), (false, true), "evicted");
        assert_eq!(put("shop", "Running", "True"), (true, false));
        let replica = ObjectRef::new(ObjectKind::Pod, NAMESPACE, "heddle-1");
        let before = *state.replicas.borrow();
        state.remove(replica);
        assert_eq!(*state.replicas.borrow(), before, "it was not ready");
    }
}
