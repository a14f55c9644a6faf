//! `spec.retries` of a `TrafficPolicy`.

use std::time::Duration;

use heddle_crds::{self as crds, HumanDuration, RetryCondition};

use crate::kinds::ValidationError;
use crate::traffic::{Backoff, Failure, GrpcCode, Resend, Retries, RetryBudget};

pub(super) fn retries(of: &crds::Retries) -> Retries {
    let conditions = of.conditions.iter().map(|condition| match condition {
        RetryCondition::Reset => Failure::Reset,
        RetryCondition::GatewayError => Failure::GatewayError,
        RetryCondition::ServerError => Failure::ServerError,
    });
    let statuses = of.status_codes.iter().map(|code| Failure::Status(*code));
    let codes = of.grpc_codes.iter().map(|code| {
        Failure::Grpc(match code {
            crds::GrpcCode::Cancelled => GrpcCode::Cancelled,
            crds::GrpcCode::DeadlineExceeded => GrpcCode::DeadlineExceeded,
            crds::GrpcCode::ResourceExhausted => GrpcCode::ResourceExhausted,
            crds::GrpcCode::Internal => GrpcCode::Internal,
            crds::GrpcCode::Unavailable => GrpcCode::Unavailable,
        })
    });
    Retries {
        attempts: of.attempts,
        failures: conditions.chain(statuses).chain(codes).collect(),
        resend: match of.resend {
            crds::Resend::Idempotent => Resend::Idempotent,
            crds::Resend::All => Resend::All,
        },
        backoff: of.backoff.as_ref().map(|backoff| Backoff {
            base: backoff.base.get(),
            max: longest(backoff),
        }),
    }
}

/// The budget that a spec names.
pub(super) fn budget(of: &crds::Retries) -> Option<RetryBudget> {
    of.budget.as_ref().map(in_model)
}

/// The budget where anything is sent again that an application may have received, and no object names one. Retries of requests that reached
/// no application add no load, and a budget would cut them.
pub(crate) fn default_budget() -> RetryBudget {
    in_model(&crds::RetryBudget::default())
}

const fn in_model(of: &crds::RetryBudget) -> RetryBudget {
    RetryBudget {
        percent: of.percent,
        minimum: of.minimum,
    }
}

fn longest(backoff: &crds::RetryBackoff) -> Duration {
    let max = backoff.max.as_ref().map(HumanDuration::get);
    max.unwrap_or_else(|| backoff.base.get().saturating_mul(10))
}

pub(super) fn check(of: &crds::Retries) -> Vec<ValidationError> {
    let mut problems = Vec::new();
    let mut problem = |field: &str, message: String, fix| {
        let field = format!("spec.retries.{field}");
        problems.push(ValidationError::invalid(field, message, fix));
    };
    let named = !retries(of).failures.is_empty();
    if of.attempts == 0 && (named || of.budget.is_some() || of.backoff.is_some()) {
        let message = "0 attempts send nothing again, and other fields say how".to_owned();
        let fix = "use at least 1, or remove the other fields of retries";
        problem("attempts", message, fix);
    }
    if of.resend == crds::Resend::All && !named {
        let message = "All has no effect, for no failure is named".to_owned();
        let fix = "add conditions, statusCodes or grpcCodes, or remove resend";
        problem("resend", message, fix);
    }
    if !of.grpc_codes.is_empty() && of.resend == crds::Resend::Idempotent {
        let message = "calls of gRPC are POST requests, which are not sent twice".to_owned();
        let fix = "add resend: All if the servers can bear it, or remove grpcCodes";
        problem("grpcCodes", message, fix);
    }
    if let Some(backoff) = &of.backoff
        && longest(backoff) < backoff.base.get()
    {
        let base = &backoff.base;
        let message = format!("{:?} is shorter than base, {base}", longest(backoff));
        problem("backoff.max", message, "make it longer, or leave it out");
    }
    if let Some(crds::RetryBudget {
        percent: 0,
        minimum: 0,
    }) = &of.budget
    {
        let message = "0 percent and a minimum of 0 allow no retry".to_owned();
        problem("budget", message, "raise one of them, or set attempts: 0");
    }
    problems
}
