//! Hosts outside the mesh, which callers reach by name: one listener for each port, its routes, and a cluster for each host.
//!
//! The listener accepts the connections to every address of its port that no other listener has. Those to addresses of the mesh are asked for,
//! as elsewhere. In all others a name in the connection decides: `Host`, or the SNI. Then the sidecar resolves the name by itself, and the address that was called does not count, so that no forged name leads
//! elsewhere. Connections without such a name go on as if the listener were not there.

use envoy_types::pb::envoy::config::cluster::v3 as cluster;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::endpoint::v3 as endpoint;
use envoy_types::pb::envoy::config::listener::v3 as listener;
use envoy_types::pb::envoy::extensions::clusters::common::dns::v3::DnsLookupFamily;
use envoy_types::pb::envoy::extensions::clusters::dns::v3::DnsCluster;
use envoy_types::pb::google::protobuf::BoolValue;
use prost::Message;

use super::chain_matcher::Choice;
use super::cluster::{base, verify_host_header};
use super::hcm::{DESTINATION_HEADER, Routes, Side, connection_manager};
use super::network::{on_demand, tcp_proxy_on_demand};
use super::reporting::Reporting;
use super::retries::{self, UNSENT};
use super::route::{action, everything};
use super::wire::envoy::config::route::v3;
use super::{any, listener as build, metadata, seconds, text_struct, tls, truth, wildcard};
use crate::traffic::{ExternalHost, ExternalPort, ExternalProtocol};

/// How long a client may be silent before its connection goes on without a name. A client of HTTP or TLS speaks at once, except where its
/// process has to wait for its share of the processor.
const SILENCE_MS: u16 = 1000;

/// The metadata of a cluster that have the namespace of its object.
pub(crate) const NAMESPACE_OF_CLUSTER: &str = "%CLUSTER_METADATA(heddle.of:namespace)%";

/// The chain of connections to addresses of the mesh that the sidecar does not know yet.
const MESH: &str = "mesh";
/// The chain of HTTP.
const HTTP: &str = "http";

/// The bytes of the listener of a port. `time` is the format of the bucket in on-demand names.
pub(crate) fn listener(
    name: &str,
    port: &ExternalPort,
    time: &'static str,
    reporting: &Reporting<'_>,
) -> Vec<u8> {
    let mut listener = build::wildcard(name, port.port.get(), core::TrafficDirection::Outbound);
    listener.bind_to_port = truth(false);
    // Both always, for a listener that changes in more than its chains drains all of its connections.
    listener.listener_filters = vec![build::tls_inspector(&[]), build::http_inspector(&[])];
    build::wait(&mut listener, SILENCE_MS);
    // There without addresses, too, so that the first one changes no chain.
    let mut chains = vec![chain(MESH, on_demand(time))];
    let mut choice = Choice {
        addresses: Some((&port.mesh, MESH)),
        ..Default::default()
    };
    if !port.http.is_empty() {
        let side = Side::External(time);
        let http = connection_manager(side, "outbound", Routes::Named(name), reporting);
        chains.push(chain(HTTP, vec![http]));
        choice.http = Some(HTTP);
    }
    for host in &port.tls {
        let to = tcp_proxy_on_demand("outbound", &host.cluster_name(), reporting);
        let resolve = host.below().map(|_| wildcard::of_connections(host));
        chains.push(chain(&host.host, resolve.into_iter().chain([to]).collect()));
        choice.names.insert(host.host.to_string());
    }
    if let Some(domain) = port.inside.as_ref().filter(|_| !port.tls.is_empty()) {
        let name = format!("*.{domain}");
        chains.push(chain(&name, on_demand(time)));
        choice.names.insert(name);
    }
    listener.filter_chains = chains;
    listener.default_filter_chain = Some(chain("other", on_demand(time)));
    [listener.encode_to_vec(), choice.encode()].concat()
}

fn chain(name: &str, filters: Vec<listener::Filter>) -> listener::FilterChain {
    listener::FilterChain {
        name: name.to_owned(),
        filters,
        ..Default::default()
    }
}

/// The routes of a port: each host to its cluster, all others to the address that was called, as by the on-demand chain. So are the names of the
/// cluster below a wildcard.
pub(crate) fn routes(name: &str, of: &ExternalPort) -> v3::RouteConfiguration {
    let host = |external: &ExternalHost| {
        let ExternalHost { host, .. } = external;
        let cluster =
            v3::route_action::ClusterSpecifier::Cluster(external.cluster_name().to_string());
        let mut of_host = virtual_host(host, domains(external), cluster);
        if external.tls.is_some() {
            by_tls(&mut of_host, external);
        }
        if external.below().is_some() {
            of_host.typed_per_filter_config = wildcard::of_requests(external);
        }
        of_host
    };
    let hosts = of.http.iter().map(host);
    let by_address =
        v3::route_action::ClusterSpecifier::ClusterHeader(DESTINATION_HEADER.to_owned());
    let inside = of.inside.iter().flat_map(|domain| {
        let port = of.port;
        [format!("*.{domain}"), format!("*.{domain}:{port}")]
    });
    let others = ["*".to_owned()].into_iter().chain(inside).collect();
    let other = virtual_host("other", others, by_address);
    v3::RouteConfiguration {
        name: name.to_owned(),
        virtual_hosts: hosts.chain([other]).collect(),
        request_headers_to_remove: vec![DESTINATION_HEADER.to_owned()],
        ..Default::default()
    }
}

/// The values of `Host` that name a host. With the port, the name must have that of the listener: no other one is ever dialed. The name
/// below a wildcard brings its port to the dial, so it must be the one that is dialed.
fn domains(of: &ExternalHost) -> Vec<String> {
    let ExternalHost { host, port, .. } = of;
    let with_port = of.below().is_none() || of.dialed() == *port;
    let with_port = with_port.then(|| format!("{host}:{port}"));
    [host.to_string()].into_iter().chain(with_port).collect()
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

/// The name of the host with the port that is dialed stands for the one that the application called. `x-forwarded-proto` is about the hop
/// to the sidecar, and a host that believes it would send the client to HTTPS.
fn by_tls(host: &mut v3::VirtualHost, of: &ExternalHost) {
    host.request_headers_to_remove = vec!["x-forwarded-proto".to_owned()];
    if of.below().is_some() {
        return;
    }
    for route in &mut host.routes {
        if let Some(v3::route::Action::Route(action)) = &mut route.action {
            use v3::route_action::HostRewriteSpecifier;
            let rewrite = HostRewriteSpecifier::AutoHostRewrite(BoolValue { value: true });
            action.host_rewrite_specifier = Some(rewrite);
        }
    }
}

/// The name of a host as requests by TLS of the sidecar have it.
fn authority(host: &ExternalHost) -> String {
    match host.dialed().get() {
        443 => host.host.to_string(),
        port => format!("{}:{port}", host.host),
    }
}

/// The bytes of the cluster of a host.
pub(crate) fn cluster(host: &ExternalHost) -> Vec<u8> {
    let mut cluster = match host.below() {
        Some(_) => wildcard::cluster_of(host),
        None => by_dns(host),
    };
    if let Some(of) = &host.tls {
        let name = (host.below().is_none()).then_some(&*host.host);
        let socket = tls::to_host(name, of.authorities.as_deref());
        cluster.transport_socket = Some(socket);
    }
    if host.below().is_some() {
        // Envoy demands it of the cluster of a wildcard also without TLS.
        verify_host_header(&mut cluster);
    }
    if host.protocol == ExternalProtocol::Tls {
        cluster.typed_extension_protocol_options.clear();
    }
    let of_service = text_struct("service", &host.object.name);
    cluster.metadata = Some(metadata("heddle", of_service));
    // The entries of a map in two messages, one behind the other, are those of one message, in a fixed order.
    let of_namespace = text_struct("namespace", &host.object.namespace);
    let namespace = cluster::Cluster {
        metadata: Some(metadata("heddle.of", of_namespace)),
        ..Default::default()
    };
    [cluster.encode_to_vec(), namespace.encode_to_vec()].concat()
}

/// One logical host with all addresses of the name, of both families: answers of DNS that rotate close no connection, and an address that does
/// not answer is passed over.
fn by_dns(host: &ExternalHost) -> cluster::Cluster {
    let name = host.cluster_name();
    let address = core::SocketAddress {
        // With the dot the name is whole, and DNS is not asked for it in the domains of the cluster.
        address: format!("{}.", host.host),
        port_specifier: Some(core::socket_address::PortSpecifier::PortValue(u32::from(
            host.dialed().get(),
        ))),
        ..Default::default()
    };
    let endpoint = endpoint::Endpoint {
        address: Some(core::Address {
            address: Some(core::address::Address::SocketAddress(address)),
        }),
        hostname: if host.tls.is_some() {
            authority(host)
        } else {
            String::new()
        },
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
    cluster::Cluster {
        cluster_discovery_type: Some(cluster::cluster::ClusterDiscoveryType::ClusterType(by_dns)),
        load_assignment: Some(assignment),
        ..base(&name, cluster::cluster::DiscoveryType::Static)
    }
}
