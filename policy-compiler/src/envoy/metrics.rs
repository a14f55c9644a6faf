//! Golden metrics: requests, connections and durations per edge, counted by Envoy itself from the same fields as an access log.
//!
//! A series has one tag with all fields, and no field about the pod itself: that keeps a request cheap
//! (`docs/performance.md`). The agent makes labels of them ([`golden`]).

use envoy_types::pb::envoy::config::accesslog::v3 as accesslog;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::extensions::access_loggers::stats::v3::{Config, config};
use envoy_types::pb::envoy::r#type::v3::Scope;
use envoy_types::pb::google::protobuf::UInt64Value;
use heddle_xds_types::golden::{self, BEFORE_LIMITS, Details, Side};

use super::log_filter::{only, status_from};
use super::runtime::RuntimeValue;
use super::{any, number, text_struct};
use crate::finding::ObjectRef;

/// The bound on the counters of one access logger. A series is one combination of fields; an inbound port has one for each
/// caller, status, flag, rule and policy.
const MAX_COUNTERS: u32 = 256;
/// The bound on the histograms of one access logger.
const MAX_HISTOGRAMS: u32 = 256;

/// Values that stay the same for all of a pod's life are in Envoy's environment, where the agent puts them: so the listeners of all
/// workloads are the same. The names are short, because they are in every filter chain (ARCHITECTURE.md, names on the wire).
pub(crate) const OWN_NAMESPACE: &str = "%ENVIRONMENT(NS)%";
pub(crate) const OWN_WORKLOAD: &str = "%ENVIRONMENT(WL)%";
pub(crate) const OWN_PRINCIPAL: &str = "%ENVIRONMENT(ID)%";
/// The service in the metadata of a cluster of the server's side. Empty where Envoy answers before it has chosen a cluster.
pub(crate) const SERVICE_OF_CLUSTER: &str = "%CLUSTER_METADATA(heddle:service)%";
/// The same for connections of bytes, of which the gate has refused some before a cluster was chosen.
pub(crate) const SERVICE_OF_CONNECTION: &str = r#"%COALESCE({"operators":[{"command":"FILTER_STATE","param":"heddle.service:PLAIN"},{"command":"CLUSTER_METADATA","param":"heddle:service"}]})%"#;
/// The identity of the caller, at the server.
const CALLER: &str = "%DOWNSTREAM_PEER_URI_SAN%";
/// The cluster of a connection of bytes, or the rule that denied it.
pub(crate) const ORIGIN_OF_CONNECTION: &str = "%FILTER_STATE(envoy.tcp_proxy.cluster:PLAIN)%";
/// The lowest status of a failure.
const LOWEST_FAILURE: u32 = 400;
/// The policies that bound a cluster of the client's side, if any do.
const LIMITED_BY: &str = "%CLUSTER_METADATA(heddle.by:limits)%";
/// A service where there is none.
pub(crate) const NO_SERVICE: &str = "-";

/// The metadata of a cluster for [`SERVICE_OF_CLUSTER`].
pub(crate) fn of_service(service: Option<&str>) -> core::Metadata {
    super::metadata(
        "heddle",
        text_struct("service", service.unwrap_or(NO_SERVICE)),
    )
}

/// The metadata of a cluster for [`LIMITED_BY`].
pub(super) fn limited_by<'a>(policies: impl Iterator<Item = &'a ObjectRef>) -> core::Metadata {
    let names: Vec<String> = policies.map(ToString::to_string).collect();
    super::metadata("heddle.by", text_struct("limits", &names.join(", ")))
}

/// The name of a cluster of the server's side for statistics, in which [`golden`] finds the service.
pub(crate) fn stat_name(service: Option<&str>) -> String {
    format!("in|{}", service.unwrap_or(NO_SERVICE))
}

/// The two ends of a connection, as far as the reporting sidecar has them by itself. The texts may be commands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Edge<'a> {
    /// Of the client's sidecar: the service that is called.
    Source {
        /// Its namespace.
        namespace: &'a str,
        /// Its name.
        service: &'a str,
    },
    /// Of the server's sidecar: the service that was called.
    Destination {
        /// Its name.
        service: &'a str,
    },
}

impl<'a> Edge<'a> {
    /// The names and values of all that is known, for access logs.
    pub(crate) fn fields(&self) -> Vec<(&'static str, &'a str)> {
        match *self {
            Self::Source { namespace, service } => vec![
                ("reporter", Side::Source.as_str()),
                ("source_namespace", OWN_NAMESPACE),
                ("source_workload", OWN_WORKLOAD),
                ("source_principal", OWN_PRINCIPAL),
                ("destination_namespace", namespace),
                ("destination_service", service),
            ],
            Self::Destination { service } => vec![
                ("reporter", Side::Destination.as_str()),
                ("source_principal", CALLER),
                ("destination_namespace", OWN_NAMESPACE),
                ("destination_workload", OWN_WORKLOAD),
                ("destination_service", service),
            ],
        }
    }

    /// The tag of its series.
    fn tag(&self, [code, grpc_status]: [&str; 2], details: Option<Details<'_>>) -> config::Tag {
        let (reporter, namespace, service, peer) = match *self {
            // The backends of a split differ by their clusters.
            Self::Source { namespace, service } => {
                (Side::Source, namespace, service, "%UPSTREAM_CLUSTER%")
            }
            // In requests, the name that the cluster has for statistics is a thousand instructions cheaper than its metadata.
            Self::Destination {
                service: SERVICE_OF_CLUSTER,
            } => (Side::Destination, "", "%UPSTREAM_CLUSTER%", CALLER),
            Self::Destination { service } => (Side::Destination, "", service, CALLER),
        };
        let edge = golden::Edge {
            reporter,
            namespace,
            service,
            code,
            grpc_status,
            peer,
            details,
        };
        config::Tag {
            name: golden::TAG.to_owned(),
            value_format: edge.format(),
            rules: None,
        }
    }
}

const ORIGIN: &str = "%RESPONSE_CODE_DETAILS%";
const STATUS: [&str; 2] = ["%RESPONSE_CODE%", "%GRPC_STATUS_NUMBER%"];

/// The runtime value with the labels that the agent leaves out. None: it leaves out none.
pub(crate) fn runtime(left_out: u32) -> Option<(&'static str, RuntimeValue)> {
    (left_out != 0).then_some((golden::LEFT_OUT, RuntimeValue::Number(left_out)))
}

/// For HTTP connection managers: every request, and once more with details if it failed. `probed`: the kubelet's probes are among the
/// requests, and the series tell them apart by the rule.
pub(crate) fn http(edge: &Edge<'_>, probed: bool) -> [accesslog::AccessLog; 2] {
    let rule = probed.then_some(Details {
        flags: "",
        route: "%ROUTE_NAME%",
        origin: "",
    });
    let duration = config::Histogram {
        stat: stat(golden::DURATIONS, edge.tag(STATUS, rule)),
        unit: config::histogram::Unit::Milliseconds.into(),
        value_format: "%DURATION%".to_owned(),
    };
    let requests = Config {
        histograms: vec![duration],
        ..Default::default()
    };
    let origin = match edge {
        Edge::Source { .. } => format!("{ORIGIN}{BEFORE_LIMITS}{LIMITED_BY}"),
        Edge::Destination { .. } => ORIGIN.to_owned(),
    };
    let details = Details {
        flags: "%RESPONSE_FLAGS%",
        route: "%ROUTE_NAME%",
        origin: &origin,
    };
    let failure = config::Counter {
        stat: stat(golden::FAILURES, edge.tag(STATUS, Some(details))),
        value_fixed: Some(UInt64Value { value: 1 }),
        ..Default::default()
    };
    let failures = Config {
        counters: vec![failure],
        ..Default::default()
    };
    [
        logger("stats", None, requests),
        logger("failures", Some(failed()), failures),
    ]
}

/// For TCP proxies: once per connection, at its end.
pub(crate) fn tcp(edge: &Edge<'_>) -> accesslog::AccessLog {
    let limits = format!("{BEFORE_LIMITS}{LIMITED_BY}");
    let details = Details {
        flags: "%RESPONSE_FLAGS%",
        route: "",
        // The client's sidecar has the cluster already.
        origin: match edge {
            Edge::Source { .. } => &limits,
            Edge::Destination { .. } => ORIGIN_OF_CONNECTION,
        },
    };
    let tag = edge.tag(["", ""], Some(details));
    let one = config::Counter {
        stat: stat(golden::CONNECTIONS, tag.clone()),
        value_fixed: Some(UInt64Value { value: 1 }),
        ..Default::default()
    };
    let sum = |name: &str, value_format: &str| config::Counter {
        stat: stat(name, tag.clone()),
        value_format: value_format.to_owned(),
        ..Default::default()
    };
    let counters = vec![
        one,
        sum(golden::RECEIVED, "%BYTES_RECEIVED%"),
        sum(golden::SENT, "%BYTES_SENT%"),
    ];
    logger(
        "stats",
        None,
        Config {
            counters,
            ..Default::default()
        },
    )
}

fn stat(name: &str, tag: config::Tag) -> Option<config::Stat> {
    Some(config::Stat {
        name: name.to_owned(),
        tags: vec![tag],
    })
}

/// A response flag, or a status from 400 on.
fn failed() -> accesslog::AccessLogFilter {
    use accesslog::access_log_filter::FilterSpecifier as Of;
    let any = [
        Of::ResponseFlagFilter(accesslog::ResponseFlagFilter::default()),
        // Envoy demands a key. No layer has it.
        status_from(LOWEST_FAILURE, "heddle.failure"),
    ];
    only(Of::OrFilter(accesslog::OrFilter {
        filters: any.map(only).into(),
    }))
}

fn logger(
    name: &str,
    filter: Option<accesslog::AccessLogFilter>,
    config: Config,
) -> accesslog::AccessLog {
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
        name: name.to_owned(),
        filter,
        config_type: Some(accesslog::access_log::ConfigType::TypedConfig(any(&config))),
    }
}
