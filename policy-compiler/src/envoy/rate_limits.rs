//! Rate limits as filters of the server's sidecar, after authorization.
//!
//! A limit for some requests, or for each caller, is a bucket of a descriptor. Envoy takes a request without a descriptor from the
//! default bucket, which is then bottomless.

use envoy_types::pb::envoy::config::core::v3::{RuntimeFractionalPercent, TypedExtensionConfig};
use envoy_types::pb::envoy::config::route::v3::RateLimit as Descriptors;
use envoy_types::pb::envoy::config::route::v3::rate_limit::Action;
use envoy_types::pb::envoy::config::route::v3::rate_limit::action::{self, ActionSpecifier};
use envoy_types::pb::envoy::extensions::common::ratelimit::v3::{
    LocalRateLimitDescriptor, rate_limit_descriptor::Entry,
};
use envoy_types::pb::envoy::extensions::filters::http::local_ratelimit::v3::LocalRateLimit;
use envoy_types::pb::envoy::extensions::rate_limit_descriptors::expr::v3::{
    Descriptor, descriptor::ExprSpecifier,
};
use envoy_types::pb::envoy::r#type::v3::{TokenBucket, fractional_percent::DenominatorType};

use super::request_match::headers;
use super::{any, duration, extension, fraction, number, truth};
use crate::traffic::{RateLimit, RequestMatcher};

/// The identity of the caller. Where the expression fails, Envoy lets the request pass: so callers without a certificate have a text too.
const CALLER: &str =
    "has(connection.uri_san_peer_certificate) ? connection.uri_san_peer_certificate : 'none'";
/// The most callers that a limit counts apart. The one that was silent for longest is forgotten first.
const MAX_CALLERS: u32 = 1024;
/// The keys of descriptors.
const MATCHED: &str = "match";
const BY_CALLER: &str = "caller";
const YES: &str = "yes";

/// The filter of a limit of the pod itself.
pub(super) fn filter(index: usize, of: &RateLimit) -> TypedExtensionConfig {
    let bucket = TokenBucket {
        max_tokens: of.burst,
        tokens_per_fill: number(of.requests),
        fill_interval: duration(of.period),
    };
    let matched = (!of.matcher.is_any()).then(|| (MATCHED, YES, matched(&of.matcher)));
    let caller = of.per_caller.then(|| (BY_CALLER, "", caller()));
    let (mut entries, mut actions) = (Vec::new(), Vec::new());
    for (key, value, action) in matched.into_iter().chain(caller) {
        entries.push(Entry {
            key: key.to_owned(),
            value: value.to_owned(),
        });
        actions.push(Action {
            action_specifier: Some(action),
        });
    }
    let config = LocalRateLimit {
        stat_prefix: "heddle_rate_limit".to_owned(),
        filter_enabled: always(),
        filter_enforced: always(),
        enable_retry_after_header: true,
        rate_limited_as_resource_exhausted: true,
        ..match actions.is_empty() {
            true => LocalRateLimit {
                token_bucket: Some(bucket),
                ..Default::default()
            },
            false => by_descriptor(bucket, entries, actions),
        }
    };
    extension(&format!("rate-limit-{index}"), any(&config))
}

/// A bucket for each descriptor. An entry without a value stands for each value.
fn by_descriptor(bucket: TokenBucket, entries: Vec<Entry>, actions: Vec<Action>) -> LocalRateLimit {
    LocalRateLimit {
        // Envoy demands that the intervals of both are multiples.
        token_bucket: Some(TokenBucket {
            max_tokens: u32::MAX,
            tokens_per_fill: number(u32::MAX),
            ..bucket
        }),
        always_consume_default_token_bucket: truth(false),
        max_dynamic_descriptors: number(MAX_CALLERS),
        descriptors: vec![LocalRateLimitDescriptor {
            entries,
            token_bucket: Some(bucket),
            ..Default::default()
        }],
        rate_limits: vec![Descriptors {
            actions,
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn matched(matcher: &RequestMatcher) -> ActionSpecifier {
    ActionSpecifier::HeaderValueMatch(action::HeaderValueMatch {
        descriptor_key: MATCHED.to_owned(),
        descriptor_value: YES.to_owned(),
        headers: headers(matcher),
        ..Default::default()
    })
}

/// The identity of the caller as an entry of descriptors.
pub(super) fn caller() -> ActionSpecifier {
    let config = Descriptor {
        descriptor_key: BY_CALLER.to_owned(),
        expr_specifier: Some(ExprSpecifier::Text(CALLER.to_owned())),
        ..Default::default()
    };
    let name = "envoy.rate_limit_descriptors.expr";
    ActionSpecifier::Extension(extension(name, any(&config)))
}

fn always() -> Option<RuntimeFractionalPercent> {
    Some(RuntimeFractionalPercent {
        default_value: fraction(100, DenominatorType::Hundred),
        ..Default::default()
    })
}
