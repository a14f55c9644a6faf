//! Which of Envoy's figures are kept.
//!
//! Only whole parts of names: Envoy compares those without a look at the text, and need not remember the names that it drops. With
//! `contains` or `suffix` it remembers every name that it dropped, per cluster, listener and route: 10 kB for each destination in use.

use heddle_xds_types::golden;
use serde_json::{Value, json};

/// How often Envoy forgets the series that no request has touched since the time before, in the scopes that allow it: those
/// of the golden metrics. A series that is used less often is counted from 0 again.
pub(super) const EVICTION_INTERVAL: &str = "3600s";

/// Of Envoy itself: its life, its configuration, the way to the control plane, refusals for overload and of too many new destinations,
/// verdicts on TCP, traces and lines of access logs with their loss, questions about shared limits, connections of readers of metrics.
const OWN: [&str; 13] = [
    "server",
    "listener_manager",
    "cluster_manager",
    "control_plane",
    "overload",
    "cluster.heddle-control-plane",
    "cluster.otlp",
    "cluster.ratelimit",
    "tracing.opentelemetry",
    "access_logs",
    "local_rate_limit",
    "tcp.rbac",
    "http.metrics.downstream_cx_active",
];
/// The compiler's `stat_prefix` of listeners and connection managers.
const DIRECTIONS: [&str; 2] = ["inbound", "outbound"];
/// Of all listeners and connection managers of a direction together: the figures for draining, overload and verdicts.
const OF_A_DIRECTION: [(&str, &str); 10] = [
    ("listener", "downstream_cx_active"),
    ("listener", "downstream_cx_total"),
    ("listener", "downstream_global_cx_overflow"),
    ("listener", "downstream_cx_overload_reject"),
    ("listener", "no_filter_chain_match"),
    ("listener", "ssl"),
    ("http", "downstream_cx_active"),
    ("http", "downstream_rq_active"),
    ("http", "downstream_rq_total"),
    ("http", "rbac"),
];

/// Envoy's `stats_config`.
pub(super) fn kept() -> Value {
    let own = OWN
        .iter()
        .chain(&golden::NAMES)
        .map(|name| format!("{name}."));
    let directions = DIRECTIONS.iter().flat_map(|direction| {
        let of_it = OF_A_DIRECTION.iter();
        of_it.map(move |(part, name)| format!("{part}.{direction}.{name}."))
    });
    let patterns: Vec<Value> = own
        .chain(directions)
        .map(|prefix| json!({ "prefix": prefix }))
        .collect();
    json!({
        "stats_matcher": { "inclusion_list": { "patterns": patterns } },
        "histogram_bucket_settings": [
            { "match": { "exact": golden::DURATIONS }, "buckets": golden::BUCKETS_MS },
        ],
    })
}
