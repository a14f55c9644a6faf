//! `spec.rateLimits` of a `TrafficPolicy`.

use std::time::Duration;

use heddle_crds as crds;

use super::call_match;
use crate::kinds::{ValidationError, matches};
use crate::traffic::RateLimit;

/// The most limits of a policy: each is a filter of every request.
const MAX_LIMITS: usize = 8;
/// The most requests of a period.
const MOST: u32 = 1_000_000;
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(3600);

pub(super) fn rate_limits(of: &[crds::RateLimit]) -> Vec<RateLimit> {
    of.iter().map(rate_limit).collect()
}

fn rate_limit(of: &crds::RateLimit) -> RateLimit {
    RateLimit {
        matcher: call_match::matcher(of.matching.as_ref()),
        requests: of.requests,
        period: of.per.get(),
        burst: of.burst.unwrap_or(of.requests),
        per_caller: of.per_caller,
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
        problems.extend(call_match::check(&field, of.matching.as_ref()));
    }
    problems
}
