//! `Mesh`: settings of the whole.

use std::sync::Arc;

use heddle_crds::{Action, ConditionType, MESH_NAME, MeshMode, MeshSpec, reason};

use crate::compile::Outcome;
use crate::finding::ObjectRef;
use crate::kinds::{Problem, judge};
use crate::world::{SpiffeId, World};

/// What the one mesh that counts says, or the defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) trust_domain: Arc<str>,
    pub(crate) mode: MeshMode,
    pub(crate) default_allow: bool,
    /// Whether destinations that nobody knows are passed through.
    pub(crate) pass_unknown: bool,
    pub(crate) metrics_readers: Vec<SpiffeId>,
    /// The object, if there is one.
    pub(crate) origin: Option<ObjectRef>,
}

/// Judges every `Mesh` and returns what counts.
pub(crate) fn settings(world: &World, outcome: &mut Outcome) -> Settings {
    let mut spec = None;
    for (name, declared) in &world.meshes {
        let mut judged = judge(
            declared,
            world.refusals.get(&declared.object),
            check,
            &mut outcome.findings,
        );
        judged
            .status
            .conditions
            .retain(|c| c.kind != ConditionType::ResolvedRefs);
        if **name == *MESH_NAME {
            spec = judged.spec.map(|spec| (spec, declared.object.clone()));
        } else {
            judged.status.set(
                ConditionType::Accepted,
                false,
                reason::NOT_THE_MESH,
                format!("only the Mesh named {MESH_NAME} counts"),
            );
            judged.status.in_force = None;
        }
        outcome
            .statuses
            .insert(declared.object.clone(), judged.status);
    }
    let (spec, origin) = spec.map_or_else(
        || (MeshSpec::default(), None),
        |(spec, object)| (spec, Some(object)),
    );
    let reader = |r: &heddle_crds::ServiceAccountRef| {
        SpiffeId::new(&spec.trust_domain, &r.namespace, &r.service_account)
    };
    let mut metrics_readers: Vec<SpiffeId> =
        spec.telemetry.metrics_readers.iter().map(reader).collect();
    metrics_readers.sort();
    metrics_readers.dedup();
    Settings {
        trust_domain: spec.trust_domain.as_str().into(),
        mode: spec.mode,
        default_allow: spec.default_action == Action::Allow,
        pass_unknown: spec.outbound == Action::Allow,
        metrics_readers,
        origin,
    }
}

/// The API server has checked the rest by the schema; a file has not been there.
fn check(spec: &MeshSpec) -> Vec<Problem> {
    let clean = |text: &str| {
        !text.is_empty()
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b))
    };
    let mut problems = Vec::new();
    if !clean(&spec.trust_domain) {
        problems.push(Problem::invalid(
            "spec.trustDomain",
            format!("{:?} is no trust domain", spec.trust_domain),
            "use lower-case letters, digits, dots and dashes",
        ));
    }
    problems
}
