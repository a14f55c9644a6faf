//! Requests that a server's sidecar could not hand to its application: a header of its answer reports that, and the caller's sidecar
//! sends them to another endpoint, with any method.

use envoy_types::pb::envoy::config::accesslog::v3 as accesslog;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::extensions::access_loggers::filters::cel::v3::ExpressionFilter;

use super::any;
use super::log_filter::only;
use super::request_match::header;
use super::wire::envoy::config::route::v3 as route;
use super::wire::envoy::extensions::filters::network::http_connection_manager::v3;
use crate::traffic::ValueMatcher;

/// The header. The route configurations of servers take it away from the answers of applications, and those of callers from the answers
/// that applications get. Callers without a sidecar get it; it adds nothing to the status 503.
pub(super) const UNREACHED: &str = "x-heddle-unreached";
/// The last attempt made no connection. The flag alone would not do: it stays from the attempts before, and the last one may have
/// delivered the request.
const NO_CONNECTION: &str = "response.code_details.matches('^upstream_reset_before_response_started.(remote_connection_failure|local_connection_failure|connection_timeout)')";

/// Marks the answers of a server's sidecar to requests for which it had no connection to the application.
pub(super) fn mark() -> v3::LocalReplyConfig {
    use accesslog::access_log_filter::FilterSpecifier::{
        AndFilter, ExtensionFilter, ResponseFlagFilter,
    };
    // Cheap, so that no other answer costs an expression.
    let flag = only(ResponseFlagFilter(accesslog::ResponseFlagFilter {
        flags: vec!["UF".to_owned()],
    }));
    let expression = ExpressionFilter {
        expression: NO_CONNECTION.to_owned(),
        ..Default::default()
    };
    let last = only(ExtensionFilter(accesslog::ExtensionFilter {
        name: "cel".to_owned(),
        config_type: Some(accesslog::extension_filter::ConfigType::TypedConfig(any(
            &expression,
        ))),
    }));
    let both = accesslog::AndFilter {
        filters: vec![flag, last],
    };
    let mapper = v3::ResponseMapper {
        filter: Some(only(AndFilter(both))),
        headers_to_add: vec![core::HeaderValueOption {
            header: Some(core::HeaderValue {
                key: UNREACHED.to_owned(),
                value: "1".to_owned(),
                ..Default::default()
            }),
            ..Default::default()
        }],
        ..Default::default()
    };
    v3::LocalReplyConfig {
        mappers: vec![mapper],
        ..Default::default()
    }
}

/// Adds the marked answers to the failures after which a request is sent again, if any are.
pub(super) fn again(policy: &mut route::RetryPolicy) {
    if policy.retry_on.is_empty() {
        return;
    }
    policy.retry_on.push_str(",retriable-headers");
    policy.retriable_headers = vec![header(UNREACHED, &ValueMatcher::Present)];
}
