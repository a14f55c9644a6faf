//! `spec.rateLimits` of a `TrafficPolicy`.

use std::time::Duration;

use heddle_crds::{self as crds, reason};

use super::call_match;
use crate::called_server::CalledServer;
use crate::finding::ObjectRef;
use crate::kinds::{ValidationError, matches};
use crate::traffic::RateLimit;
use crate::world::NamespacedName;

/// The most limits of a policy: each is a filter of every request.
const MAX_LIMITS: usize = 8;
/// The most requests of a period.
const MOST: u32 = 1_000_000;
const SHORTEST: Duration = Duration::from_secs(1);
/// The periods of shared limits: units of the rate limit protocol.
const PERIODS: [Duration; 3] = [SHORTEST, Duration::from_secs(60), LONGEST];
const LONGEST: Duration = Duration::from_secs(3600);

/// The limits of a policy.
pub(super) fn rate_limits(policy: &ObjectRef, of: &[crds::RateLimit]) -> Vec<RateLimit> {
    let limits = of.iter().enumerate();
    let limits = limits.map(|(index, of)| {
        let count = || format!("{}/{}/{index}", policy.namespace, policy.name).into();
        RateLimit {
            shared: of.shared.then(count),
            ..rate_limit(of)
        }
    });
    limits.collect()
}

/// A limit of each pod for itself.
fn rate_limit(of: &crds::RateLimit) -> RateLimit {
    RateLimit {
        matcher: call_match::matcher(of.matching.as_ref()),
        requests: of.requests,
        period: of.per.get(),
        burst: of.burst.unwrap_or(of.requests),
        per_caller: of.per_caller,
        shared: None,
    }
}

pub(super) fn check(of: &[crds::RateLimit]) -> Vec<ValidationError> {
    let mut problems = Vec::new();
    if of.len() > MAX_LIMITS {
        let message = format!("{} limits are more than {MAX_LIMITS}", of.len());
        let problem = ValidationError::invalid("spec.rateLimits", message, "name 1 to 8");
        problems.push(problem);
    }
    let expressions = of.iter().map(|of| rate_limit(of).matcher.expressions());
    let expressions: usize = expressions.sum();
    problems.extend(matches::too_many_expressions(
        "spec.rateLimits",
        expressions,
    ));
    for (index, of) in of.iter().enumerate() {
        let field = format!("spec.rateLimits[{index}]");
        let numbers = [("requests", Some(of.requests)), ("burst", of.burst)];
        for (name, number) in numbers {
            if let Some(number) = number.filter(|number| !(1..=MOST).contains(number)) {
                let message = format!("{number} is not from 1 to {MOST}");
                let field = format!("{field}.{name}");
                problems.push(ValidationError::invalid(field, message, "correct it"));
            }
        }
        if !(SHORTEST..=LONGEST).contains(&of.per.get()) {
            let message = format!("{} is not from 1s to 1h", of.per);
            let field = format!("{field}.per");
            problems.push(ValidationError::invalid(field, message, "correct it"));
        }
        if of.shared && !PERIODS.contains(&of.per.get()) {
            let message = format!("{} is not a period of a shared limit", of.per);
            let (field, fix) = (format!("{field}.per"), "use 1s, 1m or 1h");
            problems.push(ValidationError::invalid(field, message, fix));
        }
        if of.shared && of.burst.is_some() {
            let (field, message) = (format!("{field}.burst"), "a shared limit has no burst");
            problems.push(ValidationError::invalid(field, message, "remove it"));
        }
        problems.extend(call_match::check(&field, of.matching.as_ref()));
    }
    problems
}

/// The fault of shared limits of the rate limit service itself, which would ask itself about each question.
pub(super) fn check_server(
    of: &[crds::RateLimit],
    target: &NamespacedName,
    server: Option<&CalledServer>,
) -> Option<ValidationError> {
    let index = of.iter().position(|of| of.shared)?;
    server.filter(|server| server.is_service(target))?;
    Some(ValidationError::invalid(
        shared(index),
        format!("service {target} is the rate limit service, which cannot count calls to itself"),
        "leave shared out: then each pod counts for itself",
    ))
}

/// The fault of shared limits while the Mesh names no service that counts them. They alone are not in force.
pub(super) fn uncounted(
    of: &[crds::RateLimit],
    server: Option<&CalledServer>,
) -> Option<ValidationError> {
    let index = of.iter().position(|of| of.shared)?;
    server.is_none().then(|| {
        ValidationError::unresolved(
            reason::RATE_LIMIT_SERVER_NOT_FOUND,
            shared(index),
            "the Mesh names no rate limit service that could count for all pods, so that shared limits are not in force",
            "set spec.rateLimits.server of the Mesh, or leave shared out: then each pod counts for itself",
        )
    })
}

fn shared(index: usize) -> String {
    format!("spec.rateLimits[{index}].shared")
}
