//! `spec.overload` of a `TrafficPolicy`.

use std::time::Duration;

use heddle_crds as crds;

use crate::kinds::ValidationError;
use crate::traffic::{AdaptiveConcurrency, AdmissionControl, Overload};

const FIELD: &str = "spec.overload";

pub(super) fn overload(of: &crds::Overload) -> Overload {
    Overload {
        concurrency: of.concurrency.as_ref().map(|of| AdaptiveConcurrency {
            latency: of.latency.as_ref().map(crds::HumanDuration::get),
            min: of.min,
            max: of.max,
        }),
        admission: of.admission.as_ref().map(|of| AdmissionControl {
            success_percent: of.success_percent,
            window: of.window.get(),
            min_rate: of.min_requests_per_second,
            max_refused_percent: of.max_refused_percent,
        }),
    }
}

pub(super) fn check(of: &crds::Overload) -> Vec<ValidationError> {
    let mut problems = Vec::new();
    if of.concurrency.is_none() && of.admission.is_none() {
        let message = "overload is empty";
        problems.push(ValidationError::invalid(
            FIELD,
            message,
            "name concurrency or admission",
        ));
    }
    problems.extend(of.concurrency.iter().flat_map(check_concurrency));
    problems.extend(of.admission.iter().flat_map(check_admission));
    problems
}

fn check_concurrency(of: &crds::AdaptiveConcurrency) -> Vec<ValidationError> {
    let field = |name| format!("{FIELD}.concurrency.{name}");
    let mut problems = vec![
        number(field("min"), of.min, 1, 100_000),
        number(field("max"), of.max, 1, 100_000),
    ];
    if of.min > of.max {
        let message = format!("{} is above max, which is {}", of.min, of.max);
        let fix = "lower it or raise max";
        problems.push(Some(ValidationError::invalid(field("min"), message, fix)));
    }
    let shortest = Duration::from_millis(1);
    let latency = of.latency.as_ref().map(|latency| {
        let inside = (shortest..=Duration::from_secs(3600)).contains(&latency.get());
        let message = format!("{latency} is not from 1ms to 1h");
        (!inside).then(|| ValidationError::invalid(field("latency"), message, "correct it"))
    });
    problems.extend(latency);
    problems.into_iter().flatten().collect()
}

fn check_admission(of: &crds::AdmissionControl) -> Vec<ValidationError> {
    let field = |name| format!("{FIELD}.admission.{name}");
    let rate = of.min_requests_per_second;
    let mut problems = vec![
        number(field("successPercent"), of.success_percent, 1, 100),
        number(field("minRequestsPerSecond"), rate, 0, 1_000_000),
        number(field("maxRefusedPercent"), of.max_refused_percent, 1, 99),
    ];
    let window = of.window.get();
    let inside = (Duration::from_secs(1)..=Duration::from_secs(600)).contains(&window);
    if !inside || window.subsec_nanos() > 0 {
        let message = format!("{} is not a number of seconds from 1s to 10m", of.window);
        let problem = ValidationError::invalid(field("window"), message, "correct it");
        problems.push(Some(problem));
    }
    problems.into_iter().flatten().collect()
}

fn number(field: String, of: u32, least: u32, most: u32) -> Option<ValidationError> {
    let message = format!("{of} is not from {least} to {most}");
    (!(least..=most).contains(&of)).then(|| ValidationError::invalid(field, message, "correct it"))
}
