//! Filters of access loggers.

use envoy_types::pb::envoy::config::accesslog::v3 as accesslog;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::r#type::v3::fractional_percent::DenominatorType;

use super::fraction;

/// Lets requests pass that have this status or a higher one, or the value of the runtime in its place.
pub(super) fn status_from(
    lowest: u32,
    runtime_key: &str,
) -> accesslog::access_log_filter::FilterSpecifier {
    let comparison = accesslog::ComparisonFilter {
        op: accesslog::comparison_filter::Op::Ge.into(),
        value: Some(core::RuntimeUInt32 {
            default_value: lowest,
            runtime_key: runtime_key.to_owned(),
        }),
    };
    accesslog::access_log_filter::FilterSpecifier::StatusCodeFilter(accesslog::StatusCodeFilter {
        comparison: Some(comparison),
    })
}

/// Lets a share of requests pass: the value of the runtime, in parts of 10,000, and none without one.
pub(super) fn drawn(key: &str) -> accesslog::access_log_filter::FilterSpecifier {
    accesslog::access_log_filter::FilterSpecifier::RuntimeFilter(accesslog::RuntimeFilter {
        runtime_key: key.to_owned(),
        percent_sampled: fraction(0, DenominatorType::TenThousand),
        // By the request id, the draw costs 30 times as much.
        use_independent_randomness: true,
    })
}

pub(super) const fn only(
    filter: accesslog::access_log_filter::FilterSpecifier,
) -> accesslog::AccessLogFilter {
    accesslog::AccessLogFilter {
        filter_specifier: Some(filter),
    }
}
