//! Our own kinds as they come from the API server.

use heddle_crds::Kind;
use heddle_policy_compiler::{Finding, KubeObject, ingest::parse_json};
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, TypeMeta};
use serde_json::Value;

use crate::objects::is_ours;

/// How one of our kinds is read: untyped, for one object that today's types cannot read must not hide all others.
pub(super) struct Ours {
    pub(super) resource: ApiResource,
    pub(super) types: TypeMeta,
}

impl Ours {
    pub(super) fn of(kind: Kind) -> Self {
        let gvk = GroupVersionKind::gvk(heddle_crds::GROUP, heddle_crds::VERSION, kind.name());
        Self {
            resource: ApiResource::from_gvk_with_plural(&gvk, &kind.plural()),
            types: TypeMeta {
                api_version: heddle_crds::API_VERSION.to_owned(),
                kind: kind.name().to_owned(),
            },
        }
    }
}

/// One of our own objects, perhaps unreadable.
pub(super) fn ours(mut object: DynamicObject, types: &TypeMeta) -> (Vec<KubeObject>, Vec<Finding>) {
    // The items of a list need not say what they are.
    object.types = Some(types.clone());
    object.metadata.managed_fields = None;
    object.metadata.annotations = None;
    match serde_json::to_value(&object) {
        Ok(value) => parse_json("the API server", value),
        Err(error) => {
            tracing::error!(%error, name = object.metadata.name, "an object is no JSON");
            (Vec::new(), Vec::new())
        }
    }
}

/// The uid of one of our objects.
pub(super) fn uid_of(object: &KubeObject) -> Option<String> {
    match object {
        KubeObject::Mesh(o) => o.metadata.uid.clone(),
        KubeObject::TrafficSplit(o) => o.metadata.uid.clone(),
        KubeObject::AuthPolicy(o) => o.metadata.uid.clone(),
        _ => None,
    }
}

/// The status of one of our objects.
pub(super) fn status_of(object: &KubeObject) -> Option<Value> {
    match object {
        KubeObject::Mesh(o) => serde_json::to_value(o.status.as_ref()?).ok(),
        KubeObject::TrafficSplit(o) => serde_json::to_value(o.status.as_ref()?).ok(),
        KubeObject::AuthPolicy(o) => serde_json::to_value(o.status.as_ref()?).ok(),
        KubeObject::Unreadable(o) if is_ours(o.object.kind) => o.value.get("status").cloned(),
        KubeObject::Unreadable(_)
        | KubeObject::Namespace(_)
        | KubeObject::Service(_)
        | KubeObject::EndpointSlice(_)
        | KubeObject::Pod(_)
        | KubeObject::Template(_) => None,
    }
}
