//! Access logs: lines about requests and connections on the standard output of the sidecar, or records for the collector.
//!
//! Every filter chain has the logger, asleep behind runtime values: they come by RTDS, so that no listener changes when logs are
//! switched on, off or to another share.

use std::sync::LazyLock;

use envoy_types::pb::envoy::config::accesslog::v3 as accesslog;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::route::v3 as route;
use prost::{Message, Name};

use super::log_filter::{drawn, only, status_from};
use super::metrics::{Edge, ORIGIN_OF_CONNECTION};
use super::runtime::RuntimeValue;
use super::{inline, otlp, regex, struct_of, text_value};
use crate::telemetry::{AccessLogs, LineFormat};

/// The share of failures that are logged, in parts of 10,000. Without it nothing is logged.
const SHARE: &str = "heddle.log";
/// The share of the other requests, in parts of 10,000 of those that [`SHARE`] lets pass.
const OTHERS: &str = "heddle.log.others";
/// The lowest status of a failure.
const STATUS: &str = "heddle.log.status";
/// Higher than any status: by default only [`OTHERS`] decides.
const NO_STATUS: u32 = 1000;

/// The name of a field, and its value with commands of Envoy's.
type Field<'a> = (&'static str, &'a str);

/// The fields of a request. Docs: `docs/telemetry.md`. No header that may carry a secret is among them, and the path is without
/// its query. Text of clients is cut, for a request may have 256 kB of it.
const OF_REQUEST: [Field<'_>; 10] = [
    ("method", "%REQ(:METHOD):32%"),
    ("authority", "%REQ(:AUTHORITY):256%"),
    ("path", "%PATH(NQ:PATH):1024%"),
    ("protocol", "%PROTOCOL%"),
    ("status", "%RESPONSE_CODE%"),
    ("grpc_status", "%GRPC_STATUS_NUMBER%"),
    ("details", "%RESPONSE_CODE_DETAILS%"),
    ("route", "%ROUTE_NAME%"),
    ("request_id", "%REQ(X-REQUEST-ID):128%"),
    ("traceparent", "%REQ(TRACEPARENT):128%"),
];

/// The fields with text of the client as it came, and their headers.
const OF_CLIENT: [(&str, &str); 5] = [
    ("method", ":method"),
    ("authority", ":authority"),
    ("path", ":path"),
    ("request_id", "x-request-id"),
    ("traceparent", "traceparent"),
];
/// Text that every reader takes. Strings of protobuf are UTF-8: a record with another one would be refused, and the records of
/// other requests with it. On a terminal, control characters beyond ASCII command it, and marks of direction reorder a line.
const PLAIN_TEXT: &str = "[ -~]*";

/// The fields of a connection of bytes.
const OF_CONNECTION: [Field<'_>; 4] = [
    // Names the rule where the gate denies.
    ("details", ORIGIN_OF_CONNECTION),
    ("termination", "%CONNECTION_TERMINATION_DETAILS%"),
    // With requests, `details` has it.
    ("upstream_failure", "%UPSTREAM_TRANSPORT_FAILURE_REASON%"),
    ("attempts", "%UPSTREAM_REQUEST_ATTEMPT_COUNT%"),
];

/// The fields of both.
const OF_BOTH: [Field<'_>; 8] = [
    ("time", "%START_TIME%"),
    ("flags", "%RESPONSE_FLAGS%"),
    ("source_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("upstream_cluster", "%UPSTREAM_CLUSTER_RAW%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    ("duration_ms", "%DURATION%"),
];

/// The fields that all lines of a kind have, with their encoding: it is made once, for every filter chain has it.
struct Constant {
    fields: Vec<Field<'static>>,
    json: Vec<u8>,
}

static REQUEST: LazyLock<Constant> = LazyLock::new(|| Constant::new(&OF_REQUEST));
static CONNECTION: LazyLock<Constant> = LazyLock::new(|| Constant::new(&OF_CONNECTION));

impl Constant {
    fn new(own: &[Field<'static>]) -> Self {
        let fields = [&OF_BOTH[..], own].concat();
        let json = json(fields.iter().copied());
        Self { fields, json }
    }
}

/// The bytes of a struct with these fields.
fn json<'a>(fields: impl Iterator<Item = Field<'a>>) -> Vec<u8> {
    struct_of(fields.map(|(name, value)| (name, text_value(value))))
}

/// The fields about the two ends.
fn ends<'a>(edge: &Edge<'a>, server: &'static str) -> Vec<Field<'a>> {
    let mut fields = edge.fields();
    fields.push(("destination_principal", server));
    fields
}

/// For HTTP connection managers: once per request, at its end. `server` is the identity of the server, or a command for it.
pub(super) fn http(
    edge: &Edge<'_>,
    server: &'static str,
    format: LineFormat,
) -> Vec<accesslog::AccessLog> {
    let mut log = logger(&REQUEST, ends(edge, server), format);
    let fields = REQUEST.fields.iter().copied().chain(ends(edge, server));
    let own = fields.filter(|(name, _)| OF_CLIENT.iter().all(|(of, _)| name != of));
    let config = match format {
        LineFormat::Json => return vec![log],
        LineFormat::Text => super::any(&StdoutAccessLog::text(own)),
        LineFormat::Record => super::any(&otlp::records(own)),
    };
    log.filter = Some(both(text_of_client(true)));
    let without_text = accesslog::AccessLog {
        name: log.name.clone(),
        filter: Some(both(text_of_client(false))),
        config_type: Some(accesslog::access_log::ConfigType::TypedConfig(config)),
    };
    vec![log, without_text]
}

/// The filter of all loggers, and another one. That of all decides first: asleep, it costs nearly nothing.
fn both(other: accesslog::AccessLogFilter) -> accesslog::AccessLogFilter {
    let filters = vec![filter(), other];
    only(accesslog::access_log_filter::FilterSpecifier::AndFilter(
        accesslog::AndFilter { filters },
    ))
}

/// Lets requests pass of which all texts are plain, or of which one is not.
fn text_of_client(plain: bool) -> accesslog::AccessLogFilter {
    use accesslog::access_log_filter::FilterSpecifier as Of;
    let filters = OF_CLIENT.map(|(_, header)| {
        only(Of::HeaderFilter(accesslog::HeaderFilter {
            header: Some(route::HeaderMatcher {
                name: header.to_owned(),
                header_match_specifier: Some(
                    route::header_matcher::HeaderMatchSpecifier::StringMatch(regex(PLAIN_TEXT)),
                ),
                treat_missing_header_as_empty: true,
                invert_match: !plain,
            }),
        }))
    });
    let filters = filters.into();
    only(match plain {
        true => Of::AndFilter(accesslog::AndFilter { filters }),
        false => Of::OrFilter(accesslog::OrFilter { filters }),
    })
}

/// For TCP proxies: once per connection, at its end.
pub(super) fn tcp(
    edge: &Edge<'_>,
    server: &'static str,
    format: LineFormat,
) -> accesslog::AccessLog {
    logger(&CONNECTION, ends(edge, server), format)
}

fn logger(constant: &Constant, ends: Vec<Field<'_>>, format: LineFormat) -> accesslog::AccessLog {
    let config = match format {
        LineFormat::Json => {
            let fields = [&*constant.json, &json(ends.into_iter())].concat();
            super::any(&StdoutAccessLog::json(fields))
        }
        LineFormat::Text => {
            let fields = constant.fields.iter().copied().chain(ends);
            super::any(&StdoutAccessLog::text(fields))
        }
        LineFormat::Record => {
            let fields = constant.fields.iter().copied().chain(ends);
            super::any(&otlp::records(fields))
        }
    };
    accesslog::AccessLog {
        name: "log".to_owned(),
        filter: Some(filter()),
        config_type: Some(accesslog::access_log::ConfigType::TypedConfig(config)),
    }
}

/// Draws once for a failure, and once more for the other requests.
fn filter() -> accesslog::AccessLogFilter {
    use accesslog::access_log_filter::FilterSpecifier as Of;
    let failed = [
        status_from(NO_STATUS, STATUS),
        Of::ResponseFlagFilter(accesslog::ResponseFlagFilter::default()),
    ];
    let any = accesslog::OrFilter {
        filters: [drawn(OTHERS)]
            .into_iter()
            .chain(failed)
            .map(only)
            .collect(),
    };
    let all = accesslog::AndFilter {
        filters: vec![only(drawn(SHARE)), only(Of::OrFilter(any))],
    };
    only(Of::AndFilter(all))
}

/// The runtime values for these logs.
pub(crate) fn runtime(logs: AccessLogs) -> [(&'static str, RuntimeValue); 3] {
    let others = match logs.failures {
        0 => 0,
        failures => (u32::from(logs.share) * 10_000).div_ceil(u32::from(failures)),
    };
    [
        (SHARE, logs.failures.into()),
        (OTHERS, others),
        (STATUS, logs.from_status.into()),
    ]
    .map(|(name, value)| (name, RuntimeValue::Number(value)))
}

/// `envoy.extensions.access_loggers.stream.v3.StdoutAccessLog`, with the fields of the JSON object in a fixed order.
#[derive(Clone, PartialEq, Message)]
struct StdoutAccessLog {
    #[prost(message, optional, tag = "1")]
    log_format: Option<SubstitutionFormatString>,
}

/// `envoy.config.core.v3.SubstitutionFormatString`, with its struct in bytes: the maps of envoy-types have no order.
#[derive(Clone, PartialEq, Message)]
struct SubstitutionFormatString {
    #[prost(bytes = "vec", optional, tag = "2")]
    json_format: Option<Vec<u8>>,
    #[prost(bool, tag = "3")]
    omit_empty_values: bool,
    #[prost(message, optional, tag = "5")]
    text_format_source: Option<core::DataSource>,
}

impl Name for StdoutAccessLog {
    const NAME: &'static str = "StdoutAccessLog";
    const PACKAGE: &'static str = "envoy.extensions.access_loggers.stream.v3";

    fn type_url() -> String {
        format!("type.googleapis.com/{}.{}", Self::PACKAGE, Self::NAME)
    }
}

impl StdoutAccessLog {
    fn json(fields: Vec<u8>) -> Self {
        Self {
            log_format: Some(SubstitutionFormatString {
                json_format: Some(fields),
                omit_empty_values: true,
                ..Default::default()
            }),
        }
    }

    fn text<'a>(fields: impl Iterator<Item = (&'a str, &'a str)>) -> Self {
        let fields: Vec<String> = fields
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let line = format!("{}\n", fields.join(" "));
        Self {
            log_format: Some(SubstitutionFormatString {
                text_format_source: Some(inline(&line)),
                ..Default::default()
            }),
        }
    }
}
