//! Bounds on the use of backends and servers, in one line each.

use std::time::Duration;

use heddle_policy_compiler::ExplainedBackend;
use heddle_policy_compiler::traffic::{Overload, RateLimit};

/// A rate limit in one line.
pub fn limit(of: &RateLimit) -> String {
    let callers = match of.per_caller {
        true => "for each caller",
        false => "for all callers",
    };
    let (requests, burst) = (of.requests, of.burst);
    let s = if requests == 1 { "" } else { "s" };
    let period = time(of.period);
    match &of.shared {
        None => format!("{requests} request{s} in {period}, {burst} at once, {callers}"),
        Some(count) => {
            format!(
                "{requests} request{s} in {period} over all pods, {callers}, counted as {count}"
            )
        }
    }
}

/// A protection from overload in one line: `3 to 1000 requests at once, by their latency`.
pub fn overload(of: &Overload) -> String {
    let concurrency = of.concurrency.as_ref().map(|of| {
        let latency = of.latency.map_or_else(
            || "by their latency".to_owned(),
            |latency| format!("by a latency of {} without load", time(latency)),
        );
        format!("{} to {} requests at once, {latency}", of.min, of.max)
    });
    let admission = of.admission.as_ref().map(|of| {
        format!(
            "up to {} % refused below {} % success in {}",
            of.max_refused_percent,
            of.success_percent,
            time(of.window)
        )
    });
    let both: Vec<String> = concurrency.into_iter().chain(admission).collect();
    both.join("; ")
}

/// `retries of 20 % of the requests under way, or 1, at the same time; TrafficPolicy shop/reviews`, for a backend with such a bound.
pub(super) fn bounds(backend: &ExplainedBackend) -> Option<String> {
    let budget = backend.retry_budget.map(|of| {
        let (percent, minimum) = (of.percent, of.minimum);
        format!("retries of {percent} % of the requests under way, or {minimum}, at the same time")
    });
    let policies: Vec<String> = backend.policies.iter().map(ToString::to_string).collect();
    let policies = Some(policies.join(", ")).filter(|of| !of.is_empty());
    let parts: Vec<String> = budget.into_iter().chain(policies).collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}

pub(super) fn time(of: Duration) -> String {
    format!("{of:?}")
}
