//! The policies that decide whether a port of a pod accepts plain text beside mTLS.

use std::collections::BTreeSet;

use heddle_crds::{ConditionType, MeshMode, MtlsMode, reason};

use super::report::PolicyFeedback;
use crate::finding::Finding;
use crate::kinds::mesh::Settings;
use crate::kinds::policies::auth_policy::Policy;
use crate::world::{PodTemplate, Port};

/// The policies with a mode for a port. The first one wins.
pub(crate) fn mtls_modes<'a>(
    port: Option<Port>,
    policies: &[&'a Policy],
) -> impl Iterator<Item = (&'a Policy, MtlsMode)> {
    let modes = policies.iter().map(move |policy| {
        let mode = policy.mtls.as_ref().map(|mtls| mtls.of(port));
        Some((*policy, mode?))
    });
    modes.flatten()
}

/// Whether plain text is accepted: by the first policy with an mTLS mode here, else by the mesh.
pub(super) fn plain(
    port: Option<Port>,
    policies: &[&Policy],
    settings: &Settings,
    template: &PodTemplate,
    feedback: &mut PolicyFeedback,
) -> bool {
    let mut modes = mtls_modes(port, policies);
    let winner = modes.next();
    if let Some((first, mode)) = winner {
        for (loser, _) in modes.filter(|(_, other)| *other != mode) {
            conflict(loser, first, port, template, feedback);
        }
    }
    accepts_plain(settings.mode, winner.map(|(_, mode)| mode))
}

/// Whether plain text is accepted, by the mode of the mesh and that of the first policy with one.
pub(crate) fn accepts_plain(mesh: MeshMode, policy: Option<MtlsMode>) -> bool {
    match (mesh, policy) {
        (MeshMode::Observe, _) | (MeshMode::Permissive, None) => true,
        (MeshMode::Strict, None) => false,
        (MeshMode::Permissive | MeshMode::Strict, Some(mode)) => mode == MtlsMode::Permissive,
    }
}

fn conflict(
    loser: &Policy,
    winner: &Policy,
    port: Option<Port>,
    template: &PodTemplate,
    feedback: &mut PolicyFeedback,
) {
    let port = port.map_or_else(
        || "the other ports".to_owned(),
        |port| format!("port {port}"),
    );
    let message = format!(
        "{} wins spec.mtls for {port} of {}/{}, for its name is smaller",
        winner.object, template.namespace, template.owner
    );
    feedback.condition(
        &loser.object,
        ConditionType::Conflicted,
        true,
        reason::CONFLICT,
        &message,
    );
    feedback.findings.push(
        Finding::error(&loser.object, "spec.mtls", reason::CONFLICT, message)
            .fix("say it in one of the two"),
    );
}

/// The first of some ports that accepts no plain text.
pub(crate) fn refusing(
    ports: &BTreeSet<Port>,
    policies: &[&Policy],
    mesh: MeshMode,
) -> Option<Port> {
    let first = |port: Port| {
        mtls_modes(Some(port), policies)
            .next()
            .map(|(_, mode)| mode)
    };
    let mut ports = ports.iter().copied();
    ports.find(|port| !accepts_plain(mesh, first(*port)))
}
