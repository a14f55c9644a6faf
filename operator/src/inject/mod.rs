//! The webhook's patch of a pod. Pure: a pod in, an injection out.
//!
//! # Guarantees
//! - Only containers, volumes, a label and annotations of our own are added, and `lifecycle.preStop` where there is none;
//!   nothing that the pod's author wrote is changed.
//! - Asked again about its own result, it changes nothing.
//! - A pod that cannot work is refused with the reason, or left alone with the reason.

mod containers;
mod operations;
mod own;
mod patch;

use heddle_crds::MeshSpec;
use heddle_policy_compiler::injection::{self, InjectionDecision};
use k8s_openapi::api::core::v1::Pod;

pub use containers::AUDIENCE;
pub use heddle_policy_compiler::injection::names;

/// The settings of the control plane that reach a pod's spec.
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

/// The webhook's answer about a pod.
#[derive(Clone, Debug)]
pub struct InjectionReview {
    /// The decision with its patch.
    pub injection: PodInjection,
    /// Warnings for the pod's author.
    pub warnings: Vec<String>,
}

/// The decision about a pod, with its patch.
#[derive(Clone, Debug)]
pub enum PodInjection {
    /// The pod is changed.
    Inject(json_patch::Patch),
    /// The pod is admitted unchanged, by its own wish.
    Leave,
    /// The pod is admitted without a sidecar, with a warning and an annotation.
    Skip {
        /// The reason.
        reason: String,
        /// Adds the annotation.
        patch: json_patch::Patch,
    },
    /// The pod is refused.
    Refuse(String),
}

/// Judges a pod that is about to be created. The decision is [`injection::decide`]'s, which the offline commands share.
#[must_use]
pub fn review(pod: &Pod, sidecar: &Sidecar) -> InjectionReview {
    let decided = injection::decide(&pod.metadata, pod.spec.as_ref());
    let injection = match (decided.decision, pod.spec.as_ref()) {
        (InjectionDecision::Inject(settings), Some(spec)) => {
            match settings.misfit(&sidecar.mesh.proxy) {
                None => PodInjection::Inject(patch::patch(pod, spec, sidecar, &settings)),
                Some(reason) => PodInjection::Refuse(reason),
            }
        }
        (InjectionDecision::Inject(_), None) | (InjectionDecision::Leave, _) => PodInjection::Leave,
        (InjectionDecision::Skip(reason), _) => {
            let patch = patch::not_injected(pod, &reason);
            PodInjection::Skip { reason, patch }
        }
        (InjectionDecision::Refuse(reason), _) => PodInjection::Refuse(reason),
    };
    InjectionReview {
        injection,
        warnings: decided.warnings,
    }
}

#[cfg(test)]
mod tests;
