//! Hosts outside the mesh, which callers reach by name: one listener for each port, its routes, and a cluster for each host.
//!
//! The listener accepts the connections to every address of its port that no other listener has. A name in the connection decides: `Host`,
//! or the SNI. Then the sidecar resolves the name by itself, and the address that was called does not count, so that no forged name leads
//! elsewhere. Connections without such a name go on as if the listener were not there.

use envoy_types::pb::envoy::config::cluster::v3 as cluster;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::endpoint::v3 as endpoint;
use envoy_types::pb::envoy::config::listener::v3 as listener;
use envoy_types::pb::envoy::extensions::clusters::common::dns::v3::DnsLookupFamily;
use envoy_types::pb::envoy::extensions::clusters::dns::v3::DnsCluster;
use prost::Message;

use super::cluster::base;
use super::hcm::{DESTINATION_HEADER, Routes, Side, connection_manager};
use super::network::{on_demand, tcp_proxy_on_demand};
use super::reporting::Reporting;
use super::retries::{self, UNSENT};
use super::route::{action, everything};
use super::wire::envoy::config::route::v3;
use super::{any, listener as build, metadata, seconds, text_struct, truth};
use crate::traffic::{ExternalHost, ExternalPort, ExternalProtocol};

/// How long a client may be silent before its connection goes on without a name. A client of HTTP or TLS speaks at once, except where its
/// process has to wait for its share of the processor.
const SILENCE_MS: u16 = 1000;

/// The metadata of a cluster that have the namespace of its object.
pub(crate) const NAMESPACE_OF_CLUSTER: &str = "%CLUSTER_METADATA(heddle.of:namespace)%";

/// The listener of a port. `time` is the format of the bucket in on-demand names.
pub(crate) fn listener(
    name: &str,
    port: &ExternalPort,
    time: &'static str,
    reporting: &Reporting<'_>,
) -> listener::Listener {
    let mut listener = build::wildcard(name, port.port.get(), core::TrafficDirection::Outbound);
    listener.bind_to_port = truth(false);
    // Both always, for a listener that changes in more than its chains drains all of its connections.
    listener.listener_filters = vec![build::tls_inspector(&[]), build::http_inspector(&[])];
    build::wait(&mut listener, SILENCE_MS);
    if !port.http.is_empty() {
        let side = Side::External(time);
        let http = connection_manager(side, "outbound", Routes::Named(name), reporting);
        let takes = build::ChainMatch::PlainHttp;
        let chain = build::chain("http", None, takes, vec![http], None);
        listener.filter_chains.push(chain);
    }
    for host in &port.tls {
        let to = tcp_proxy_on_demand("outbound", &host.cluster_name(), reporting);
        listener.filter_chains.push(by_server_name(host, to));
    }
    listener.default_filter_chain = Some(listener::FilterChain {
        name: "other".to_owned(),
        filters: on_demand(time),
        ..Default::default()
    });
    listener
}

fn by_server_name(host: &ExternalHost, to: listener::Filter) -> listener::FilterChain {
    let takes = build::ChainMatch::ForeignTls;
    let mut chain = build::chain(&host.host, None, takes, vec![to], None);
    let matching = chain.filter_chain_match.get_or_insert_default();
    matching.server_names = vec![host.host.to_string()];
    chain
}

/// The routes of a port: each host to its cluster, all others to the address that was called, as by the on-demand chain.
pub(crate) fn routes(name: &str, hosts: &[ExternalHost]) -> v3::RouteConfiguration {
    let host = |external: &ExternalHost| {
        let ExternalHost { host, port, .. } = external;
        let cluster =
            v3::route_action::ClusterSpecifier::Cluster(external.cluster_name().to_string());
        // With the port, the name must have that of the listener: no other one is ever dialed.
        let domains = vec![host.to_string(), format!("{host}:{port}")];
        virtual_host(host, domains, cluster)
    };
    let hosts = hosts.iter().map(host);
    let by_address =
        v3::route_action::ClusterSpecifier::ClusterHeader(DESTINATION_HEADER.to_owned());
    let other = virtual_host("other", vec!["*".to_owned()], by_address);
    v3::RouteConfiguration {
        name: name.to_owned(),
        virtual_hosts: hosts.chain([other]).collect(),
        request_headers_to_remove: vec![DESTINATION_HEADER.to_owned()],
        ..Default::default()
    }
}

fn virtual_host(
    name: &str,
    domains: Vec<String>,
    cluster: v3::route_action::ClusterSpecifier,
) -> v3::VirtualHost {
    let route = v3::Route {
        name: name.to_owned(),
        r#match: Some(everything()),
        action: Some(v3::route::Action::Route(action(
            cluster,
            retries::in_place(UNSENT),
        ))),
        ..Default::default()
    };
    v3::VirtualHost {
        name: name.to_owned(),
        domains,
        routes: vec![route],
        ..Default::default()
    }
}

/// The bytes of the cluster of a host. One logical host with all addresses of the name, of both families: answers of DNS that rotate close
/// no connection, and an address that does not answer is passed over.
pub(crate) fn cluster(host: &ExternalHost) -> Vec<u8> {
    let name = host.cluster_name();
    let address = core::SocketAddress {
        // With the dot the name is whole, and DNS is not asked for it in the domains of the cluster.
        address: format!("{}.", host.host),
        port_specifier: Some(core::socket_address::PortSpecifier::PortValue(u32::from(
            host.port.get(),
        ))),
        ..Default::default()
    };
    let endpoint = endpoint::Endpoint {
        address: Some(core::Address {
            address: Some(core::address::Address::SocketAddress(address)),
        }),
        ..Default::default()
    };
    let endpoint = endpoint::LbEndpoint {
        host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(endpoint)),
        ..Default::default()
    };
    let assignment = endpoint::ClusterLoadAssignment {
        cluster_name: name.to_string(),
        endpoints: vec![endpoint::LocalityLbEndpoints {
            lb_endpoints: vec![endpoint],
            ..Default::default()
        }],
        ..Default::default()
    };
    let by_dns = DnsCluster {
        dns_lookup_family: DnsLookupFamily::All.into(),
        // For answers without a time to live.
        dns_refresh_rate: seconds(30),
        respect_dns_ttl: true,
        all_addresses_in_single_endpoint: true,
        ..Default::default()
    };
    let by_dns = cluster::cluster::CustomClusterType {
        name: "dns".to_owned(),
        typed_config: Some(any(&by_dns)),
    };
    let of_service = text_struct("service", &host.object.name);
    let mut cluster = cluster::Cluster {
        cluster_discovery_type: Some(cluster::cluster::ClusterDiscoveryType::ClusterType(by_dns)),
        load_assignment: Some(assignment),
        metadata: Some(metadata("heddle", of_service)),
        ..base(&name, cluster::cluster::DiscoveryType::Static)
    };
    if host.protocol == ExternalProtocol::Tls {
        cluster.typed_extension_protocol_options.clear();
    }
    // The entries of a map in two messages, one behind the other, are those of one message, in a fixed order.
    let of_namespace = text_struct("namespace", &host.object.namespace);
    let namespace = cluster::Cluster {
        metadata: Some(metadata("heddle.of", of_namespace)),
        ..Default::default()
    };
    [cluster.encode_to_vec(), namespace.encode_to_vec()].concat()
}
