//! Shared rate limits as a filter of the server's sidecar: it asks the rate limit service about each request that counts, with the names
//! of the counts and the bounds, so that the service needs no configuration but the domain.

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::ratelimit::v3::RateLimitServiceConfig;
use envoy_types::pb::envoy::config::route::v3::RateLimit as Descriptors;
use envoy_types::pb::envoy::config::route::v3::rate_limit::action::{self, ActionSpecifier};
use envoy_types::pb::envoy::config::route::v3::rate_limit::r#override::{
    OverrideSpecifier, RateLimitOverride,
};
use envoy_types::pb::envoy::config::route::v3::rate_limit::{Action, Override};
use envoy_types::pb::envoy::extensions::filters::http::ratelimit::v3::RateLimit as Filter;
use envoy_types::pb::envoy::r#type::v3::{HttpStatus, RateLimitUnit, StatusCode};

use super::rate_limits::caller;
use super::request_match::headers;
use super::{any, duration, extension};
use crate::traffic::{Questions, RateLimit, RequestMatcher};

/// The cluster of the rate limit service.
pub(crate) const LIMITER: &str = "ratelimit";
/// The name of the mesh at the service.
const DOMAIN: &str = "heddle";
/// The key of the name of a count.
const POLICY: &str = "policy";

/// The filter of the shared limits of a port: one question for all of them. None: no limit is shared.
pub(super) fn filter(
    limits: &[RateLimit],
    questions: Questions,
) -> Option<core::TypedExtensionConfig> {
    let shared = limits.iter().filter_map(descriptors);
    let rate_limits: Vec<Descriptors> = shared.collect();
    if rate_limits.is_empty() {
        return None;
    }
    let config = Filter {
        domain: DOMAIN.to_owned(),
        timeout: duration(questions.timeout),
        failure_mode_deny: questions.closed,
        // Not 429, which would accuse the caller, and not 500: it is over when the service is back.
        status_on_error: Some(HttpStatus {
            code: StatusCode::ServiceUnavailable.into(),
        }),
        rate_limited_as_resource_exhausted: true,
        enable_retry_after_header: true,
        rate_limit_service: Some(RateLimitServiceConfig {
            grpc_service: Some(service()),
            transport_api_version: core::ApiVersion::V3.into(),
        }),
        rate_limits,
        ..Default::default()
    };
    Some(extension("rate-limits-shared", any(&config)))
}

fn service() -> core::GrpcService {
    use core::grpc_service::{EnvoyGrpc, TargetSpecifier};
    let to = EnvoyGrpc {
        cluster_name: LIMITER.to_owned(),
        ..Default::default()
    };
    core::GrpcService {
        target_specifier: Some(TargetSpecifier::EnvoyGrpc(to)),
        ..Default::default()
    }
}

/// The descriptor of a limit, with its bound: by the name of the count, and by the caller. A request that does not match has none.
fn descriptors(of: &RateLimit) -> Option<Descriptors> {
    let count = of.shared.as_deref()?;
    let actions = [Some(named(count, &of.matcher)), of.per_caller.then(caller)];
    let action = |action| Action {
        action_specifier: Some(action),
    };
    let bound = RateLimitOverride {
        requests_per_unit: of.requests,
        unit: unit(of).into(),
    };
    Some(Descriptors {
        actions: actions.into_iter().flatten().map(action).collect(),
        limit: Some(Override {
            override_specifier: Some(OverrideSpecifier::RateLimit(bound)),
        }),
        ..Default::default()
    })
}

fn named(count: &str, matcher: &RequestMatcher) -> ActionSpecifier {
    let (descriptor_key, descriptor_value) = (POLICY.to_owned(), count.to_owned());
    if matcher.is_any() {
        return ActionSpecifier::GenericKey(action::GenericKey {
            descriptor_key,
            descriptor_value,
            ..Default::default()
        });
    }
    ActionSpecifier::HeaderValueMatch(action::HeaderValueMatch {
        descriptor_key,
        descriptor_value,
        headers: headers(matcher),
        ..Default::default()
    })
}

/// The schema takes these three periods alone.
fn unit(of: &RateLimit) -> RateLimitUnit {
    match of.period.as_secs() {
        0..60 => RateLimitUnit::Second,
        60..3600 => RateLimitUnit::Minute,
        3600.. => RateLimitUnit::Hour,
    }
}
