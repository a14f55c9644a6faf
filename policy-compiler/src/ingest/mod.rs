//! The edge: Kubernetes objects in, our own valid types out. Every problem becomes a [`Finding`], and the rest still counts.

mod builder;
mod convert;
mod declared;
mod destinations;
mod documents;
mod endpoint_slice;
mod files;
mod list;
mod mirrored;
mod pod;
mod recognize;
mod service;
mod slices;
mod stand_ins;
mod standalone;
mod unread;
mod workload;
mod yaml;

use std::sync::Arc;

pub use builder::WorldBuilder;
pub use declared::{DeclaredObject, remembered};
pub(crate) use endpoint_slice::endpoint_slice;
pub use files::FolderEntry;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
pub use pod::owner;
pub(crate) use pod::{manifest, pod, template};
pub use service::is_topology_annotation;
pub(crate) use service::{external_host, service};
pub use yaml::{Manifest, Manifests, Place, duplicates, parse_json, parse_yaml};

pub use crate::injection::INJECT_LABEL;
pub use crate::probes::{PROXY_CONTAINER, tcp_probe_ports};

use crate::finding::{Finding, ObjectRef};
use crate::kind::ObjectKind;
use crate::world::{NamespacedName, too_large};

/// The fix of an invalid address.
const ADDRESS_FIX: &str = "write an IPv4 or IPv6 address, for example 10.0.0.1";
/// The fix of an invalid port.
const PORT_FIX: &str = "use a number from 1 to 65535";

/// An object that the compiler understands. `Arc`s, so that objects in reflectors need no copy.
#[derive(Clone, Debug)]
pub enum KubeObject {
    /// Read for its injection label, which decides offline whether a pod template will have a sidecar.
    Namespace(Arc<core::Namespace>),
    /// A service.
    Service(Arc<core::Service>),
    /// Endpoints of a service.
    EndpointSlice(Arc<EndpointSlice>),
    /// A pod.
    Pod(Arc<core::Pod>),
    /// A workload's pod template; only counts while none of its pods is known.
    Template(Arc<WorkloadTemplate>),
    /// An object of a declared kind, ours or another's.
    Declared(Arc<DeclaredObject>),
}

impl KubeObject {
    /// The name of the object; `None` if it has none.
    #[must_use]
    pub fn reference(&self) -> Option<ObjectRef> {
        let (kind, metadata) = match self {
            Self::Namespace(o) => (ObjectKind::Namespace, &o.metadata),
            Self::Service(o) => (ObjectKind::Service, &o.metadata),
            Self::EndpointSlice(o) => (ObjectKind::EndpointSlice, &o.metadata),
            Self::Pod(o) => (ObjectKind::Pod, &o.metadata),
            Self::Template(o) => (ObjectKind::Workload, &o.metadata),
            Self::Declared(o) => return Some(o.object.clone()),
        };
        let namespace = kind.namespace_of(metadata.namespace.as_deref());
        Some(ObjectRef::new(kind, namespace, metadata.name.as_deref()?))
    }

    /// Whether another object is the same for the compiler: the very same value, or a declared object with equal content.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        match self {
            Self::Namespace(a) => matches!(other, Self::Namespace(b) if Arc::ptr_eq(a, b)),
            Self::Service(a) => matches!(other, Self::Service(b) if Arc::ptr_eq(a, b)),
            Self::EndpointSlice(a) => matches!(other, Self::EndpointSlice(b) if Arc::ptr_eq(a, b)),
            Self::Pod(a) => matches!(other, Self::Pod(b) if Arc::ptr_eq(a, b)),
            Self::Template(a) => matches!(other, Self::Template(b) if Arc::ptr_eq(a, b)),
            Self::Declared(a) => matches!(other, Self::Declared(b) if a == b),
        }
    }
}

/// The pod template of a workload: of a `Deployment`, a `CronJob`, or of any other kind with a pod template at `spec.template`.
#[derive(Clone, Debug)]
pub struct WorkloadTemplate {
    /// `Deployment` and so on.
    pub kind: String,
    /// The workload's own metadata.
    pub metadata: ObjectMeta,
    /// The template of its pods.
    pub template: core::PodTemplateSpec,
}

pub(crate) fn namespaced_name(metadata: &ObjectMeta) -> Option<NamespacedName> {
    let name = metadata.name.as_deref()?;
    Some(NamespacedName::new(
        metadata.namespace.as_deref().unwrap_or("default"),
        name,
    ))
}

/// The name, or a finding that there is none.
fn named(
    kind: ObjectKind,
    metadata: &ObjectMeta,
    findings: &mut Vec<Finding>,
) -> Option<(NamespacedName, ObjectRef)> {
    let Some(name) = namespaced_name(metadata) else {
        let namespace = kind.namespace_of(metadata.namespace.as_deref());
        findings.push(nameless(&ObjectRef::new(kind, namespace, "?")));
        return None;
    };
    let object = ObjectRef::new(kind, &name.namespace, &name.name);
    findings.extend(annotations_too_large(
        metadata,
        &object,
        "metadata.annotations",
    ));
    Some((name, object))
}

/// The finding about annotations of an object, or of its pods, that the API server refuses for their size.
fn annotations_too_large(
    metadata: &ObjectMeta,
    object: &ObjectRef,
    field: &'static str,
) -> Option<Finding> {
    let annotations = metadata.annotations.iter().flatten();
    let (message, fix) = too_large(annotations.map(|(key, value)| (key, value.as_str())))?;
    Some(Finding::error(object, field, "Invalid", message).fix(fix))
}

fn nameless(object: &ObjectRef) -> Finding {
    let message = "the object has no name";
    Finding::error(object, "metadata.name", "NameMissing", message).fix("give it one")
}
