//! Our kinds: the validated form of an object, and its status. The policies are in `policies/`, one file each.
//!
//! The list of kinds is in `kind.rs`. A policy implements the trait [`policy::PolicyKind`]; the update calls it by the list.

mod auth_headers;
mod authorities;
mod called_servers;
mod called_service;
mod expression;
mod headers;
mod matches;
pub(crate) mod mesh;
pub(crate) mod policies;
pub(crate) mod policy;
mod routes;
mod salvage;
pub(crate) mod service_rules;
mod silent;
mod target;
mod telemetry;
pub(crate) mod traffic_policy;
mod unreachable;

use heddle_crds::{ConditionType, ForeignSpec, LastGood, Unsupported, reason};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::finding::{Finding, ObjectRef};
use crate::status::ObjectStatus;
use crate::world::{Declared, History, ObjectRejection};

/// The reason why a spec cannot be in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ValidationError {
    /// `Accepted` or `ResolvedRefs`.
    pub(crate) condition: ConditionType,
    pub(crate) reason: &'static str,
    pub(crate) field: String,
    pub(crate) message: String,
    pub(crate) fix: &'static str,
}

impl ValidationError {
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

    /// A field or value that this version does not support.
    pub(crate) fn unsupported(
        field: impl Into<String>,
        message: impl Into<String>,
        fix: &'static str,
    ) -> Self {
        Self::parent(reason::UNSUPPORTED_VALUE, field, message, fix)
    }

    /// The parts of a spec of another project that the type of this version does not have.
    pub(crate) fn unsupported_parts(parts: &[Unsupported], fix: &'static str) -> Vec<Self> {
        let error = |part: &Unsupported| {
            let dot = if part.field.is_empty() { "" } else { "." };
            Self::unsupported(format!("spec{dot}{}", part.field), &*part.reason, fix)
        };
        parts.iter().map(error).collect()
    }

    /// The errors of a spec of Gateway API: of its type, or the parts that the type does not have.
    pub(crate) fn of_gateway_api<T>(
        spec: &ForeignSpec<T>,
        of_type: impl FnOnce(&T) -> Vec<Self>,
    ) -> Vec<Self> {
        let fix = "remove it; docs/gateway-api.md lists the supported fields";
        match spec.typed() {
            Ok(typed) => of_type(typed),
            Err(parts) => Self::unsupported_parts(parts, fix),
        }
    }

    /// A parent that does not take a route, or a target that does not take a policy.
    pub(crate) fn parent(
        reason: &'static str,
        field: impl Into<String>,
        message: impl Into<String>,
        fix: &'static str,
    ) -> Self {
        Self {
            reason,
            ..Self::invalid(field, message, fix)
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

impl ValidationError {
    /// The finding for users.
    pub(crate) fn finding(&self, object: &ObjectRef) -> Finding {
        let (field, message) = (self.field.as_str(), self.message.as_str());
        Finding::error(object, field, self.reason, message).fix(self.fix)
    }

    /// The text in a condition.
    pub(crate) fn sentence(&self) -> String {
        let place = if self.field.is_empty() {
            String::new()
        } else {
            format!("{}: ", self.field)
        };
        let fix = if self.fix.is_empty() {
            String::new()
        } else {
            format!(": {}", self.fix)
        };
        format!("{place}{}{fix}", self.message)
    }
}

/// The spec that counts, and the status so far.
pub(crate) struct ValidatedSpec<S> {
    /// The current spec, or the last good one; None if neither is usable.
    pub(crate) spec: Option<S>,
    pub(crate) status: ObjectStatus,
    /// Why the current spec is not in force.
    pub(crate) reason: Option<String>,
}

/// The fix for a port that carries HTTP without saying so.
pub(crate) const DECLARE_HTTP: &str =
    "if it does, declare HTTP by appProtocol or the name of the port";

/// The conditions of an object without problems.
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

/// Chooses between the spec and the last good one, and returns the reason. `is_partial`: the errors are those of some rules of a spec, and its status
/// has the condition `PartiallyInvalid`.
pub(crate) fn validate_spec<S: Clone + DeserializeOwned + Serialize>(
    declared: &Declared<S>,
    history: History<'_>,
    check: impl Fn(&S) -> Vec<ValidationError>,
    is_partial: impl Fn(&S, &[ValidationError]) -> bool,
    findings: &mut Vec<Finding>,
) -> ValidatedSpec<S> {
    let mut status = ObjectStatus {
        uid: declared.uid.clone(),
        observed_generation: declared.generation,
        ..Default::default()
    };
    let (spec, problems) = match &declared.spec {
        Ok(spec) => (Some(spec.clone()), check(spec)),
        // Reading already reported this one.
        Err(reason) => (None, vec![ValidationError::invalid("", reason.clone(), "")]),
    };
    let rejected = history
        .rejection
        .filter(|r| r.generation == declared.generation);
    if let Some(spec) = spec
        .as_ref()
        .filter(|_| problems.is_empty() && rejected.is_none())
    {
        for (kind, good, fine) in FINE {
            status.set(kind, true, good, fine);
        }
        status.in_force = LastGood::of(declared.generation, spec).ok();
        return ValidatedSpec {
            spec: Some(spec.clone()),
            status,
            reason: None,
        };
    }
    let last = last_good(declared, history).filter(|(_, spec)| check(spec).is_empty());
    let consequence = last.as_ref().map(|(last, _)| consequence(last, declared));
    let both = last.as_ref().zip(spec.as_ref());
    let fall_back = both.filter(|(_, spec)| is_partial(spec, &problems));
    report(
        &mut status,
        declared,
        (&problems, rejected),
        &consequence.unwrap_or_default(),
        fall_back.map(|((last, _), _)| last.generation),
        findings,
    );
    status.in_force = last.as_ref().map(|(last, _)| (*last).clone());
    let reason = problems
        .first()
        .map(ValidationError::sentence)
        .or_else(|| rejected.map(|r| format!("Envoy rejected it: {}", r.text)));
    ValidatedSpec {
        spec: last.map(|(_, spec)| spec),
        status,
        reason,
    }
}

/// The end of a message about a spec, if the last good one stays in force.
fn consequence<S>(last: &LastGood, declared: &Declared<S>) -> String {
    match last.generation {
        same if same == declared.generation => {
            " (the last good spec of this generation stays in force)".to_owned()
        }
        generation => format!(" (generation {generation} stays in force)"),
    }
}

/// Returns the last good spec, if it can still be read and Envoy has not rejected it. If the spec cannot be read, both may be of the
/// same generation: a newer definition adds its defaults to objects as they are read.
fn last_good<'a, S: DeserializeOwned>(
    declared: &Declared<S>,
    history: History<'a>,
) -> Option<(&'a LastGood, S)> {
    let last = history.last_good()?;
    let other = declared.spec.is_err() || last.generation != declared.generation;
    let rejected = history
        .rejection
        .is_some_and(|rejection| rejection.generation == last.generation);
    let last = Some(last).filter(|_| other && !rejected)?;
    Some((last, last.read().ok()?))
}

fn report<S>(
    status: &mut ObjectStatus,
    declared: &Declared<S>,
    (problems, rejected): (&[ValidationError], Option<&ObjectRejection>),
    consequence: &str,
    fall_back: Option<i64>,
    findings: &mut Vec<Finding>,
) {
    for (kind, good, fine) in FINE {
        let of_kind: Vec<&ValidationError> =
            problems.iter().filter(|p| p.condition == kind).collect();
        match of_kind.first() {
            None => status.set(kind, true, good, fine),
            Some(first) => {
                let text: Vec<String> = of_kind.iter().map(|p| p.sentence()).collect();
                let text = text.join("; ");
                match fall_back.filter(|_| kind == ConditionType::Accepted) {
                    Some(last) => status.fall_back(last, first.reason, &text),
                    None => status.set(kind, false, first.reason, text + consequence),
                }
            }
        }
    }
    if let Some(rejection) = rejected {
        status.set(
            ConditionType::Programmed,
            false,
            reason::REJECTED_BY_PROXY,
            format!("{}{consequence}", rejection.text),
        );
        let message = format!("Envoy rejected it: {}", rejection.text);
        let finding = Finding::error(&declared.object, "spec", reason::REJECTED_BY_PROXY, message);
        findings.push(finding.fix("change the value that Envoy names"));
    }
    if declared.spec.is_ok() {
        findings.extend(problems.iter().map(|p| p.finding(&declared.object)));
    }
}
