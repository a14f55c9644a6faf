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
use super::cluster::{base, carry_requests_of_host};
use super::hcm::{DESTINATION_HEADER, Routes, Side, connection_manager};
use super::metrics::limited_by;
use super::network::{on_demand, tcp_proxy_on_demand};
use super::reporting::Reporting;
use super::request_match::header;
use super::retries::{self, Part, UNSENT};
use super::route::{action, everything, slot, timeouts};
use super::upstream_policy::{breakers, keepalive, outlier_detection};
use super::wire::envoy::config::route::v3;
use super::{
    any, duration, listener as build, metadata, rewrite, seconds, text_struct, tls, truth, wildcard,
};
use crate::traffic::{
    ExternalHost, ExternalPort, ExternalProtocol, HostPolicy, Limits, UpstreamPolicy, ValueMatcher,
};

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
    build::wait(&mut listener, build::SILENCE_MS);
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
        let mut of_host = v3::VirtualHost {
            name: host.to_string(),
            domains: domains(external),
            routes: routes_of(external),
            ..Default::default()
        };
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

/// The names of the routes of a host.
pub(crate) fn route_names(of: &ExternalHost) -> Vec<String> {
    let routes = parts(of).iter();
    routes.map(|part| route_name(of, *part)).collect()
}

fn parts(of: &ExternalHost) -> &'static [Part] {
    match &of.policy {
        Some(policy) => retries::parts(&policy.requests.retries, None),
        None => &[Part::Whole],
    }
}

fn route_name(of: &ExternalHost, part: Part) -> String {
    match part {
        Part::Idempotent => format!("{}, idempotent", of.route_name()),
        Part::Whole | Part::Others => of.route_name(),
    }
}

/// The routes of a host: one, or one for each part of its requests that is sent again in its own way.
fn routes_of(of: &ExternalHost) -> Vec<v3::Route> {
    let routes = parts(of).iter();
    routes.map(|part| route_of(of, *part)).collect()
}

fn route_of(of: &ExternalHost, part: Part) -> v3::Route {
    let cluster = v3::route_action::ClusterSpecifier::Cluster(of.cluster_name().to_string());
    let name = route_name(of, part);
    let Some(policy) = &of.policy else {
        return route(&name, action(cluster, retries::in_place(UNSENT)));
    };
    let again = retries::policy(&policy.requests.retries, part);
    let mut action = action(cluster, again);
    timeouts(&mut action, &policy.requests.timeouts);
    let mut route = route(&name, action);
    if let (Part::Idempotent, Some(request)) = (part, &mut route.r#match) {
        let methods = ValueMatcher::Regex(retries::idempotent_methods().into());
        request.headers.push(header(":method", &methods));
    }
    let request = rewrite::headers(&policy.headers.request);
    let response = rewrite::headers(&policy.headers.response);
    (
        route.request_headers_to_add,
        route.request_headers_to_remove,
    ) = request;
    (
        route.response_headers_to_add,
        route.response_headers_to_remove,
    ) = response;
    route.typed_per_filter_config = slot(Some(&policy.requests), None);
    route
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
    let action = action(cluster, retries::in_place(UNSENT));
    v3::VirtualHost {
        name: name.to_owned(),
        domains,
        routes: vec![route(name, action)],
        ..Default::default()
    }
}

fn route(name: &str, action: v3::RouteAction) -> v3::Route {
    v3::Route {
        name: name.to_owned(),
        r#match: Some(everything()),
        action: Some(v3::route::Action::Route(action)),
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
    if let Some(policy) = &host.policy {
        bound(&mut cluster, policy);
    }
    // Envoy demands it of the cluster of a wildcard also without TLS.
    let verify = host.below().is_some();
    if verify || host.policy.is_some() {
        let policy = host.policy.as_deref().cloned().unwrap_or_default();
        let most = policy.upstream.connections.max_requests;
        carry_requests_of_host(&mut cluster, verify, policy.idle_timeout, most);
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
    let limits = host
        .policy
        .iter()
        .filter(|of| of.upstream.limits != Limits::default());
    let limits = limits.flat_map(|of| {
        let limited = cluster::Cluster {
            metadata: Some(limited_by(of.objects.iter())),
            ..Default::default()
        };
        limited.encode_to_vec()
    });
    let own = [cluster.encode_to_vec(), namespace.encode_to_vec()].concat();
    own.into_iter().chain(limits).collect()
}

/// Sets the bounds of a policy. A host is one endpoint: its ejection refuses all calls to it for a while.
fn bound(cluster: &mut cluster::Cluster, policy: &HostPolicy) {
    let HostPolicy { upstream, .. } = policy;
    let UpstreamPolicy {
        connections,
        limits,
        retry_budget,
        ..
    } = upstream;
    if let Some(timeout) = connections.connect_timeout {
        cluster.connect_timeout = duration(timeout);
    }
    cluster.circuit_breakers = Some(breakers(limits, retry_budget.as_ref()));
    cluster.upstream_connection_options = connections.tcp_keepalive.map(keepalive);
    cluster.outlier_detection = outlier_detection(&upstream.ejection);
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
