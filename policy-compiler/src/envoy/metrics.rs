//! Golden metrics: requests, connections and durations per edge, counted by Envoy itself from the same fields as an access log.

use envoy_types::pb::envoy::config::accesslog::v3 as accesslog;
use envoy_types::pb::envoy::extensions::access_loggers::stats::v3::{Config, config};
use envoy_types::pb::envoy::r#type::v3::Scope;
use envoy_types::pb::google::protobuf::UInt64Value;

use super::any;

/// Who talks to whom, as far as the reporting sidecar knows without asking. The pairs become labels, in this order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Edge(pub(crate) Vec<(&'static str, String)>);

/// For HTTP connection managers.
pub(crate) fn http(edge: &Edge) -> accesslog::AccessLog {
    let mut tags = tags(edge, "http");
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
pub(crate) fn tcp(edge: &Edge) -> accesslog::AccessLog {
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

fn tags(edge: &Edge, protocol: &str) -> Vec<config::Tag> {
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
    // No prefix: the names are whole. (Envoy wants one of scope and the older stat_prefix.)
    let config = Config {
        stats_scope: Some(Scope::default()),
        ..config
    };
    accesslog::AccessLog {
        name: "envoy.access_loggers.stats".to_owned(),
        config_type: Some(accesslog::access_log::ConfigType::TypedConfig(any(&config))),
        ..Default::default()
    }
}
