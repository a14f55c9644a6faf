//! Clusters.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::extensions::clusters::common::dns::v3::DnsLookupFamily;
use envoy_types::pb::envoy::extensions::clusters::dns::v3::DnsCluster;
use envoy_types::pb::envoy::extensions::upstreams::http::v3 as http;
use envoy_types::pb::google::protobuf::Any;

use super::hcm::{MAX_HEADERS, MAX_HEADERS_KB, http1_options};
use super::metrics::limited_by;
use super::tls;
use super::upstream_policy::{
    CONNECT_TIMEOUT, balance, breakers, keepalive, outlier_detection, percent,
};
use super::zone;
use super::{
    PLAIN_MATCH, UNLIMITED, ads, any, duration, number, plain_struct, seconds, socket_address,
};
use crate::called_server::{Host, HostTls, Outside};
use crate::traffic::{
    Alpn, EndpointGroup, Limits, Purpose, Upstream, UpstreamHost, UpstreamTls, idle_timeout,
};
use crate::world::SpiffeId;

/// The mark by which capture recognizes the second stage: the byte of `IP_TOS` or `IPV6_TCLASS`.
const MARK: i64 = 0x9c;

/// The most reports of a sidecar under way.
const MAX_REPORTS: u32 = 16;
/// A report that takes longer is lost. Envoy's exporter has no time limit of its own.
const REPORT_SECONDS: i64 = 10;

/// A cluster with endpoints by EDS under the same name. The client's address chooses the endpoint if the route or filter asks for it;
/// see [`super::route::outbound`].
pub(crate) fn eds(upstream: &Upstream) -> v3::Cluster {
    let eds = v3::cluster::EdsClusterConfig {
        eds_config: Some(ads()),
        ..Default::default()
    };
    let (socket, plain) = match &upstream.tls {
        UpstreamTls::Plain => (None, None),
        UpstreamTls::Mesh { identities, alpn } => (
            Some(tls::upstream(identities.iter(), *alpn)),
            Some(plain_match()),
        ),
    };
    let policy = upstream.policy.as_deref().cloned().unwrap_or_default();
    let connections = policy.connections;
    let options = protocol_options(upstream.idle_timeout, connections.max_requests);
    let mut cluster = v3::Cluster {
        eds_cluster_config: Some(eds),
        connect_timeout: duration(connections.connect_timeout.unwrap_or(CONNECT_TIMEOUT)),
        circuit_breakers: Some(breakers(&policy.limits, policy.retry_budget.as_ref())),
        outlier_detection: outlier_detection(&policy.ejection),
        upstream_connection_options: connections.tcp_keepalive.map(keepalive),
        transport_socket: socket,
        transport_socket_matches: plain.into_iter().collect(),
        common_lb_config: Some(lb_config((!upstream.by_zone).then(by_weight))),
        ..base(&upstream.name, v3::cluster::DiscoveryType::Eds)
    };
    if policy.limits != Limits::default() && upstream.purpose == Purpose::Calls {
        cluster.metadata = Some(limited_by(upstream.policies()));
    }
    balance(&mut cluster, &upstream.balance, policy.slow_start);
    if upstream.by_zone {
        zone::prefer(&mut cluster, &upstream.balance, policy.slow_start);
    }
    match upstream.purpose {
        Purpose::Calls => cluster.typed_extension_protocol_options = extensions(&options),
        Purpose::Copies => limit_copies(&mut cluster, options),
        Purpose::Reports => limit_reports(&mut cluster),
        Purpose::Questions => {
            cluster.typed_extension_protocol_options = extensions(&grpc(None));
        }
    }
    cluster
}

/// Splits of TCP shift weight between localities. On also without one, so that a split changes endpoints only.
fn by_weight() -> v3::cluster::common_lb_config::LocalityConfigSpecifier {
    v3::cluster::common_lb_config::LocalityConfigSpecifier::LocalityWeightedLbConfig(
        v3::cluster::common_lb_config::LocalityWeightedLbConfig::default(),
    )
}

/// Bounds a cluster that gets reports of the sidecar itself, by gRPC: reports that cannot be sent are lost, and hold up nothing.
fn limit_reports(cluster: &mut v3::Cluster) {
    let thresholds = v3::circuit_breakers::Thresholds {
        max_requests: number(MAX_REPORTS),
        max_pending_requests: number(MAX_REPORTS),
        max_connections: number(UNLIMITED),
        ..Default::default()
    };
    cluster.circuit_breakers = Some(v3::CircuitBreakers {
        thresholds: vec![thresholds],
        ..Default::default()
    });
    cluster.typed_extension_protocol_options = extensions(&grpc(Some(REPORT_SECONDS)));
}

/// gRPC of the sidecar itself, with an upper bound on the duration of a call.
fn grpc(max_seconds: Option<i64>) -> http::HttpProtocolOptions {
    use http::http_protocol_options::explicit_http_config::ProtocolConfig;
    use http::http_protocol_options::{ExplicitHttpConfig, UpstreamProtocolOptions};
    let explicit = ExplicitHttpConfig {
        protocol_config: Some(ProtocolConfig::Http2ProtocolOptions(
            core::Http2ProtocolOptions {
                // Notices a host that is gone without a word.
                connection_keepalive: Some(core::KeepaliveSettings {
                    interval: seconds(30),
                    timeout: seconds(10),
                    ..Default::default()
                }),
                ..Default::default()
            },
        )),
    };
    http::HttpProtocolOptions {
        common_http_protocol_options: Some(core::HttpProtocolOptions {
            max_stream_duration: max_seconds.and_then(seconds),
            ..Default::default()
        }),
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(explicit)),
        ..Default::default()
    }
}

/// A cluster of a host outside the mesh that gets reports. Without a host it loses them.
pub(crate) fn reports_to(name: &str, to: Option<&Outside>) -> v3::Cluster {
    let mut cluster = at_host(name, to);
    limit_reports(&mut cluster);
    cluster
}

/// The same for questions. Without a host there are no answers.
pub(crate) fn questions_to(name: &str, to: Option<&Outside>) -> v3::Cluster {
    v3::Cluster {
        connect_timeout: duration(CONNECT_TIMEOUT),
        typed_extension_protocol_options: extensions(&grpc(None)),
        ..at_host(name, to)
    }
}

fn at_host(name: &str, to: Option<&Outside>) -> v3::Cluster {
    let mut cluster = base(name, v3::cluster::DiscoveryType::Static);
    let Some(Outside { host, port, tls }) = to else {
        return cluster;
    };
    let address = match host {
        Host::Ip(ip) => ip.to_string(),
        Host::Name(dns) => {
            let dns_cluster = DnsCluster {
                dns_refresh_rate: seconds(30),
                dns_lookup_family: DnsLookupFamily::V4Preferred.into(),
                ..Default::default()
            };
            let custom = v3::cluster::CustomClusterType {
                name: "envoy.clusters.dns".to_owned(),
                typed_config: Some(any(&dns_cluster)),
            };
            cluster.cluster_discovery_type =
                Some(v3::cluster::ClusterDiscoveryType::ClusterType(custom));
            dns.to_string()
        }
    };
    let to_host = |of: &HostTls| tls::to_host(Some(&address), of.authorities.as_deref());
    cluster.transport_socket = tls.as_ref().map(to_host);
    cluster.load_assignment = Some(super::endpoint::at_host(name, address, port.get()));
    cluster
}

/// Bounds a cluster that gets copies: Envoy reads no more of a request while a copy is not read, so that a stalled mirror would stall it.
/// The longest stall is 5 s, for requests of more than 1 MiB.
fn limit_copies(cluster: &mut v3::Cluster, mut options: http::HttpProtocolOptions) {
    let thresholds = v3::circuit_breakers::Thresholds {
        max_requests: number(100),
        max_connections: number(UNLIMITED),
        max_pending_requests: number(100),
        ..Default::default()
    };
    cluster.circuit_breakers = Some(v3::CircuitBreakers {
        thresholds: vec![thresholds],
        ..Default::default()
    });
    cluster.per_connection_buffer_limit_bytes = number(1 << 20);
    if let Some(common) = &mut options.common_http_protocol_options {
        common.max_stream_duration = seconds(5);
    }
    cluster.typed_extension_protocol_options = extensions(&options);
}

/// A cluster of pods with endpoints by EDS under the same name, each for the routes and filters that ask for its address. `peer` is
/// there if the pods are meshed.
pub(crate) fn pods(name: &str, peer: Option<(&SpiffeId, Alpn)>) -> v3::Cluster {
    use v3::cluster::lb_subset_config::{LbSubsetFallbackPolicy, LbSubsetSelector};
    let eds = v3::cluster::EdsClusterConfig {
        eds_config: Some(ads()),
        ..Default::default()
    };
    let by_address = LbSubsetSelector {
        keys: vec![super::endpoint::ADDRESS.to_owned()],
        single_host_per_subset: true,
        ..Default::default()
    };
    let subsets = v3::cluster::LbSubsetConfig {
        // Only the addresses of listeners are asked for; if the pod is gone, no other stands in for it.
        fallback_policy: LbSubsetFallbackPolicy::NoFallback.into(),
        subset_selectors: vec![by_address],
        ..Default::default()
    };
    v3::Cluster {
        eds_cluster_config: Some(eds),
        lb_subset_config: Some(subsets),
        connect_timeout: duration(CONNECT_TIMEOUT),
        typed_extension_protocol_options: extensions(&protocol_options(
            idle_timeout(peer.is_none()),
            None,
        )),
        transport_socket: peer.map(|(id, alpn)| tls::upstream(std::iter::once(id), alpn)),
        ..base(name, v3::cluster::DiscoveryType::Eds)
    }
}

/// A cluster of one address, for plain text.
pub(crate) fn fixed(name: &str, at: SocketAddr) -> v3::Cluster {
    // There is nothing to tell it from.
    let endpoint = UpstreamHost {
        at,
        plain: false,
        zone: None,
    };
    v3::Cluster {
        load_assignment: Some(super::endpoint::assignment(
            name,
            &[EndpointGroup {
                weight: 1,
                hosts: vec![endpoint],
                ending: false,
            }],
        )),
        ..base(name, v3::cluster::DiscoveryType::Static)
    }
}

/// The same for bytes that Envoy does not inspect.
pub(crate) fn through(name: &str, at: SocketAddr) -> v3::Cluster {
    v3::Cluster {
        load_assignment: fixed(name, at).load_assignment,
        ..nowhere(name)
    }
}

/// Lets a cluster for bytes carry HTTP in the version of the caller.
pub(crate) fn carry_requests(cluster: &mut v3::Cluster) {
    let options = protocol_options(idle_timeout(true), None);
    cluster.typed_extension_protocol_options = extensions(&options);
}

/// A cluster that refuses every connection at once.
pub(crate) fn nowhere(name: &str) -> v3::Cluster {
    let mut cluster = base(name, v3::cluster::DiscoveryType::Static);
    // It never carries HTTP of ours.
    cluster.typed_extension_protocol_options.clear();
    cluster
}

/// The first connection to a destination: to that same address again, marked, so that capture hands it to the listener that is there by then.
pub(crate) fn marked(name: &str, at: SocketAddr) -> v3::Cluster {
    // Linux: IPPROTO_IP and IP_TOS; IPPROTO_IPV6 and IPV6_TCLASS. No capability is needed for either.
    let (level, option) = if at.is_ipv4() { (0, 1) } else { (41, 67) };
    let mark = core::SocketOption {
        description: "second stage of capture".to_owned(),
        level,
        name: option,
        state: core::socket_option::SocketState::StatePrebind.into(),
        value: Some(core::socket_option::Value::IntValue(MARK)),
        ..Default::default()
    };
    let mut cluster = through(name, at);
    cluster.upstream_bind_config = Some(core::BindConfig {
        socket_options: vec![mark],
        ..Default::default()
    });
    cluster
}

/// The application behind the sidecar, at the called address of the pod. By the source address, capture leaves the connection alone.
pub(crate) fn application(name: &str) -> v3::Cluster {
    let extra = core::ExtraSourceAddress {
        address: Some(socket_address(
            IpAddr::V6(Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6)),
            0,
        )),
        ..Default::default()
    };
    let bind = core::BindConfig {
        source_address: Some(socket_address(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 6)), 0)),
        extra_source_addresses: vec![extra],
        ..Default::default()
    };
    v3::Cluster {
        lb_policy: v3::cluster::LbPolicy::ClusterProvided.into(),
        upstream_bind_config: Some(bind),
        ..base(name, v3::cluster::DiscoveryType::OriginalDst)
    }
}

pub(super) fn base(name: &str, kind: v3::cluster::DiscoveryType) -> v3::Cluster {
    v3::Cluster {
        name: name.to_owned(),
        cluster_discovery_type: Some(v3::cluster::ClusterDiscoveryType::Type(kind.into())),
        connect_timeout: seconds(5),
        per_connection_buffer_limit_bytes: number(super::listener::BUFFER),
        circuit_breakers: Some(breakers(&Limits::default(), None)),
        common_lb_config: Some(lb_config(None)),
        // Clusters of one address lead to applications.
        typed_extension_protocol_options: extensions(&protocol_options(idle_timeout(true), None)),
        ..Default::default()
    }
}

fn lb_config(
    locality: Option<v3::cluster::common_lb_config::LocalityConfigSpecifier>,
) -> v3::cluster::CommonLbConfig {
    v3::cluster::CommonLbConfig {
        // Never send to endpoints that are known to be bad because many are.
        healthy_panic_threshold: percent(0),
        locality_config_specifier: locality,
        ..Default::default()
    }
}

/// Sets the options of requests to a host outside. `verify`: the certificate of the server must have the name in `Host`, and that name is
/// asked for.
pub(super) fn carry_requests_of_host(
    cluster: &mut v3::Cluster,
    verify: bool,
    idle: Option<Duration>,
    max_requests: Option<u32>,
) {
    let idle = idle.unwrap_or(idle_timeout(true));
    let mut options = protocol_options(idle, max_requests);
    options.upstream_http_protocol_options = verify.then(|| core::UpstreamHttpProtocolOptions {
        auto_sni: true,
        auto_san_validation: true,
        ..Default::default()
    });
    cluster.typed_extension_protocol_options = extensions(&options);
}

/// One entry only: the order of several would differ from run to run.
fn extensions(options: &http::HttpProtocolOptions) -> HashMap<String, Any> {
    let name = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    HashMap::from([(name.to_owned(), any(options))])
}

/// HTTP/1.1 stays HTTP/1.1 and HTTP/2 stays HTTP/2, end to end.
fn protocol_options(idle: Duration, max_requests: Option<u32>) -> http::HttpProtocolOptions {
    use http::http_protocol_options::{UpstreamProtocolOptions, UseDownstreamHttpConfig};
    let downstream = UseDownstreamHttpConfig {
        http_protocol_options: Some(http1_options()),
        http2_protocol_options: Some(core::Http2ProtocolOptions::default()),
        http3_protocol_options: None,
    };
    http::HttpProtocolOptions {
        common_http_protocol_options: Some(core::HttpProtocolOptions {
            max_headers_count: number(MAX_HEADERS),
            max_response_headers_kb: number(MAX_HEADERS_KB),
            idle_timeout: duration(idle),
            max_requests_per_connection: max_requests.and_then(number),
            ..Default::default()
        }),
        upstream_protocol_options: Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(
            downstream,
        )),
        ..Default::default()
    }
}

/// Plain text for the endpoints marked for it. All others get mTLS, and need no mark: an endpoint that is not known to be without a
/// sidecar never gets plain text.
fn plain_match() -> v3::cluster::TransportSocketMatch {
    v3::cluster::TransportSocketMatch {
        name: PLAIN_MATCH.1.to_owned(),
        r#match: Some(plain_struct()),
        transport_socket: Some(tls::none()),
    }
}
