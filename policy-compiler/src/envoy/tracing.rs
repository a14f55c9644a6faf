//! Traces: Envoy's OpenTelemetry tracer, with a share that is a runtime value.
//!
//! Envoy draws by the first digits of `x-request-id`, and takes a request for sampled if the 15th character of an id of 36 is `9`.
//! So the draw gets an id of its own: a sampled one for requests with a parent, for the tracer then follows the parent, and a
//! random one for others. The id of the client steps aside and comes back before any other filter.

use envoy_types::pb::envoy::config::common::mutation_rules::v3::{HeaderMutation, header_mutation};
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::trace::v3::OpenTelemetryConfig;
use envoy_types::pb::envoy::config::trace::v3::tracing::{Http, http};
use envoy_types::pb::envoy::extensions::filters::http::header_mutation::v3 as restore;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::Tracing;
use envoy_types::pb::envoy::extensions::http::early_header_mutation::header_mutation::v3 as early;
use envoy_types::pb::envoy::r#type::tracing::v3::{CustomTag, custom_tag};
use envoy_types::pb::envoy::r#type::v3::Percent;
use envoy_types::pb::google::protobuf::Any;

use super::otlp::{self, COLLECTOR};
use super::runtime::RuntimeValue;
use super::{any, extension};
use crate::telemetry::{SpanTag, TagValue};

/// The share of requests without a parent that begin a trace. The name is Envoy's.
const SHARE: &str = "tracing.random_sampling";
/// The header of the id by which Envoy draws.
pub(crate) const REQUEST_ID: &str = "x-request-id";
/// Where the id of the client is in the meantime.
const ASIDE: &str = "x-heddle-request-id";
/// An id that Envoy takes for sampled.
const SAMPLED: &str = "00000000-0000-9000-8000-000000000000";
/// So many spans are exported together, or fewer after five seconds. The name is Envoy's, with a default of 5.
const TOGETHER: (&str, RuntimeValue) = (
    "tracing.opentelemetry.min_flush_spans",
    RuntimeValue::Number(64),
);
/// Envoy's own attribute, without the query: that may have secrets.
const URL: (&str, &str) = (
    "http.url",
    "%REQ(:SCHEME)%://%REQ(:AUTHORITY)%%PATH(NQ:PATH)%",
);
const ROUTE: (&str, &str) = ("route", "%ROUTE_NAME%");

/// The spans of a connection manager.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spans<'a> {
    /// The name of each span, with commands.
    pub(crate) operation: String,
    /// Attributes beside Envoy's own.
    pub(crate) tags: &'a [SpanTag],
}

/// The runtime values for this share.
pub(crate) const fn runtime(share: u16) -> [(&'static str, RuntimeValue); 2] {
    [(SHARE, RuntimeValue::Share(share)), TOGETHER]
}

/// The tracer. Its share without a runtime value is 0: only requests with a sampled parent have a span then.
pub(super) fn tracer(spans: &Spans<'_>) -> Tracing {
    let none = Some(Percent { value: 0.0 });
    let own = [URL, ROUTE].map(|(name, value)| CustomTag {
        tag: name.to_owned(),
        r#type: Some(custom_tag::Type::Value(value.to_owned())),
    });
    let tags = spans.tags.iter().map(tag);
    Tracing {
        client_sampling: none,
        random_sampling: none,
        custom_tags: own.into_iter().chain(tags).collect(),
        provider: Some(Http {
            name: COLLECTOR.to_owned(),
            config_type: Some(http::ConfigType::TypedConfig(exporter())),
        }),
        operation: spans.operation.clone(),
        ..Default::default()
    }
}

fn exporter() -> Any {
    any(&OpenTelemetryConfig {
        grpc_service: Some(otlp::service()),
        resource_detectors: vec![otlp::resource()],
        ..Default::default()
    })
}

fn tag(tag: &SpanTag) -> CustomTag {
    let value = match &tag.value {
        TagValue::Literal(text) => custom_tag::Type::Literal(custom_tag::Literal {
            value: text.to_string(),
        }),
        TagValue::Header(name) => custom_tag::Type::RequestHeader(custom_tag::Header {
            name: name.to_string(),
            ..Default::default()
        }),
    };
    CustomTag {
        tag: tag.name.to_string(),
        r#type: Some(value),
    }
}

/// Gives the draw an id of its own, before routes are chosen.
pub(super) fn own_id() -> core::TypedExtensionConfig {
    use core::header_value_option::HeaderAppendAction::{
        AddIfAbsent, OverwriteIfExists, OverwriteIfExistsOrAdd,
    };
    let mutations = vec![
        set(ASIDE, "%REQ(X-REQUEST-ID)%", OverwriteIfExistsOrAdd),
        remove(REQUEST_ID),
        // Nothing is set to an empty value: the next one acts where there is a parent.
        set(REQUEST_ID, "%REQ(TRACEPARENT)%", OverwriteIfExistsOrAdd),
        set(REQUEST_ID, SAMPLED, OverwriteIfExists),
        set(REQUEST_ID, "%UNIQUE_ID%", AddIfAbsent),
    ];
    extension("own id", any(&early::HeaderMutation { mutations }))
}

/// The filter that gives the request its own id back.
pub(super) fn restore_id() -> Any {
    use core::header_value_option::HeaderAppendAction::OverwriteIfExistsOrAdd;
    let request_mutations = vec![
        remove(REQUEST_ID),
        set(
            REQUEST_ID,
            "%REQ(X-HEDDLE-REQUEST-ID)%",
            OverwriteIfExistsOrAdd,
        ),
        remove(ASIDE),
    ];
    any(&restore::HeaderMutation {
        mutations: Some(restore::Mutations {
            request_mutations,
            ..Default::default()
        }),
        ..Default::default()
    })
}

fn remove(name: &str) -> HeaderMutation {
    HeaderMutation {
        action: Some(header_mutation::Action::Remove(name.to_owned())),
    }
}

fn set(
    name: &str,
    value: &str,
    action: core::header_value_option::HeaderAppendAction,
) -> HeaderMutation {
    let header = core::HeaderValue {
        key: name.to_owned(),
        value: value.to_owned(),
        ..Default::default()
    };
    let option = core::HeaderValueOption {
        header: Some(header),
        append_action: action.into(),
        ..Default::default()
    };
    HeaderMutation {
        action: Some(header_mutation::Action::Append(option)),
    }
}
