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
/// The header of W3C with the data of other tracers about a trace.
const STATE: &str = "tracestate";
/// The value in the place of one that is not readable.
const UNREADABLE: &str = "heddle=unreadable";
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
const URL: &str = "http.url";
const ROUTE: (&str, &str) = ("route", "%ROUTE_NAME%");
/// Envoy's own attributes with text of clients, and that text as an expression. After them, Envoy adds the `grpc-message` of a server.
const TEXTS: [(&str, &str); 4] = [
    ("user_agent", "request.useragent"),
    ("guid:x-request-id", "request.id"),
    (
        "guid:x-client-trace-id",
        "request.headers['x-client-trace-id']",
    ),
    (
        "downstream_cluster",
        "request.headers['x-envoy-downstream-service-cluster']",
    ),
];
/// Those of gRPC alone.
const GRPC_TEXTS: [(&str, &str); 4] = [
    ("grpc.path", "request.url_path"),
    ("grpc.authority", "request.host"),
    ("grpc.content_type", "request.headers['content-type']"),
    ("grpc.timeout", "request.headers['grpc-timeout']"),
];
/// Whether Envoy takes a request for one of gRPC.
const IS_GRPC: &str = "request.headers['content-type'].startsWith('application/grpc')";
/// Texts of printable ASCII alone.
const PRINTABLE: &str = ".matches('^[ -~]*$')";

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
    let url = format!(
        "{}://{}{}",
        printable("request.scheme"),
        printable("request.host"),
        printable("request.url_path")
    );
    let of_grpc = |of: &str| format!("%CEL(!{IS_GRPC} ? '' : {of}{PRINTABLE} ? {of} : '-')%");
    let own = [(URL, url), (ROUTE.0, ROUTE.1.to_owned())]
        .into_iter()
        .chain(TEXTS.map(|(name, of)| (name, printable(of))))
        .chain(GRPC_TEXTS.map(|(name, of)| (name, of_grpc(of))));
    // Of two tags with one name, Envoy takes the first.
    let is_free = |name: &str| spans.tags.iter().all(|tag| *tag.name != *name);
    let own = own
        .filter(|(name, _)| is_free(name))
        .map(|(name, value)| CustomTag {
            tag: name.to_owned(),
            r#type: Some(custom_tag::Type::Value(value)),
        });
    let tags = spans.tags.iter().map(tag);
    Tracing {
        client_sampling: none,
        random_sampling: none,
        custom_tags: own.chain(tags).collect(),
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

/// A text as it is if it has printable ASCII alone, else `-`. A collector refuses every span that comes with a text that is not UTF-8.
fn printable(expression: &str) -> String {
    format!("%CEL({expression}{PRINTABLE} ? {expression} : '-')%")
}

fn tag(tag: &SpanTag) -> CustomTag {
    let value = match &tag.value {
        TagValue::Literal(text) => custom_tag::Type::Literal(custom_tag::Literal {
            value: text.to_string(),
        }),
        TagValue::Header(name) => {
            let header = format!("request.headers['{name}']");
            // Without a value, an attribute of Envoy's own with this name would stay as it is.
            let is_own = TEXTS
                .iter()
                .chain(&GRPC_TEXTS)
                .any(|(own, _)| **own == *tag.name);
            custom_tag::Type::Value(match is_own {
                true => format!(
                    "%CEL('{name}' in request.headers ? {header}{PRINTABLE} ? {header} : '-' : '-')%"
                ),
                false => printable(&header),
            })
        }
    };
    CustomTag {
        tag: tag.name.to_string(),
        r#type: Some(value),
    }
}

/// Gives the draw an id of its own, before routes are chosen, and cleans the state of the trace.
pub(super) fn own_id() -> core::TypedExtensionConfig {
    use core::header_value_option::HeaderAppendAction::{
        AddIfAbsent, OverwriteIfExists, OverwriteIfExistsOrAdd,
    };
    let state = format!("request.headers['{STATE}']");
    let unreadable = format!("%CEL({state}{PRINTABLE} ? '' : '{UNREADABLE}')%");
    let mutations = vec![
        set(ASIDE, "%REQ(X-REQUEST-ID)%", OverwriteIfExistsOrAdd),
        remove(REQUEST_ID),
        // Nothing is set to an empty value: the next one acts where there is a parent.
        set(REQUEST_ID, "%REQ(TRACEPARENT)%", OverwriteIfExistsOrAdd),
        set(REQUEST_ID, SAMPLED, OverwriteIfExists),
        set(REQUEST_ID, "%UNIQUE_ID%", AddIfAbsent),
        // It goes into the span as it is. Its content is for tracers, and such a one is for none.
        set(STATE, &unreadable, OverwriteIfExists),
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
