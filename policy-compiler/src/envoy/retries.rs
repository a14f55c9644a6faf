//! Retry policies of routes.

use envoy_types::pb::envoy::config::route::v3;

use super::{duration, empty_any, number};
use crate::traffic::{Backoff, Failure, GrpcCode, Resend, Retries};

/// Requests that provably reached no application. To send them again is safe for every method.
pub(super) const UNSENT: &str = "connect-failure,refused-stream,reset-before-request";

/// Retries twice at most, at the same host or another.
pub(super) fn in_place(conditions: &str) -> v3::RetryPolicy {
    v3::RetryPolicy {
        retry_on: conditions.to_owned(),
        num_retries: number(2),
        ..Default::default()
    }
}

/// The part of the requests of a rule that one route takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// All of them, and all are sent again alike.
    Whole,
    /// Those with an idempotent method.
    Idempotent,
    /// Those that the route before does not take.
    Others,
}

/// The parts of a rule's requests, in the order of their routes. `method` is the one that the rule demands.
pub(super) fn parts(retries: &Retries, method: Option<&str>) -> &'static [Part] {
    match retries.resend.covers(method) {
        None if retries.resends() => &[Part::Idempotent, Part::Others],
        None | Some(true) => &[Part::Whole],
        Some(false) => &[Part::Others],
    }
}

/// The retries of a part. They go to another host, if there is one.
pub(super) fn policy(retries: &Retries, part: Part) -> v3::RetryPolicy {
    if retries.attempts == 0 {
        return v3::RetryPolicy {
            num_retries: number(0),
            ..Default::default()
        };
    }
    let mut policy = v3::RetryPolicy {
        retry_on: UNSENT.to_owned(),
        num_retries: number(retries.attempts),
        retry_back_off: retries.waits(part != Part::Others).map(back_off),
        ..Default::default()
    };
    elsewhere(&mut policy);
    if part != Part::Others {
        for failure in &retries.failures {
            add(&mut policy, *failure);
        }
    }
    policy
}

fn add(policy: &mut v3::RetryPolicy, failure: Failure) {
    let condition = match failure {
        Failure::Reset => "reset",
        Failure::GatewayError => "gateway-error",
        Failure::ServerError => "5xx",
        Failure::Status(code) => {
            let first = policy.retriable_status_codes.is_empty();
            policy.retriable_status_codes.push(u32::from(code));
            if !first {
                return;
            }
            "retriable-status-codes"
        }
        Failure::Grpc(GrpcCode::Cancelled) => "cancelled",
        Failure::Grpc(GrpcCode::DeadlineExceeded) => "deadline-exceeded",
        Failure::Grpc(GrpcCode::ResourceExhausted) => "resource-exhausted",
        Failure::Grpc(GrpcCode::Internal) => "internal",
        Failure::Grpc(GrpcCode::Unavailable) => "unavailable",
    };
    policy.retry_on.push(',');
    policy.retry_on.push_str(condition);
}

fn back_off(backoff: Backoff) -> v3::retry_policy::RetryBackOff {
    v3::retry_policy::RetryBackOff {
        base_interval: duration(backoff.base),
        max_interval: duration(backoff.max),
    }
}

/// Retries go to another host, if there is one.
fn elsewhere(policy: &mut v3::RetryPolicy) {
    use v3::retry_policy::retry_host_predicate::ConfigType;
    let previous =
        empty_any("envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate");
    policy.retry_host_predicate = vec![v3::retry_policy::RetryHostPredicate {
        name: "previous".to_owned(),
        config_type: Some(ConfigType::TypedConfig(previous)),
    }];
    policy.host_selection_retry_max_attempts = 3;
}

/// The methods of [`Part::Idempotent`] as a regular expression.
pub(super) fn idempotent_methods() -> String {
    Resend::IDEMPOTENT.join("|")
}
