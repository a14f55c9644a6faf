//! The parts of objects that are kept after the compiler has read them, and their fingerprints.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use heddle_policy_compiler::{DeclaredObject, KubeObject};
use k8s_openapi::api::core::v1::Pod;

/// The part of an object that is needed beside the compile.
pub(super) enum Kept {
    /// Nothing.
    Nothing,
    /// For tokens, and for the reports of the other replicas.
    Pod {
        uid: Box<str>,
        account: Box<str>,
        ready: bool,
    },
    /// For its status.
    Declared(Arc<DeclaredObject>),
}

/// Returns the part of an object to keep.
pub(super) fn kept(object: &KubeObject) -> Kept {
    match object {
        KubeObject::Pod(pod) => {
            let account = pod
                .spec
                .as_ref()
                .and_then(|spec| spec.service_account_name.as_deref());
            let account = account.filter(|name| !name.is_empty()).unwrap_or("default");
            match &pod.metadata.uid {
                Some(uid) => Kept::Pod {
                    uid: uid.as_str().into(),
                    account: account.into(),
                    ready: is_ready(pod),
                },
                None => Kept::Nothing,
            }
        }
        KubeObject::Declared(object) => Kept::Declared(Arc::clone(object)),
        KubeObject::Namespace(_)
        | KubeObject::Service(_)
        | KubeObject::EndpointSlice(_)
        | KubeObject::Template(_) => Kept::Nothing,
    }
}

/// Whether a pod runs and is ready. The pod of a node that is lost keeps its phase, and is not ready.
fn is_ready(pod: &Pod) -> bool {
    let Some(status) = &pod.status else {
        return false;
    };
    let mut conditions = status.conditions.iter().flatten();
    status.phase.as_deref() == Some("Running")
        && conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Hashes the fields that the compiler reads. Of a declared object these are uid, generation, spec, the reason of a
/// refusal, and the past.
pub(super) fn print(object: &KubeObject) -> u64 {
    let text = match object {
        KubeObject::Namespace(o) => serde_json::to_string(&**o),
        KubeObject::Service(o) => serde_json::to_string(&**o),
        KubeObject::EndpointSlice(o) => serde_json::to_string(&**o),
        KubeObject::Pod(o) => serde_json::to_string(&**o),
        KubeObject::Template(_) => Ok(String::new()),
        KubeObject::Declared(o) => {
            serde_json::to_string(&(&o.uid, o.generation, &o.spec, &o.refused, &o.remembered))
        }
    };
    let mut hasher = DefaultHasher::new();
    text.unwrap_or_default().hash(&mut hasher);
    hasher.finish()
}
