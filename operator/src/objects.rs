//! Where objects come from, as a trait: Kubernetes and a directory are two implementations.

use std::time::Instant;

use heddle_policy_compiler::{Finding, KubeObject, ObjectKind, ObjectRef};
use tokio::sync::watch;

/// What happened to the objects since the last batch. Of several changes of one object the last one is in it.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Each object that changed, with `metadata.generation`, and with `status.lastGood` where there is one; `None`: it is gone.
    pub changes: Vec<(ObjectRef, Option<KubeObject>)>,
    /// What reading found that still stands, of all objects.
    pub findings: Vec<Finding>,
    /// When the oldest of the changes was seen.
    pub since: Option<Instant>,
    /// Whether all has been read by now. Until then nothing is compiled, for what is not read yet would look deleted.
    pub complete: bool,
}

/// Gives objects.
pub trait ObjectSource: Send + Sync + 'static {
    /// What changed since the last call; at the first, everything. There is one reader.
    fn take(&self) -> Batch;

    /// Ticks whenever there is something to take. Several changes may be one tick.
    fn changes(&self) -> watch::Receiver<u64>;
}

/// Whether the kind is one of ours, which has a status.
#[must_use]
pub const fn is_ours(kind: ObjectKind) -> bool {
    match kind {
        ObjectKind::Mesh | ObjectKind::TrafficSplit | ObjectKind::AuthPolicy => true,
        ObjectKind::Document
        | ObjectKind::Namespace
        | ObjectKind::Service
        | ObjectKind::EndpointSlice
        | ObjectKind::Pod
        | ObjectKind::Workload => false,
    }
}

/// What an object is called; `None` for one without a name.
#[must_use]
pub fn reference(object: &KubeObject) -> Option<ObjectRef> {
    let (kind, metadata) = match object {
        KubeObject::Namespace(o) => (ObjectKind::Namespace, &o.metadata),
        KubeObject::Service(o) => (ObjectKind::Service, &o.metadata),
        KubeObject::EndpointSlice(o) => (ObjectKind::EndpointSlice, &o.metadata),
        KubeObject::Pod(o) => (ObjectKind::Pod, &o.metadata),
        KubeObject::Template(o) => (ObjectKind::Workload, &o.metadata),
        KubeObject::Mesh(o) => (ObjectKind::Mesh, &o.metadata),
        KubeObject::TrafficSplit(o) => (ObjectKind::TrafficSplit, &o.metadata),
        KubeObject::AuthPolicy(o) => (ObjectKind::AuthPolicy, &o.metadata),
        KubeObject::Unreadable(o) => return Some(o.object.clone()),
    };
    let namespace = match kind {
        ObjectKind::Mesh | ObjectKind::Namespace => "",
        _ => metadata.namespace.as_deref().unwrap_or("default"),
    };
    Some(ObjectRef::new(kind, namespace, metadata.name.as_deref()?))
}
