//! `XBackendTrafficPolicy` of Gateway API (experimental channel): the retry budget of a service, for all rules that have it as a backend.
//!
//! A budget that a `TrafficPolicy` names comes first; this one takes the place of the default budget.

use std::time::Duration;

use gateway_api::experimental::xbackendtrafficpolicies as api;
use heddle_crds::{
    ConditionStatus, ConditionType, DesiredCondition, XBackendTrafficPolicySpec, reason,
};

use crate::finding::{Finding, ObjectRef};
use crate::kinds::called_service::absent;
use crate::kinds::policy::{Attachments, Candidate, ObjectReport, PolicyKind};
use crate::kinds::routes::{Notes, duration};
use crate::kinds::service_rules::Rules;
use crate::kinds::{DECLARE_HTTP, ValidationError};
use crate::status::{ParentRef, ParentStatus, bounded};
use crate::traffic::RetryBudget;
use crate::validation::inputs::Target;
use crate::world::{NamespacedName, Port, Protocol, Service};

/// The budget of a service as a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BackendPolicy {
    pub(crate) object: ObjectRef,
    /// None: the policy sets none, and its service takes no other policy.
    pub(crate) budget: Option<RetryBudget>,
}

/// How long a retry is taken to last where a rate of them becomes a number at the same time. By it the default rate of Gateway API, 10 in
/// 1 s, is the minimum of our default budget, 1.
const RETRY: Duration = Duration::from_millis(100);
/// The defaults of the definition, which the API server fills in and files lack.
const PERCENT: i64 = 20;
const RATE: (i64, Duration) = (10, Duration::from_secs(1));
const LARGEST_COUNT: i64 = 1_000_000;
const HOUR: Duration = Duration::from_secs(3600);

impl PolicyKind for XBackendTrafficPolicySpec {
    type Attachment = BackendPolicy;

    const RULES: Option<Rules<Self::Attachment>> = None;

    const IN_CLUSTERS: bool = true;

    // A condition of the ancestors reports it.
    const NO_CONFLICT: Option<&'static str> = None;

    const OLDEST_FIRST: bool = true;

    fn check(_policy: &Candidate<'_, Self>, spec: &Self) -> Vec<ValidationError> {
        if targets(spec).is_empty() {
            return Vec::new();
        }
        ValidationError::of_gateway_api(spec, |typed| read(typed).0.errors)
    }

    fn attach(
        policy: &Candidate<'_, Self>,
        spec: &Self,
        attachments: &mut Attachments<Self>,
        report: &mut ObjectReport<'_>,
    ) {
        let object = &policy.declared.object;
        let budget = spec.typed().ok().and_then(|typed| read(typed).1);
        let mut attached = false;
        for (index, target) in targets(spec) {
            let Ok(service) = resolve(policy, attachments, index, &target) else {
                continue;
            };
            attached = true;
            let own = BackendPolicy {
                object: object.clone(),
                budget,
            };
            attachments.insert(Target::Service(service.name.clone()), own);
            if budget.is_some() {
                report.findings.extend(without_http(object, index, service));
                report.findings.extend(overridden(policy, index, service));
            }
        }
        if !attached {
            report.status.in_force = None;
        } else if budget.is_none() {
            let message = "it sets nothing";
            let finding = Finding::info(object, "spec", reason::NO_EFFECT, message);
            let fix = "add retryConstraint, or remove the policy";
            report.findings.push(finding.fix(fix));
        }
        report_ancestors(policy, attachments, report);
    }

    fn attach_unusable(
        policy: &Candidate<'_, Self>,
        _reason: &str,
        attachments: &mut Attachments<Self>,
        report: &mut ObjectReport<'_>,
    ) {
        report_ancestors(policy, attachments, report);
    }
}

/// Reads the fields without regard to the cluster: their faults, and the budget.
fn read(of: &api::XBackendTrafficPolicySpec) -> (Notes, Option<RetryBudget>) {
    let mut notes = Notes::default();
    if of.session_persistence.is_some() {
        let message = "sessions are kept by the rules of routes, not by a backend";
        let fix = "remove it; use sessionPersistence in the rules of an HTTPRoute or GRPCRoute";
        notes.unsupported("spec.sessionPersistence", message, fix);
    }
    let constraint = of.retry_constraint.as_ref();
    let budget = constraint.map(|of| budget(of, &mut notes));
    (notes, budget)
}

fn budget(of: &api::XBackendTrafficPolicyRetryConstraint, notes: &mut Notes) -> RetryBudget {
    let field = "spec.retryConstraint.budget";
    let budget = of.budget.as_ref();
    let percent = budget.and_then(|of| of.percent).unwrap_or(PERCENT);
    if !(0..=100).contains(&percent) {
        let message = format!("{percent} is not from 0 to 100");
        notes.unsupported(format!("{field}.percent"), message, "correct it");
    }
    // Sidecars keep the bound at every moment, and so over an interval of every length.
    let field = format!("{field}.interval");
    let interval = budget.and_then(|of| of.interval.as_ref());
    let interval = duration(&field, interval, notes);
    let second = Duration::from_secs(1);
    if interval.is_some_and(|of| of < second || of > HOUR) {
        notes.unsupported(field, "it is not from 1s to 1h", "correct it");
    }
    RetryBudget {
        percent: u32::try_from(percent).unwrap_or_default(),
        minimum: minimum(of.min_retry_rate.as_ref(), notes),
    }
}

/// The retries at the same time by which the rate is reached.
fn minimum(
    of: Option<&api::XBackendTrafficPolicyRetryConstraintMinRetryRate>,
    notes: &mut Notes,
) -> u32 {
    let field = "spec.retryConstraint.minRetryRate";
    let count = of.and_then(|of| of.count).unwrap_or(RATE.0);
    if !(1..=LARGEST_COUNT).contains(&count) {
        let message = format!("{count} is not from 1 to {LARGEST_COUNT}");
        notes.unsupported(format!("{field}.count"), message, "correct it");
    }
    let field = format!("{field}.interval");
    let interval = duration(&field, of.and_then(|of| of.interval.as_ref()), notes);
    let interval = interval.unwrap_or(RATE.1);
    if interval.is_zero() || interval > HOUR {
        notes.unsupported(field, "it is not longer than 0s and up to 1h", "correct it");
    }
    at_once(u64::try_from(count).unwrap_or_default(), interval)
}

fn at_once(count: u64, interval: Duration) -> u32 {
    let under_way = u128::from(count) * RETRY.as_nanos();
    let minimum = under_way.div_ceil(interval.as_nanos().max(1));
    u32::try_from(minimum).unwrap_or(u32::MAX).max(1)
}

/// The targets that are services, with their indexes. Others belong to other controllers.
fn targets(spec: &XBackendTrafficPolicySpec) -> Vec<(usize, ParentRef)> {
    let mut all = spec.elements::<ParentRef>("targetRefs");
    all.retain(|(_, target)| {
        let core = matches!(target.group.as_deref(), Some("" | "core"));
        core && target.kind.as_deref() == Some("Service")
    });
    all
}

/// Finds the service of a target.
///
/// # Errors
/// The target does not take the policy.
fn resolve<'a>(
    policy: &Candidate<'a, XBackendTrafficPolicySpec>,
    attachments: &Attachments<XBackendTrafficPolicySpec>,
    index: usize,
    target: &ParentRef,
) -> Result<&'a Service, ValidationError> {
    let field = format!("spec.targetRefs[{index}]");
    let name = policy.service(&target.name);
    let Some(service) = policy.lookup.service(&name) else {
        let (message, fix) = absent(policy.lookup, &name);
        let code = reason::TARGET_NOT_FOUND;
        return Err(ValidationError::parent(code, field, message, fix));
    };
    if service.headless {
        return Err(ValidationError::unsupported(
            field,
            format!("service {name} is headless: its callers choose the pod themselves"),
            "name a service with a cluster IP",
        ));
    }
    match winner(policy, attachments, &name) {
        None => Ok(service),
        Some(winner) => Err(ValidationError::parent(
            reason::CONFLICTED,
            field,
            format!("{winner} has service {name}, for it is older"),
            "remove one of the two",
        )),
    }
}

/// The other policy that has a service.
fn winner<'a>(
    policy: &Candidate<'_, XBackendTrafficPolicySpec>,
    attachments: &'a Attachments<XBackendTrafficPolicySpec>,
    service: &NamespacedName,
) -> Option<&'a ObjectRef> {
    let attached = attachments.get(&Target::Service(service.clone()))?;
    Some(&attached.object).filter(|winner| **winner != policy.declared.object)
}

/// The ports of a target on which requests are never sent again.
fn without_http(object: &ObjectRef, index: usize, service: &Service) -> Option<Finding> {
    let ports = service.ports.values();
    let ports = ports.filter(|port| port.protocol != Protocol::Http);
    let ports: Vec<String> = ports.map(|port| port.port.to_string()).collect();
    if ports.is_empty() {
        return None;
    }
    let (ports, name) = (ports.join(", "), &service.name);
    let message = format!("port {ports} of service {name} does not carry HTTP and has no retries");
    let field = format!("spec.targetRefs[{index}]");
    let finding = Finding::info(object, field, reason::NOT_HTTP, message);
    Some(finding.fix(DECLARE_HTTP))
}

/// So many objects with budgets are reported.
const NAMED: usize = 8;

/// Reports the `TrafficPolicy` objects with budgets that come before that of a policy.
fn overridden(
    policy: &Candidate<'_, XBackendTrafficPolicySpec>,
    index: usize,
    service: &Service,
) -> Vec<Finding> {
    let own = &service.name.namespace;
    let finding = |(port, winner): (Option<Port>, &ObjectRef)| {
        let place = match port {
            None => format!("service {}", service.name),
            Some(port) => format!("port {port} of service {}", service.name),
        };
        let callers = match winner.namespace == *own {
            true => "",
            false => " for the callers of its own namespace",
        };
        let message =
            format!("{winner} names a budget of retries of {place}{callers}, which comes first");
        let field = format!("spec.targetRefs[{index}]");
        Finding::info(&policy.declared.object, field, reason::OVERRIDDEN, message)
            .fix("remove one of the two budgets")
    };
    let named = policy.named_budgets(&service.name);
    named.into_iter().take(NAMED).map(finding).collect()
}

/// Sets the status at each service that the present spec names.
fn report_ancestors(
    policy: &Candidate<'_, XBackendTrafficPolicySpec>,
    attachments: &Attachments<XBackendTrafficPolicySpec>,
    report: &mut ObjectReport<'_>,
) {
    let (object, ObjectReport { status, findings }) = (&policy.declared.object, report);
    let Ok(spec) = &policy.declared.spec else {
        return;
    };
    let all = targets(spec);
    let mut not_taken = Vec::new();
    for (index, target) in &all {
        let mut conditions = Vec::new();
        if let Err(error) = resolve(policy, attachments, *index, target) {
            findings.push(error.finding(object));
            conditions = not_attached(&error);
            not_taken.push(error);
        }
        status.parents.push(ParentStatus {
            parent: target.clone(),
            conditions,
        });
    }
    let accepted = status.condition(ConditionType::Accepted);
    let accepted = accepted.is_some_and(|of| of.status == ConditionStatus::True);
    if let Some(first) = not_taken.first().filter(|_| not_taken.len() == all.len())
        && accepted
    {
        let text = first.sentence();
        status.set(ConditionType::Accepted, false, first.reason, text);
    }
}

/// The conditions at a target that does not take the policy.
fn not_attached(error: &ValidationError) -> Vec<DesiredCondition> {
    let condition = |kind, message: String| DesiredCondition {
        kind,
        status: ConditionStatus::False,
        reason: error.reason.to_owned(),
        message: bounded(message),
        generation: None,
    };
    let message = "the policy is not attached to this target".to_owned();
    vec![
        condition(ConditionType::Accepted, error.sentence()),
        condition(ConditionType::Programmed, message),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_the_retries_at_once_that_reach_it() {
        for (count, interval, expected) in [
            (10, "1s", 1),
            (1, "1h", 1),
            (11, "1s", 2),
            (100, "1s", 10),
            (600, "1m", 1),
            (1_000_000, "1s", 100_000),
            (1_000_000, "1ms", 100_000_000),
        ] {
            let interval = duration("", Some(&interval.to_owned()), &mut Notes::default());
            assert_eq!(at_once(count, interval.unwrap()), expected);
        }
    }
}
