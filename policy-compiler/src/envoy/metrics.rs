//! Golden metrics: requests, connections and durations per edge, counted by Envoy itself from the same fields as an access log.

use envoy_types::pb::envoy::config::accesslog::v3 as accesslog;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::extensions::access_loggers::stats::v3::{Config, config};
use envoy_types::pb::envoy::r#type::v3::Scope;
use envoy_types::pb::google::protobuf::UInt64Value;

use super::{any, number, text_struct};

/// The bound on the counters of one access logger. A series is one combination of labels; an inbound port has one for each
/// caller, response code and flag.
const MAX_COUNTERS: u32 = 1024;
/// The bound on the histograms of one access logger.
const MAX_HISTOGRAMS: u32 = 1024;

/// Values that stay the same for all of a pod's life are in Envoy's environment, where the agent puts them: so the listeners of all
/// workloads are the same. The names are short, because they are in every filter chain (ARCHITECTURE.md, names on the wire).
pub(crate) const OWN_NAMESPACE: &str = "%ENVIRONMENT(NS)%";
pub(crate) const OWN_WORKLOAD: &str = "%ENVIRONMENT(WL)%";
pub(crate) const OWN_PRINCIPAL: &str = "%ENVIRONMENT(ID)%";
/// The service that a cluster of the server's side says it stands for. Empty where Envoy answers before it has chosen a cluster.
pub(crate) const SERVICE_OF_CLUSTER: &str = "%CLUSTER_METADATA(heddle:service)%";
/// The same for connections of bytes, of which the gate has refused some before a cluster was chosen.
pub(crate) const SERVICE_OF_CONNECTION: &str = r#"%COALESCE({"operators":[{"command":"FILTER_STATE","param":"heddle.service:PLAIN"},{"command":"CLUSTER_METADATA","param":"heddle:service"}]})%"#;
/// A service where there is none.
pub(crate) const NO_SERVICE: &str = "-";

/// The metadata of a cluster for [`SERVICE_OF_CLUSTER`].
pub(crate) fn of_service(service: Option<&str>) -> core::Metadata {
    super::metadata(
        "heddle",
        text_struct("service", service.unwrap_or(NO_SERVICE)),
    )
}

/// The two ends of a connection, as far as the reporting sidecar knows them by itself. The pairs become labels, in this order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Edge<'a>(pub(crate) Vec<(&'static str, &'a str)>);

/// The label of the rule, where requests of the kubelet are among others.
const RULE: (&str, &str) = ("route", "%ROUTE_NAME%");

/// For HTTP connection managers. `probed`: the kubelet's probes are among the requests, and the series tell them apart.
pub(crate) fn http(edge: &Edge<'_>, probed: bool) -> accesslog::AccessLog {
    let mut tags = tags(edge, "http");
    tags.extend(probed.then(|| tag(RULE.0, RULE.1)));
    tags.extend([
        tag("response_code", "%RESPONSE_CODE%"),
        // Tells an answer of the application from one of the mesh.
        tag("response_flags", "%RESPONSE_FLAGS%"),
        tag("grpc_status", "%GRPC_STATUS_NUMBER%"),
    ]);
    let duration = config::Histogram {
        stat: stat("heddle_request_duration_ms", &tags),
        unit: config::histogram::Unit::Milliseconds.into(),
        value_format: "%DURATION%".to_owned(),
    };
    logger(Config {
        counters: vec![one("heddle_requests_total", &tags)],
        histograms: vec![duration],
        ..Default::default()
    })
}

/// For TCP proxies: once per connection, at its end.
pub(crate) fn tcp(edge: &Edge<'_>) -> accesslog::AccessLog {
    let mut tags = tags(edge, "tcp");
    tags.push(tag("response_flags", "%RESPONSE_FLAGS%"));
    let counters = vec![
        one("heddle_tcp_connections", &tags),
        sum("heddle_tcp_received_bytes", "%BYTES_RECEIVED%", &tags),
        sum("heddle_tcp_sent_bytes", "%BYTES_SENT%", &tags),
    ];
    logger(Config {
        counters,
        ..Default::default()
    })
}

fn tags(edge: &Edge<'_>, protocol: &str) -> Vec<config::Tag> {
    edge.0
        .iter()
        .map(|(name, value)| tag(name, value))
        .chain([tag("protocol", protocol)])
        .collect()
}

fn tag(name: &str, value: &str) -> config::Tag {
    config::Tag {
        name: name.to_owned(),
        value_format: value.to_owned(),
        rules: None,
    }
}

fn stat(name: &str, tags: &[config::Tag]) -> Option<config::Stat> {
    Some(config::Stat {
        name: name.to_owned(),
        tags: tags.to_vec(),
    })
}

fn one(name: &str, tags: &[config::Tag]) -> config::Counter {
    config::Counter {
        stat: stat(name, tags),
        value_fixed: Some(UInt64Value { value: 1 }),
        ..Default::default()
    }
}

fn sum(name: &str, value_format: &str, tags: &[config::Tag]) -> config::Counter {
    config::Counter {
        stat: stat(name, tags),
        value_format: value_format.to_owned(),
        ..Default::default()
    }
}

fn logger(config: Config) -> accesslog::AccessLog {
    // No prefix: the names are whole. Envoy drops new series above the bounds; series without traffic make room
    // (`stats_eviction_interval` of the bootstrap). The scope has no `sharing_name`: with one, Envoy 1.40 crashes at the
    // end of `--mode validate`, with which the control plane tries resources.
    let scope = Scope {
        max_counters: number(MAX_COUNTERS),
        max_histograms: number(MAX_HISTOGRAMS),
        enable_eviction: true,
        ..Default::default()
    };
    let config = Config {
        stats_scope: Some(scope),
        ..config
    };
    accesslog::AccessLog {
        name: "stats".to_owned(),
        config_type: Some(accesslog::access_log::ConfigType::TypedConfig(any(&config))),
        ..Default::default()
    }
}
