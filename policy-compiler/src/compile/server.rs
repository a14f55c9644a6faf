//! The server's side: from the input of a pod to its listeners, routes and clusters.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::TrafficDirection;
use envoy_types::pb::envoy::config::listener::v3 as listener;
use heddle_ports::{INBOUND, INBOUND_NODE};
use heddle_xds_types::bootstrap::METRICS;
use prost::Message;

use super::applications::{in_name, rest, tls_application};
use super::bytes::{self, Peer};
use super::inbound::{InboundInput, InboundPort};
use super::limiter::required;
use super::reporting::{destination, server_spans};
use crate::envoy::hcm::{Routes, Side, connection_manager};
use crate::envoy::listener::{self as build, ChainMatch, chain};
use crate::envoy::metrics::{NO_SERVICE, SERVICE_OF_CLUSTER, SERVICE_OF_CONNECTION};
use crate::envoy::network::remember_peer;
use crate::envoy::reporting::Reporting;
use crate::envoy::route::{self, Others, ProbeRoute};
use crate::envoy::tls;
use crate::resource::{Part, Resource, ResourceKey, ResourceKind};
use crate::traffic::Alpn;
use crate::world::{Capture, Port, Probe, ProbeKind, Protocol, Standalone};

/// The wait for first bytes where no server can speak first to plain text.
const LONG_MS: u16 = 5000;

/// Compiles the inbound config of pod templates, but the clusters of its ports.
pub(crate) fn server(input: &InboundInput) -> Part {
    let (mut resources, mut clusters) = (Vec::new(), Vec::new());
    for (port, inbound) in all_ports(input) {
        let name = in_name(port);
        let cluster = ResourceKey::new(ResourceKind::Cluster, name.as_str());
        if inbound.protocol != Protocol::Tcp {
            let body = route::inbound(&name, &name, &[], &judged(inbound));
            let requires = required(&name, inbound);
            resources.push(resource(input, ResourceKind::Route, &name, body, requires));
        }
        if inbound.protocol != Protocol::Http {
            resources.extend(bytes_filters(input, &name, inbound));
        }
        if port.is_none() {
            resources.push(rest(&input.origins));
        }
        clusters.push(cluster);
    }
    let metrics = in_name(Some(Port::METRICS));
    let body = route::metrics(&metrics, METRICS, &input.metrics);
    let kind = ResourceKind::Route;
    resources.push(resource(input, kind, &metrics, body, Vec::new()));
    let mut listener = |name: &str, listener: &listener::Listener| {
        let (kind, body) = (ResourceKind::Listener, listener.encode_to_vec());
        resources.push(resource(input, kind, name, body, clusters.clone()));
    };
    listener("inbound", &main_listener(input));
    match input.capture {
        // The kubelet has no way around the sidecar only where capture took it there.
        Capture::Redirect => {
            let tls = tls_probes(input);
            clusters.extend(
                tls.keys()
                    .map(|port| ResourceKey::new(ResourceKind::Cluster, tls_name(*port))),
            );
            let node = (ResourceKind::Listener, node_listener(input).encode_to_vec());
            resources.push(resource(input, node.0, "inbound-node", node.1, clusters));
            resources.extend(probe_routes(input));
            for (port, probes) in tls {
                resources.extend(tls_probe(input, port, &probes));
            }
        }
        Capture::Standalone(_) => {}
    }
    Part { resources }
}

/// Returns every port by its number, and the rest: the other ports. They can be reached only where capture redirects all ports.
fn all_ports(input: &InboundInput) -> impl Iterator<Item = (Option<Port>, &InboundPort)> {
    let rest = (input.capture == Capture::Redirect).then_some((None, &input.rest));
    let named = input.ports.iter();
    named
        .map(|(port, inbound)| (Some(*port), inbound))
        .chain(rest)
}

fn resource(
    input: &InboundInput,
    kind: ResourceKind,
    name: &str,
    body: Vec<u8>,
    requires: Vec<ResourceKey>,
) -> Arc<Resource> {
    Resource::new(kind, name, body, requires, input.origins.clone())
}

fn judged(inbound: &InboundPort) -> Others<'_> {
    Others::Judged(&inbound.authz, &inbound.traffic)
}

fn node_name(port: Port) -> String {
    format!("in-node|{port}")
}

fn main_listener(input: &InboundInput) -> listener::Listener {
    let mut listener = match input.capture {
        Capture::Redirect => build::wildcard("inbound", INBOUND, TrafficDirection::Inbound),
        Capture::Standalone(ref standalone) => bound(input, standalone),
    };
    // Never use_original_dst here: a pod that learned its own address would hand inbound traffic to an outbound listener.
    match input.capture {
        Capture::Redirect => {
            listener.listener_filters = captured_filters();
            listener.filter_chains.extend(build::refuse_capture_ports());
        }
        Capture::Standalone(_) => listener.listener_filters.push(build::tls_inspector(&[])),
    }
    let mut looks = false;
    for (port, inbound) in all_ports(input) {
        listener
            .filter_chains
            .extend(mesh_chains(input, port, inbound));
        looks |= inbound.protocol == Protocol::Detect;
        if inbound.plain {
            listener
                .filter_chains
                .extend(plain_chains(input, port, inbound));
        }
    }
    listener.filter_chains.push(metrics_chain(input));
    finish(listener, input, looks)
}

/// Returns the filters that every captured inbound connection passes first. A connection to a capture port is closed without a look at
/// its bytes.
fn captured_filters() -> Vec<listener::ListenerFilter> {
    vec![
        build::original_dst(),
        build::tls_inspector(&heddle_ports::CAPTURE),
    ]
}

/// Returns the ports where a captured listener does not look for HTTP, beside the application's ports with a declared protocol.
fn own_ports(input: &InboundInput) -> &'static [u16] {
    match input.capture {
        Capture::Redirect => &heddle_ports::CAPTURE,
        Capture::Standalone(_) => &[],
    }
}

/// Standalone: every port of the application at every address of the pod.
fn bound(input: &InboundInput, standalone: &Standalone) -> listener::Listener {
    let ports = || input.ports.keys().copied().chain([Port::METRICS]);
    let loopback = IpAddr::from([127, 0, 0, 1]);
    let mut all = standalone
        .binds
        .iter()
        .flat_map(|ip| ports().map(move |port| SocketAddr::new(*ip, port.get())));
    // A pod without an address yet binds nothing that anyone could call.
    let first = all
        .next()
        .unwrap_or_else(|| SocketAddr::new(loopback, INBOUND));
    let mut listener = build::bound("inbound", first, TrafficDirection::Inbound);
    build::also_at(&mut listener, all);
    listener
}

/// HTTP detection where it is wanted, and how long to wait for a client's first bytes.
fn finish(
    mut listener: listener::Listener,
    input: &InboundInput,
    looks: bool,
) -> listener::Listener {
    if looks {
        let declared = input
            .ports
            .iter()
            .filter(|(_, p)| p.protocol != Protocol::Detect)
            .map(|(port, _)| port.get());
        let known: Vec<u16> = declared.chain(own_ports(input).iter().copied()).collect();
        listener
            .listener_filters
            .push(build::http_inspector(&known));
    }
    // Plain text in which the server may speak first cannot be told from a slow ClientHello but by waiting: a sidecar with a later one
    // is taken for plain text, and has to connect again. Elsewhere nothing is gained by going on, so the wait is long.
    let mut ports = input.ports.values();
    let silent = ports.any(|port| port.plain && port.protocol != Protocol::Http);
    build::wait(
        &mut listener,
        if silent { build::SILENCE_MS } else { LONG_MS },
    );
    listener
}

fn mesh_chains(
    input: &InboundInput,
    port: Option<Port>,
    inbound: &InboundPort,
) -> Vec<listener::FilterChain> {
    let name = in_name(port);
    let mesh = |suffix: &str, takes: ChainMatch, filters: Vec<listener::Filter>| {
        let socket = tls::downstream(&input.trust_domain);
        let name = format!("{name} mesh{suffix}");
        chain(&name, port, takes, filters, Some(socket))
    };
    let http = || identified(http(input, &name, false));
    let tcp = || tcp(input, &name, Peer::Identified);
    match inbound.protocol {
        // The announcement of the caller does not change the protocol of a declared port: otherwise HTTP that is sent as TCP would
        // bypass the rules for HTTP.
        Protocol::Http => vec![mesh("", ChainMatch::Mesh, http())],
        Protocol::Tcp => vec![mesh("", ChainMatch::Mesh, tcp())],
        Protocol::Detect => vec![
            mesh(" http", ChainMatch::MeshOf(Alpn::Http), http()),
            mesh(" tcp", ChainMatch::MeshOf(Alpn::Tcp), tcp()),
        ],
    }
}

fn plain_chains(
    input: &InboundInput,
    port: Option<Port>,
    inbound: &InboundPort,
) -> Vec<listener::FilterChain> {
    let name = in_name(port);
    match inbound.protocol {
        Protocol::Http => vec![chain(
            &format!("{name} plain"),
            port,
            ChainMatch::Rest,
            http(input, &name, false),
            None,
        )],
        Protocol::Tcp => vec![
            chain(
                &format!("{name} plain"),
                port,
                ChainMatch::PlainBytes,
                tcp(input, &name, Peer::Anonymous),
                None,
            ),
            foreign_tls(input, port),
        ],
        Protocol::Detect => vec![
            foreign_tls(input, port),
            chain(
                &format!("{name} plain http"),
                port,
                ChainMatch::PlainHttp,
                http(input, &name, false),
                None,
            ),
            chain(
                &format!("{name} plain tcp"),
                port,
                ChainMatch::PlainBytes,
                tcp(input, &name, Peer::Anonymous),
                None,
            ),
        ],
    }
}

/// An application's own TLS, from a caller without a sidecar: bytes like others.
fn foreign_tls(input: &InboundInput, port: Option<Port>) -> listener::FilterChain {
    let name = in_name(port);
    chain(
        &format!("{name} plain tls"),
        port,
        ChainMatch::ForeignTls,
        tcp(input, &name, Peer::Anonymous),
        None,
    )
}

fn metrics_chain(input: &InboundInput) -> listener::FilterChain {
    let name = in_name(Some(Port::METRICS));
    let filters = identified(vec![connection_manager(
        Side::Server(input.max_connection_age),
        "metrics",
        Routes::Named(&name),
        &destination(NO_SERVICE, input.line_format),
    )]);
    chain(
        &format!("{name} mesh"),
        Some(Port::METRICS),
        ChainMatch::Mesh,
        filters,
        Some(tls::downstream(&input.trust_domain)),
    )
}

/// With the identity of the peer at hand, before all that asks for it.
fn identified(mut filters: Vec<listener::Filter>) -> Vec<listener::Filter> {
    filters.insert(0, remember_peer());
    filters
}

/// `probed`: the metrics tell the kubelet's probes from callers in plain text.
fn http(input: &InboundInput, routes: &str, probed: bool) -> Vec<listener::Filter> {
    vec![connection_manager(
        Side::Server(input.max_connection_age),
        "inbound",
        Routes::Named(routes),
        &Reporting {
            probed,
            spans: input.spans.as_deref().map(server_spans),
            ..destination(SERVICE_OF_CLUSTER, input.line_format)
        },
    )]
}

/// The filters that decide about connections of bytes. They come by ECDS, so that a change of policies leaves the listener as it is.
fn bytes_filters(input: &InboundInput, cluster: &str, inbound: &InboundPort) -> [Arc<Resource>; 2] {
    let service = inbound.service.as_deref().unwrap_or(NO_SERVICE);
    bytes::filters(cluster, &inbound.authz, service).map(|filter| {
        let requires = vec![ResourceKey::new(ResourceKind::Cluster, cluster)];
        let (kind, body) = (ResourceKind::Extension, filter.encode_to_vec());
        resource(input, kind, &filter.name, body, requires)
    })
}

/// Passes bytes to the application if the policies allow it.
fn tcp(input: &InboundInput, cluster: &str, peer: Peer) -> Vec<listener::Filter> {
    bytes::chain(
        cluster,
        peer,
        &destination(SERVICE_OF_CONNECTION, input.line_format),
    )
}

fn probe_route(probe: &Probe, in_tls: bool) -> Option<ProbeRoute> {
    match &probe.kind {
        ProbeKind::Http { path } if !in_tls => Some(ProbeRoute::get(path)),
        ProbeKind::Https { path } if in_tls => Some(ProbeRoute::get(path)),
        ProbeKind::Grpc if !in_tls => Some(ProbeRoute {
            method: "POST",
            path: "/grpc.health.v1.Health/Check".to_owned(),
        }),
        ProbeKind::Http { .. } | ProbeKind::Https { .. } | ProbeKind::Grpc | ProbeKind::Tcp => None,
    }
}

/// The kubelet's requests to one port in plain text.
fn probes_at(input: &InboundInput, port: Port) -> Vec<ProbeRoute> {
    requests(input, port, false)
}

fn requests(input: &InboundInput, port: Port, in_tls: bool) -> Vec<ProbeRoute> {
    let probes = input.probes.iter().filter(|p| p.port == port);
    probes.filter_map(|p| probe_route(p, in_tls)).collect()
}

fn tls_name(port: Port) -> String {
    format!("in-tls|{port}")
}

fn node_tls_name(port: Port) -> String {
    format!("in-node-tls|{port}")
}

/// The kubelet's requests in TLS, of the ports where the sidecar ends that TLS. The kubelet verifies no certificate, so the
/// sidecar can look at the request and let nothing else pass. Where all foreign TLS is accepted unjudged, the sidecar forwards it
/// unopened.
fn tls_probes(input: &InboundInput) -> BTreeMap<Port, Vec<ProbeRoute>> {
    let judged = input.ports.iter().filter(|(_, inbound)| {
        !inbound.plain || inbound.protocol == Protocol::Http || inbound.authz.judges_bytes()
    });
    judged
        .map(|(port, _)| (*port, requests(input, *port, true)))
        .filter(|(_, probes)| !probes.is_empty())
        .collect()
}

/// The cluster that opens TLS to the application, and the routes that lead the kubelet's requests there and nothing else.
fn tls_probe(input: &InboundInput, port: Port, probes: &[ProbeRoute]) -> [Arc<Resource>; 2] {
    let (cluster, routes) = (tls_name(port), node_tls_name(port));
    let body = route::inbound(&routes, &cluster, probes, &Others::Refused);
    let requires = vec![ResourceKey::new(ResourceKind::Cluster, cluster.as_str())];
    [
        tls_application(&cluster, &input.origins),
        resource(input, ResourceKind::Route, &routes, body, requires),
    ]
}

fn probe_routes(input: &InboundInput) -> Vec<Arc<Resource>> {
    let with_probes = input
        .ports
        .iter()
        .map(|(port, inbound)| (*port, inbound, probes_at(input, *port)))
        .filter(|(_, _, probes)| !probes.is_empty());
    with_probes
        .map(|(port, inbound, probes)| {
            let others = if inbound.plain {
                judged(inbound)
            } else {
                Others::Refused
            };
            let body = route::inbound(&node_name(port), &in_name(Some(port)), &probes, &others);
            let requires = required(&in_name(Some(port)), inbound);
            resource(input, ResourceKind::Route, &node_name(port), body, requires)
        })
        .collect()
}

/// Makes the listener for connections from the pod's own node: the same as elsewhere, and the kubelet's probes.
fn node_listener(input: &InboundInput) -> listener::Listener {
    let mut listener = build::wildcard("inbound-node", INBOUND_NODE, TrafficDirection::Inbound);
    listener.listener_filters = captured_filters();
    listener.filter_chains.extend(build::refuse_capture_ports());
    let mut looks = false;
    for (port, inbound) in all_ports(input) {
        listener
            .filter_chains
            .extend(mesh_chains(input, port, inbound));
        let (chains, detects) = node_chains(input, port, inbound);
        looks |= detects;
        listener.filter_chains.extend(chains);
    }
    listener.filter_chains.push(metrics_chain(input));
    finish_node(listener, input, looks)
}

fn finish_node(
    listener: listener::Listener,
    input: &InboundInput,
    looks: bool,
) -> listener::Listener {
    let mut listener = finish(listener, input, false);
    if looks {
        let detects = |port: Port, inbound: &InboundPort| {
            inbound.protocol == Protocol::Detect || !probes_at(input, port).is_empty()
        };
        let declared = input
            .ports
            .iter()
            .filter(|(port, p)| !detects(**port, p))
            .map(|(port, _)| port.get());
        let known: Vec<u16> = declared.chain(own_ports(input).iter().copied()).collect();
        listener
            .listener_filters
            .push(build::http_inspector(&known));
    }
    listener
}

/// The plain-text chains of a port on `inbound-node`, and whether they need HTTP detection.
fn node_chains(
    input: &InboundInput,
    port: Option<Port>,
    inbound: &InboundPort,
) -> (Vec<listener::FilterChain>, bool) {
    let name = in_name(port);
    let probes = port.map(|port| probes_at(input, port)).unwrap_or_default();
    let mut chains = Vec::new();
    let in_tls = port.filter(|port| tls_probes(input).contains_key(port));
    if let Some(number) = in_tls {
        chains.push(chain(
            &format!("{name} probe https"),
            port,
            ChainMatch::ForeignTls,
            http(input, &node_tls_name(number), true),
            Some(tls::kubelet()),
        ));
    }
    let taken = !probes.is_empty();
    if let (Some(number), true) = (port, taken) {
        let filters = http(input, &node_name(number), true);
        let all = inbound.protocol == Protocol::Http;
        let takes = if all {
            ChainMatch::Rest
        } else {
            ChainMatch::PlainHttp
        };
        chains.push(chain(&format!("{name} probe"), port, takes, filters, None));
        if all {
            return (chains, false);
        }
    }
    if inbound.plain {
        // The chains for probes already take plain HTTP, with the policies for all else, and foreign TLS.
        let more = plain_chains(input, port, inbound).into_iter().filter(|c| {
            let Some(m) = &c.filter_chain_match else {
                return true;
            };
            (!taken || m.application_protocols.is_empty())
                && (in_tls.is_none() || m.transport_protocol != "tls")
        });
        chains.extend(more);
    }
    let looks = chains.iter().any(|c| {
        c.filter_chain_match
            .as_ref()
            .is_some_and(|m| !m.application_protocols.is_empty())
    });
    (chains, looks)
}
