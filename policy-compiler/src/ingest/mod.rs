//! The edge: Kubernetes objects in, our own valid types out. Whatever is wrong becomes a [`Finding`], and the rest still counts.

mod convert;
mod documents;
mod endpoint_slice;
mod mirrored;
mod pod;
mod probes;
mod recognize;
mod service;
mod standalone;
mod workload;
mod yaml;

use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

pub(crate) use endpoint_slice::{SliceEndpoints, endpoint_slice};
pub use pod::owner;
pub(crate) use pod::{manifest, pod, template};
pub use probes::tcp_probe_ports;
pub(crate) use service::{external_host, service};
pub use yaml::{Manifest, Manifests, Place, duplicates, parse_json, parse_yaml};

use crate::finding::{Finding, ObjectKind, ObjectRef};
use crate::world::NamespacedName;

/// The name of the sidecar's container, regular or init.
pub const PROXY_CONTAINER: &str = "heddle-proxy";
/// The label on namespaces or pods that asks for a sidecar.
pub const INJECT_LABEL: &str = "heddle.dev/inject";

/// An object that the compiler understands. `Arc`s, so that what reflectors hold needs no copy.
#[derive(Clone, Debug)]
pub enum KubeObject {
    /// Read for its injection label, which tells offline whether a pod template will have a sidecar.
    Namespace(Arc<core::Namespace>),
    /// A service.
    Service(Arc<core::Service>),
    /// Endpoints of a service.
    EndpointSlice(Arc<EndpointSlice>),
    /// A pod.
    Pod(Arc<core::Pod>),
    /// A workload's pod template; only counts while none of its pods is known.
    Template(Arc<WorkloadTemplate>),
    /// Our mesh settings.
    Mesh(Arc<heddle_crds::Mesh>),
    /// Our traffic split.
    TrafficSplit(Arc<heddle_crds::TrafficSplit>),
    /// Our policy.
    AuthPolicy(Arc<heddle_crds::AuthPolicy>),
    /// An object of ours that today's types cannot read. It must not vanish: a policy that nobody can read still denies what it selects.
    Unreadable(Arc<Unreadable>),
}

/// The pod template of a workload: of a `Deployment`, a `CronJob`, or of any other kind with a pod template at `spec.template`.
#[derive(Clone, Debug)]
pub struct WorkloadTemplate {
    /// `Deployment` and so on.
    pub kind: String,
    /// The workload's own metadata.
    pub metadata: ObjectMeta,
    /// What its pods look like.
    pub template: core::PodTemplateSpec,
}

/// An object of one of our kinds whose JSON does not fit the type.
#[derive(Clone, Debug, PartialEq)]
pub struct Unreadable {
    /// Which object.
    pub object: ObjectRef,
    /// Its generation.
    pub generation: i64,
    /// Why it cannot be read.
    pub reason: String,
    /// All of it.
    pub value: Value,
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
        let nameless = ObjectRef::new(
            kind,
            metadata.namespace.as_deref().unwrap_or("default"),
            "?",
        );
        findings.push(
            Finding::error(
                &nameless,
                "metadata.name",
                "NameMissing",
                "the object has no name",
            )
            .fix("give it one"),
        );
        return None;
    };
    let object = ObjectRef::new(kind, &name.namespace, &name.name);
    Some((name, object))
}
