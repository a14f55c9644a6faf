//! Where objects come from, as a trait: Kubernetes and a directory are two implementations.

use std::collections::BTreeSet;

use heddle_crds::{MESH_NAME, MeshSpec};
use heddle_policy_compiler::{Finding, KubeObject, ObjectKind, ObjectRef, Refusal};
use tokio::sync::watch;

/// All objects at one moment.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    /// The objects, with `metadata.generation`, and with `status.lastGood` where there is one.
    pub objects: Vec<KubeObject>,
    /// What reading them found.
    pub findings: Vec<Finding>,
    /// What Envoy is known to have refused, from wherever the source keeps that.
    pub refusals: Vec<Refusal>,
}

impl Objects {
    /// The settings of the mesh: those of the Mesh named `default`, else the defaults.
    #[must_use]
    pub fn mesh(&self) -> MeshSpec {
        let named = |object: &KubeObject| match object {
            KubeObject::Mesh(mesh) if mesh.metadata.name.as_deref() == Some(MESH_NAME) => {
                Some(mesh.spec.clone())
            }
            _ => None,
        };
        self.objects.iter().find_map(named).unwrap_or_default()
    }

    /// Our own kinds among the objects.
    #[must_use]
    pub fn ours(&self) -> BTreeSet<ObjectRef> {
        self.objects
            .iter()
            .filter_map(reference)
            .filter(|object| is_ours(object.kind))
            .collect()
    }
}

/// Gives objects. Called from the compiling thread.
pub trait ObjectSource: Send + Sync + 'static {
    /// All objects now.
    fn objects(&self) -> Objects;

    /// Ticks whenever the objects may have changed. Several changes may be one tick.
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
