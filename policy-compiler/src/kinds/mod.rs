//! Our kinds, one file each: what an object says once it is judged, and what its status says about that.
//!
//! The explicit list of kinds is in [`Compiled::update`](crate::Compiled::update): mesh, splits, policies, in this order.

pub(crate) mod auth_policy;
mod headers;
pub(crate) mod mesh;
pub(crate) mod traffic_split;

use heddle_crds::{ConditionType, LastGood, reason};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::finding::Finding;
use crate::status::ObjectStatus;
use crate::world::{Declared, Refusal};

/// Why a spec cannot be in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// `Accepted` or `ResolvedRefs`.
    pub(crate) condition: ConditionType,
    pub(crate) reason: &'static str,
    pub(crate) field: String,
    pub(crate) message: String,
    pub(crate) fix: &'static str,
}

impl Problem {
    pub(crate) fn invalid(
        field: impl Into<String>,
        message: impl Into<String>,
        fix: &'static str,
    ) -> Self {
        Self {
            condition: ConditionType::Accepted,
            reason: reason::INVALID,
            field: field.into(),
            message: message.into(),
            fix,
        }
    }

    pub(crate) fn unresolved(
        reason: &'static str,
        field: impl Into<String>,
        message: impl Into<String>,
        fix: &'static str,
    ) -> Self {
        Self {
            condition: ConditionType::ResolvedRefs,
            reason,
            field: field.into(),
            message: message.into(),
            fix,
        }
    }
}

/// The spec that counts, and the status so far.
pub(crate) struct Judged<S> {
    /// The current spec, or the last good one; None if neither is usable.
    pub(crate) spec: Option<S>,
    pub(crate) status: ObjectStatus,
    /// Why the current spec is not in force.
    pub(crate) trouble: Option<String>,
}

/// What is said where nothing is wrong.
const FINE: [(ConditionType, &str, &str); 2] = [
    (
        ConditionType::Accepted,
        reason::ACCEPTED,
        "the spec is valid",
    ),
    (
        ConditionType::ResolvedRefs,
        reason::RESOLVED_REFS,
        "all that the spec names exists",
    ),
];

/// Chooses between the spec and the last good one, and says why.
pub(crate) fn judge<S: Clone + DeserializeOwned + Serialize>(
    declared: &Declared<S>,
    refusal: Option<&Refusal>,
    check: impl Fn(&S) -> Vec<Problem>,
    findings: &mut Vec<Finding>,
) -> Judged<S> {
    let mut status = ObjectStatus {
        observed_generation: declared.generation,
        ..Default::default()
    };
    let (spec, problems) = match &declared.spec {
        Ok(spec) => (Some(spec.clone()), check(spec)),
        // Reading already reported this one.
        Err(reason) => (None, vec![Problem::invalid("", reason.clone(), "")]),
    };
    let refused = |generation: i64| refusal.filter(|r| r.generation == generation);
    let rejected = refused(declared.generation);
    if let Some(spec) = spec
        .as_ref()
        .filter(|_| problems.is_empty() && rejected.is_none())
    {
        for (kind, good, fine) in FINE {
            status.set(kind, true, good, fine);
        }
        status.in_force = LastGood::of(declared.generation, spec).ok();
        return Judged {
            spec: Some(spec.clone()),
            status,
            trouble: None,
        };
    }
    // The last good one must still be usable today, and must not be what Envoy refused.
    let last = declared.last_good.as_ref().filter(|last| {
        last.generation != declared.generation && refused(last.generation).is_none()
    });
    let last = last
        .and_then(|last| Some((last, last.read::<S>().ok()?)))
        .filter(|(_, spec)| check(spec).is_empty());
    let consequence = last.as_ref().map_or_else(String::new, |(last, _)| {
        format!(" (generation {} stays in force)", last.generation)
    });
    report(
        &mut status,
        declared,
        &problems,
        rejected,
        &consequence,
        findings,
    );
    status.in_force = last.as_ref().map(|(last, _)| (*last).clone());
    let trouble = problems
        .first()
        .map(sentence)
        .or_else(|| rejected.map(|r| format!("Envoy refused it: {}", r.text)));
    Judged {
        spec: last.map(|(_, spec)| spec),
        status,
        trouble,
    }
}

fn report<S>(
    status: &mut ObjectStatus,
    declared: &Declared<S>,
    problems: &[Problem],
    rejected: Option<&Refusal>,
    consequence: &str,
    findings: &mut Vec<Finding>,
) {
    for (kind, good, fine) in FINE {
        let of_kind: Vec<&Problem> = problems.iter().filter(|p| p.condition == kind).collect();
        match of_kind.first() {
            None => status.set(kind, true, good, fine),
            Some(first) => {
                let text: Vec<String> = of_kind.iter().map(|p| sentence(p)).collect();
                status.set(
                    kind,
                    false,
                    first.reason,
                    format!("{}{consequence}", text.join("; ")),
                );
            }
        }
    }
    if let Some(refusal) = rejected {
        status.set(
            ConditionType::Programmed,
            false,
            reason::REJECTED_BY_PROXY,
            format!("{}{consequence}", refusal.text),
        );
        findings.push(Finding::error(
            &declared.object,
            "spec",
            reason::REJECTED_BY_PROXY,
            format!("Envoy refused it: {}", refusal.text),
        ));
    }
    if declared.spec.is_ok() {
        findings.extend(problems.iter().map(|p| {
            Finding::error(
                &declared.object,
                p.field.clone(),
                p.reason,
                p.message.clone(),
            )
            .fix(p.fix)
        }));
    }
}

fn sentence(problem: &Problem) -> String {
    let place = if problem.field.is_empty() {
        String::new()
    } else {
        format!("{}: ", problem.field)
    };
    let fix = if problem.fix.is_empty() {
        String::new()
    } else {
        format!(": {}", problem.fix)
    };
    format!("{place}{}{fix}", problem.message)
}
