//! `spec.faults` of a `TrafficPolicy`.

use std::time::Duration;

use heddle_crds as crds;

use super::call_match;
use crate::kinds::{ValidationError, matches};
use crate::traffic::{Abort, Delay, Fault, FaultAnswer, HeaderMatcher, ValueMatcher};

/// The most faults of a policy: each is a filter of every request.
const MAX_FAULTS: usize = 8;
/// The content types of gRPC.
const GRPC: &str = "application/grpc([+;].*)?";
/// The longest delay.
const LONGEST: Duration = Duration::from_secs(3600);

pub(super) fn faults(of: &[crds::Fault]) -> Vec<Fault> {
    of.iter().map(fault).collect()
}

fn fault(of: &crds::Fault) -> Fault {
    let mut matcher = call_match::matcher(of.matching.as_ref());
    let of_grpc = of.abort.as_ref().is_some_and(|of| of.grpc_status.is_some());
    if of_grpc {
        // Envoy would answer other requests with status 200.
        matcher.headers.push(HeaderMatcher {
            name: "content-type".into(),
            value: ValueMatcher::Regex(GRPC.into()),
        });
        matcher.headers.sort();
    }
    Fault {
        matcher,
        delay: of.delay.as_ref().map(|delay| Delay {
            time: delay.duration.get(),
            percent: delay.percent,
        }),
        abort: of.abort.as_ref().and_then(|abort| {
            let status = abort.status.map(FaultAnswer::Status);
            Some(Abort {
                answer: status.or(abort.grpc_status.map(FaultAnswer::Grpc))?,
                percent: abort.percent,
            })
        }),
    }
}

pub(super) fn check(of: &[crds::Fault]) -> Vec<ValidationError> {
    let mut problems = Vec::new();
    if of.len() > MAX_FAULTS {
        let message = format!("{} faults are more than {MAX_FAULTS}", of.len());
        problems.push(ValidationError::invalid(
            "spec.faults",
            message,
            "name 1 to 8",
        ));
    }
    let matches = of
        .iter()
        .map(|of| call_match::matcher(of.matching.as_ref()));
    let expressions: usize = matches.map(|of| of.expressions()).sum();
    problems.extend(matches::too_many_expressions("spec.faults", expressions));
    for (index, of) in of.iter().enumerate() {
        check_fault(&format!("spec.faults[{index}]"), of, &mut problems);
    }
    problems
}

fn check_fault(field: &str, of: &crds::Fault, problems: &mut Vec<ValidationError>) {
    let mut problem = |field: String, message: &str, fix| {
        problems.push(ValidationError::invalid(field, message, fix));
    };
    if of.delay.is_none() && of.abort.is_none() {
        let message = "a fault with neither delay nor abort does nothing";
        problem(field.to_owned(), message, "add one of them");
    }
    let percents = [
        ("delay", of.delay.as_ref().map(|delay| delay.percent)),
        ("abort", of.abort.as_ref().map(|abort| abort.percent)),
    ];
    for (name, percent) in percents {
        if let Some(percent) = percent.filter(|percent| *percent > 100) {
            let message = format!("{percent} is not from 0 to 100");
            problem(format!("{field}.{name}.percent"), &message, "correct it");
        }
    }
    if let Some(delay) = &of.delay {
        let time = delay.duration.get();
        if time.is_zero() || time > LONGEST {
            let message = format!("{} is not from 1ms to 1h", delay.duration);
            problem(format!("{field}.delay.duration"), &message, "correct it");
        }
    }
    if let Some(abort) = &of.abort {
        let answers = (abort.status, abort.grpc_status);
        let fits = match answers {
            (Some(status), None) => (400..600).contains(&status),
            (None, Some(code)) => (1..=16).contains(&code),
            (Some(_), Some(_)) | (None, None) => false,
        };
        if !fits {
            let message = "an abort takes exactly one of status and grpcStatus";
            let fix = "use a status from 400 to 599, or a code of gRPC from 1 to 16";
            problem(format!("{field}.abort"), message, fix);
        }
    }
    problems.extend(call_match::check(field, of.matching.as_ref()));
}
