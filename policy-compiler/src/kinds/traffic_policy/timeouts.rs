//! `spec.timeouts` of a `TrafficPolicy`.

use std::time::Duration;

use heddle_crds::{HumanDuration, RequestTimeouts};

use crate::kinds::ValidationError;
use crate::traffic::Timeouts;

/// The longest timeout. Envoy rejects durations of more than 292 years.
const LONGEST: Duration = Duration::from_secs(8760 * 3600);

pub(super) fn timeouts(of: &RequestTimeouts) -> Timeouts {
    let get = |duration: &Option<HumanDuration>| duration.as_ref().map(HumanDuration::get);
    Timeouts {
        request: get(&of.request),
        per_try: get(&of.per_try),
        idle: get(&of.idle),
    }
}

pub(super) fn check(timeouts: &RequestTimeouts) -> Vec<ValidationError> {
    let RequestTimeouts {
        request,
        per_try,
        idle,
    } = timeouts;
    let mut problems = Vec::new();
    let all = [("request", request), ("perTry", per_try), ("idle", idle)];
    if all.iter().all(|(_, timeout)| timeout.is_none()) {
        let fix = "name request, perTry or idle";
        problems.push(ValidationError::invalid(
            "spec.timeouts",
            "it is empty",
            fix,
        ));
    }
    for (name, timeout) in all {
        let Some(timeout) = timeout else { continue };
        if timeout.get().is_zero() || timeout.get() > LONGEST {
            let field = format!("spec.timeouts.{name}");
            let message = format!("{timeout} is not from 1ms to 8760h");
            let fix = "correct it, or leave it out for none";
            problems.push(ValidationError::invalid(field, message, fix));
        }
    }
    if let (Some(request), Some(per_try)) = (request, per_try)
        && per_try.get() > request.get()
    {
        let message = format!("{per_try} is longer than request, {request}");
        let fix = "make it shorter, or leave it out";
        problems.push(ValidationError::invalid(
            "spec.timeouts.perTry",
            message,
            fix,
        ));
    }
    problems
}
