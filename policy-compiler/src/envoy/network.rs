//! Network filters for bytes that are not HTTP.

use std::net::SocketAddr;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::listener::v3 as listener;
use envoy_types::pb::envoy::extensions::filters::common::set_filter_state::v3 as state;
use envoy_types::pb::envoy::extensions::filters::network::local_ratelimit::v3 as local_ratelimit;
use envoy_types::pb::envoy::extensions::filters::network::set_filter_state::v3 as set_filter_state;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3 as tcp;
use envoy_types::pb::envoy::r#type::v3::TokenBucket;
use envoy_types::pb::google::protobuf::Any;

use super::reporting::Reporting;
use super::{ads, any, endpoint, inline, matchers, number, seconds};
use crate::traffic::{Alpn, CONNECT_ATTEMPTS};

/// The key of the cluster that the TCP proxy takes in place of its own.
pub(super) const CLUSTER: &str = "envoy.tcp_proxy.cluster";
/// New destinations that a sidecar may ask for at once. An application that starts dials dozens; a scan of a network dials thousands, and
/// each unknown address costs the sidecar a cluster and the control plane an answer.
const NEW_DESTINATIONS: u32 = 512;
/// How many more it may ask for in each second that follows: a /24 takes four seconds, a /16 a quarter of an hour.
const NEW_DESTINATIONS_PER_SECOND: u32 = 64;

/// Envoy finds a filter by the type of its configuration; its name is for people, and short, for it is in every filter chain. So it is with
/// HTTP filters, transport sockets and access loggers.
pub(super) fn filter(name: &str, config: Any) -> listener::Filter {
    listener::Filter {
        name: name.to_owned(),
        config_type: Some(listener::filter::ConfigType::TypedConfig(config)),
    }
}

/// A filter that comes by ECDS, under its own name. A new listener waits for it; if it goes, connections are closed.
pub(crate) fn discovered(name: &str, kind: &str) -> listener::Filter {
    let source = core::ExtensionConfigSource {
        config_source: Some(ads()),
        type_urls: vec![kind.to_owned()],
        ..Default::default()
    };
    listener::Filter {
        name: name.to_owned(),
        config_type: Some(listener::filter::ConfigType::ConfigDiscovery(source)),
    }
}

/// Everything to one cluster, behind a gate: it connects after the TLS handshake, and takes nothing from the client before it has connected.
/// In plain text it connects at once.
pub(crate) fn tcp_proxy_gated(
    stat_prefix: &str,
    cluster: &str,
    reporting: &Reporting<'_>,
) -> listener::Filter {
    let proxy = tcp::TcpProxy {
        upstream_connect_mode: tcp::UpstreamConnectMode::OnDownstreamTlsHandshake.into(),
        max_early_data_bytes: number(0),
        ..metered(stat_prefix, cluster, Some(reporting))
    };
    filter("tcp", any(&proxy))
}

/// Everything to one cluster. Idle connections live on: databases and brokers expect that.
pub(crate) fn tcp_proxy(
    stat_prefix: &str,
    cluster: &str,
    reporting: Option<&Reporting<'_>>,
) -> listener::Filter {
    filter("tcp", any(&metered(stat_prefix, cluster, reporting)))
}

/// Everything to one cluster, which chooses the endpoint by the client's address.
pub(crate) fn tcp_proxy_sticky(
    stat_prefix: &str,
    cluster: &str,
    reporting: &Reporting<'_>,
) -> listener::Filter {
    use envoy_types::pb::envoy::r#type::v3::{HashPolicy, hash_policy};
    let by_address = hash_policy::PolicySpecifier::SourceIp(hash_policy::SourceIp {});
    let proxy = tcp::TcpProxy {
        hash_policy: vec![HashPolicy {
            policy_specifier: Some(by_address),
        }],
        ..metered(stat_prefix, cluster, Some(reporting))
    };
    filter("tcp", any(&proxy))
}

/// Everything to the one endpoint of a cluster that is at this address.
pub(crate) fn tcp_proxy_to(
    stat_prefix: &str,
    cluster: &str,
    at: SocketAddr,
    reporting: &Reporting<'_>,
) -> listener::Filter {
    let proxy = tcp::TcpProxy {
        metadata_match: Some(endpoint::only(at)),
        ..metered(stat_prefix, cluster, Some(reporting))
    };
    filter("tcp", any(&proxy))
}

fn metered(stat_prefix: &str, cluster: &str, reporting: Option<&Reporting<'_>>) -> tcp::TcpProxy {
    tcp::TcpProxy {
        access_log: reporting.map(Reporting::of_connections).unwrap_or_default(),
        // Another endpoint, if the first does not take the connection: no byte was sent yet.
        max_connect_attempts: number(CONNECT_ATTEMPTS),
        ..proxy(stat_prefix, cluster)
    }
}

/// Forwards to the cluster that the filter state names, and fetches it if it is not there yet. `time` is the format of the bucket in
/// the name. It sets how long a rejection is remembered, because Envoy requests a name at most once per stream.
pub(crate) fn on_demand(time: &str) -> Vec<listener::Filter> {
    let name = set_state(
        CLUSTER,
        &on_demand_name(time),
        state::filter_state_value::SharedWithUpstream::None,
    );
    let proxy = tcp::TcpProxy {
        on_demand: Some(fetch()),
        ..proxy("outbound", "unknown")
    };
    vec![limit_new_destinations(), name, filter("tcp", any(&proxy))]
}

/// The name of the cluster for the address that was called.
pub(super) fn on_demand_name(time: &str) -> String {
    format!("dst|%DOWNSTREAM_LOCAL_ADDRESS%|%START_TIME({time})%")
}

fn fetch() -> tcp::tcp_proxy::OnDemand {
    tcp::tcp_proxy::OnDemand {
        odcds_config: Some(ads()),
        timeout: seconds(5),
        ..Default::default()
    }
}

/// Everything to one cluster, which is fetched when it is needed.
pub(super) fn tcp_proxy_on_demand(
    stat_prefix: &str,
    cluster: &str,
    reporting: &Reporting<'_>,
) -> listener::Filter {
    let proxy = tcp::TcpProxy {
        on_demand: Some(fetch()),
        ..metered(stat_prefix, cluster, Some(reporting))
    };
    filter("tcp", any(&proxy))
}

/// Closes connections above the rate. Known destinations have listeners of their own, and their connections never get here.
fn limit_new_destinations() -> listener::Filter {
    let bucket = TokenBucket {
        max_tokens: NEW_DESTINATIONS,
        tokens_per_fill: number(NEW_DESTINATIONS_PER_SECOND),
        fill_interval: seconds(1),
    };
    let config = local_ratelimit::LocalRateLimit {
        stat_prefix: "new_destinations".to_owned(),
        token_bucket: Some(bucket),
        ..Default::default()
    };
    filter("limit", any(&config))
}

/// Announces to the server's sidecar that this stream is not HTTP, independently of the cluster's own offer.
pub(crate) fn say_tcp() -> listener::Filter {
    set_state(
        "envoy.network.application_protocols",
        Alpn::Tcp.as_str(),
        state::filter_state_value::SharedWithUpstream::Once,
    )
}

fn proxy(stat_prefix: &str, cluster: &str) -> tcp::TcpProxy {
    tcp::TcpProxy {
        stat_prefix: stat_prefix.to_owned(),
        cluster_specifier: Some(tcp::tcp_proxy::ClusterSpecifier::Cluster(
            cluster.to_owned(),
        )),
        idle_timeout: seconds(0),
        ..Default::default()
    }
}

/// Remembers the peer's identity for the decisions, once the handshake has shown it. In plain text there is none.
pub(crate) fn remember_peer() -> listener::Filter {
    let peer = "%DOWNSTREAM_PEER_URI_SAN%";
    let value = state::FilterStateValue {
        factory_key: "envoy.string".to_owned(),
        ..state_value(matchers::PEER, format(peer))
    };
    let config = set_filter_state::Config {
        on_downstream_tls_handshake: vec![value],
        ..Default::default()
    };
    filter("peer", any(&config))
}

fn set_state(
    key: &str,
    value: &str,
    shared: state::filter_state_value::SharedWithUpstream,
) -> listener::Filter {
    let value = state::FilterStateValue {
        shared_with_upstream: shared.into(),
        ..state_value(key, format(value))
    };
    let config = set_filter_state::Config {
        on_new_connection: vec![value],
        ..Default::default()
    };
    filter("state", any(&config))
}

pub(super) fn state_value(
    key: &str,
    value: core::SubstitutionFormatString,
) -> state::FilterStateValue {
    state::FilterStateValue {
        key: Some(state::filter_state_value::Key::ObjectKey(key.to_owned())),
        value: Some(state::filter_state_value::Value::FormatString(value)),
        ..Default::default()
    }
}

/// A text with commands.
pub(super) fn format(commands: &str) -> core::SubstitutionFormatString {
    core::SubstitutionFormatString {
        format: Some(core::substitution_format_string::Format::TextFormatSource(
            inline(commands),
        )),
        ..Default::default()
    }
}
