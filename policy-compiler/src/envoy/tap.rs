//! Tap: a logger that sends requests to the agent, which filters and redacts them for the taps that ask.
//!
//! Every HTTP connection manager has it, asleep behind a runtime value that comes by RTDS while a tap lasts. All of one side have
//! the same bytes, so that Envoy has one stream to the agent for each worker and side.

use std::sync::LazyLock;

use envoy_types::pb::envoy::config::accesslog::v3 as accesslog;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::extensions::access_loggers::grpc::v3::{
    CommonGrpcAccessLogConfig, HttpGrpcAccessLogConfig,
};
use envoy_types::pb::envoy::r#type::tracing::v3::{CustomTag, custom_tag};
use envoy_types::pb::google::protobuf::Any;
use heddle_xds_types::bootstrap::AGENT;
use heddle_xds_types::golden::Side;
use heddle_xds_types::tap::{HEADERS, details};

use super::any;
use super::log_filter::{drawn, only};
use super::metrics::Edge;
use super::runtime::RuntimeValue;

/// The share of requests that the agent gets, in parts of 10,000.
const SHARE: &str = heddle_xds_types::tap::RUNTIME_KEY;
/// Values that the messages of the access log service have not, or only in pieces. [`details::parse`] reads them.
const DETAILS: &str = "%CLUSTER_METADATA(heddle:service)%;%RESPONSE_FLAGS%;%GRPC_STATUS_NUMBER%;\
    %DYNAMIC_METADATA(envoy.filters.http.rbac:enforced_effective_policy_id)%;%UPSTREAM_PEER_URI_SAN%;%REQ(:METHOD)%";

static OF_CLIENT: LazyLock<Any> = LazyLock::new(|| config(Side::Source));
static OF_SERVER: LazyLock<Any> = LazyLock::new(|| config(Side::Destination));

/// The runtime value that wakes the loggers.
pub(crate) const fn runtime() -> (&'static str, RuntimeValue) {
    (SHARE, RuntimeValue::Number(10_000))
}

/// For HTTP connection managers: once per request, at its end.
pub(super) fn http(edge: &Edge<'_>) -> accesslog::AccessLog {
    let config = match edge {
        Edge::Source { .. } => &OF_CLIENT,
        Edge::Destination { .. } => &OF_SERVER,
    };
    accesslog::AccessLog {
        name: "tap".to_owned(),
        filter: Some(only(drawn(SHARE))),
        config_type: Some(accesslog::access_log::ConfigType::TypedConfig(Any::clone(
            config,
        ))),
    }
}

fn config(side: Side) -> Any {
    use core::grpc_service::{EnvoyGrpc, TargetSpecifier};
    let to = EnvoyGrpc {
        cluster_name: AGENT.to_owned(),
        ..Default::default()
    };
    let common = CommonGrpcAccessLogConfig {
        log_name: side.as_str().to_owned(),
        grpc_service: Some(core::GrpcService {
            target_specifier: Some(TargetSpecifier::EnvoyGrpc(to)),
            ..Default::default()
        }),
        transport_api_version: core::ApiVersion::V3.into(),
        custom_tags: vec![CustomTag {
            tag: details::TAG.to_owned(),
            r#type: Some(custom_tag::Type::Value(DETAILS.to_owned())),
        }],
        ..Default::default()
    };
    any(&HttpGrpcAccessLogConfig {
        common_config: Some(common),
        additional_request_headers_to_log: HEADERS.map(str::to_owned).into(),
        ..Default::default()
    })
}
