//! What the webhook does to a pod. Pure: a pod in, a verdict out.
//!
//! # Guarantees
//! - Only containers, volumes, a label and annotations of our own are added, and `lifecycle.preStop` where there is none;
//!   nothing that the pod's author wrote is changed.
//! - Asked again about its own result, it changes nothing.
//! - What cannot work is refused with the reason, or left alone with the reason.

mod checks;
mod containers;
mod patch;
mod probes;

use heddle_crds::MeshSpec;
use k8s_openapi::api::core::v1::Pod;

pub use containers::AUDIENCE;
pub use patch::Patched;

/// Containers, volumes and annotations of ours have these names.
pub mod names {
    /// The init container that sets up capture.
    pub const INIT: &str = "heddle-init";
    /// The sidecar.
    pub const PROXY: &str = "heddle-proxy";
    /// The volume of the projected token.
    pub const TOKEN_VOLUME: &str = "heddle-token";
    /// The volume of the sidecar's sockets.
    pub const RUNTIME_VOLUME: &str = "heddle-runtime";
    /// The label of pods with a sidecar.
    pub const MESHED: &str = "heddle.dev/meshed";
    /// The label that asks for a sidecar, or for none.
    pub const INJECT: &str = "heddle.dev/inject";
    /// The annotation of pods that were left alone, with the reason.
    pub const NOT_INJECTED: &str = "heddle.dev/not-injected";
}

/// What of the control plane reaches a pod's spec.
#[derive(Clone, Debug)]
pub struct Sidecar {
    /// The image of agent and Envoy.
    pub image: String,
    /// The host name of the control plane.
    pub control_plane: String,
    /// The roots to trust, PEM.
    pub trust_bundle: String,
    /// The settings of the mesh.
    pub mesh: MeshSpec,
}

/// What becomes of a pod.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// It is changed.
    Inject(Patched),
    /// It is admitted as it is, by its own wish.
    Leave,
    /// It is admitted without a sidecar, with a warning and an annotation.
    Skip {
        /// Why.
        reason: String,
        /// Adds the annotation.
        patch: json_patch::Patch,
    },
    /// It is refused.
    Refuse(String),
}

/// Judges a pod that is about to be created.
#[must_use]
pub fn judge(pod: &Pod, sidecar: &Sidecar) -> Verdict {
    let labels = pod.metadata.labels.as_ref();
    if labels
        .and_then(|labels| labels.get(names::INJECT))
        .is_some_and(|value| value == "disabled")
    {
        return Verdict::Leave;
    }
    let Some(spec) = pod.spec.as_ref() else {
        return Verdict::Refuse("the pod has no spec".to_owned());
    };
    if let Some(reason) = checks::cannot_be_meshed(spec) {
        let patch = patch::not_injected(pod, &reason);
        return Verdict::Skip { reason, patch };
    }
    if let Err(reason) = checks::refusal(pod, spec) {
        return Verdict::Refuse(reason);
    }
    Verdict::Inject(patch::patch(pod, spec, sidecar))
}

#[cfg(test)]
mod tests;
