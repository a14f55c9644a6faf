//! Listeners and their filter chains.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::listener::v3;
use envoy_types::pb::envoy::extensions::filters::listener::http_inspector::v3::HttpInspector;
use envoy_types::pb::envoy::extensions::filters::listener::original_dst::v3::OriginalDst;
use envoy_types::pb::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;

use super::{address, any, duration, milliseconds, number, truth};
use crate::traffic::Alpn;
use crate::world::Port;

/// Bytes a connection may hold up. Envoy's 1 MiB per connection and direction is a lot for a sidecar with thousands of them.
pub(super) const BUFFER: u32 = 64 * 1024;

/// The time for a TLS handshake. Clients that begin one and then wait hold memory, and come from anywhere.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);

/// Both wildcard addresses of a capture port.
pub(crate) fn wildcard(name: &str, port: u16, direction: core::TrafficDirection) -> v3::Listener {
    let v6 = v3::AdditionalAddress {
        address: Some(address(SocketAddr::new(
            IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            port,
        ))),
        ..Default::default()
    };
    let mut listener = bound(
        name,
        SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port),
        direction,
    );
    listener.additional_addresses = vec![v6];
    listener
}

/// A listener at one address. All of a direction count into the same figures: the sidecar's bootstrap keeps those by these names,
/// the agent asks them before it lets a pod end, and a destination has none of its own.
pub(crate) fn bound(name: &str, at: SocketAddr, direction: core::TrafficDirection) -> v3::Listener {
    let stat_prefix = match direction {
        core::TrafficDirection::Inbound => "inbound",
        core::TrafficDirection::Outbound | core::TrafficDirection::Unspecified => "outbound",
    };
    v3::Listener {
        name: name.to_owned(),
        stat_prefix: stat_prefix.to_owned(),
        address: Some(address(at)),
        per_connection_buffer_limit_bytes: number(BUFFER),
        traffic_direction: direction.into(),
        ..Default::default()
    }
}

/// A listener for a destination that capture hands over: it has the address, but no socket of its own.
pub(crate) fn handed(name: &str, at: SocketAddr) -> v3::Listener {
    v3::Listener {
        bind_to_port: truth(false),
        ..bound(name, at, core::TrafficDirection::Outbound)
    }
}

/// More addresses for a bound listener.
pub(crate) fn also_at(listener: &mut v3::Listener, more: impl Iterator<Item = SocketAddr>) {
    listener
        .additional_addresses
        .extend(more.map(|at| v3::AdditionalAddress {
            address: Some(address(at)),
            ..Default::default()
        }));
}

/// Finds out where the connection was going before it was captured.
pub(crate) fn original_dst() -> v3::ListenerFilter {
    listener_filter(
        "envoy.filters.listener.original_dst",
        any(&OriginalDst::default()),
    )
}

/// Reads the ClientHello, if there is one, but at these ports.
pub(crate) fn tls_inspector(except: &[u16]) -> v3::ListenerFilter {
    v3::ListenerFilter {
        filter_disabled: at_ports(except),
        ..listener_filter(
            "envoy.filters.listener.tls_inspector",
            any(&TlsInspector::default()),
        )
    }
}

/// Looks whether the first bytes are HTTP, except at the ports with a declared protocol.
pub(crate) fn http_inspector(except: &[u16]) -> v3::ListenerFilter {
    v3::ListenerFilter {
        filter_disabled: at_ports(except),
        ..listener_filter(
            "envoy.filters.listener.http_inspector",
            any(&HttpInspector::default()),
        )
    }
}

/// Matches connections to these ports. Neighbors share a range.
fn at_ports(ports: &[u16]) -> Option<v3::ListenerFilterChainMatchPredicate> {
    use envoy_types::pb::envoy::r#type::v3::Int32Range;
    use v3::listener_filter_chain_match_predicate::{MatchSet, Rule};
    let mut ranges: Vec<Int32Range> = Vec::new();
    for port in ports.iter().copied().collect::<BTreeSet<u16>>() {
        let start = i32::from(port);
        match ranges.last_mut() {
            Some(last) if last.end == start => last.end += 1,
            _ => ranges.push(Int32Range {
                start,
                end: start + 1,
            }),
        }
    }
    let predicate = |rule| v3::ListenerFilterChainMatchPredicate { rule: Some(rule) };
    let mut rules: Vec<_> = ranges
        .into_iter()
        .map(|range| predicate(Rule::DestinationPortRange(range)))
        .collect();
    // An `or` of fewer than two is rejected by Envoy's own validation.
    if rules.len() < 2 {
        rules.pop()
    } else {
        Some(predicate(Rule::OrMatch(MatchSet { rules })))
    }
}

/// Returns chains that close connections made to the capture ports themselves, before a byte is read and independently of the policies.
/// A chain without filters closes. Capture refuses such connections already; this holds where they bypass it, for example from within
/// the pod by loopback.
pub(crate) fn refuse_capture_ports() -> impl Iterator<Item = v3::FilterChain> {
    heddle_ports::CAPTURE.into_iter().map(|port| {
        let matching = v3::FilterChainMatch {
            destination_port: number(u32::from(port)),
            ..Default::default()
        };
        refuse(format!("own|{port}"), matching)
    })
}

/// The same for the outbound listeners: capture redirects no connection to loopback, so one that has loopback for its destination
/// was made to the capture port. The number of the port decides nothing here, for other machines have ports of that number.
pub(crate) fn refuse_loopback() -> v3::FilterChain {
    let range = |ip: IpAddr, length: u32| core::CidrRange {
        address_prefix: ip.to_string(),
        prefix_len: number(length),
    };
    let matching = v3::FilterChainMatch {
        prefix_ranges: vec![
            range(Ipv4Addr::new(127, 0, 0, 0).into(), 8),
            range(Ipv6Addr::LOCALHOST.into(), 128),
        ],
        ..Default::default()
    };
    refuse("own".to_owned(), matching)
}

fn refuse(name: String, matching: v3::FilterChainMatch) -> v3::FilterChain {
    v3::FilterChain {
        name,
        filter_chain_match: Some(matching),
        ..Default::default()
    }
}

fn listener_filter(
    name: &str,
    config: envoy_types::pb::google::protobuf::Any,
) -> v3::ListenerFilter {
    v3::ListenerFilter {
        name: name.to_owned(),
        config_type: Some(v3::listener_filter::ConfigType::TypedConfig(config)),
        ..Default::default()
    }
}

/// How long a client may be silent before it counts as one that waits for the server to speak first. A client of HTTP or TLS speaks at
/// once, except where its process has to wait for its share of the processor: with 250 ms, a rollout on two busy cores lost connections.
pub(crate) const SILENCE_MS: u16 = 1000;

/// How long to wait for a client's first bytes, and to go on without them then.
pub(crate) fn wait(listener: &mut v3::Listener, silence_ms: u16) {
    listener.listener_filters_timeout = milliseconds(silence_ms);
    listener.continue_on_listener_filters_timeout = true;
}

/// Which connections a chain takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChainMatch {
    /// mTLS of a meshed caller, with any announcement.
    Mesh,
    /// mTLS of a meshed caller that announces this.
    MeshOf(Alpn),
    /// Plain text that looks like HTTP.
    PlainHttp,
    /// Plain text that does not look like HTTP. Beside [`ChainMatch::PlainHttp`] the match must name the transport: Envoy matches the
    /// transport first and never goes back, so that a chain for any transport would not get plain text.
    PlainBytes,
    /// TLS that is not ours: the application's own. Beside [`ChainMatch::Mesh`] for the same reason.
    ForeignTls,
    /// Connections that no other chain of the port takes.
    Rest,
}

/// A filter chain for connections with these server names of TLS.
pub(crate) fn named_chain(names: &[Arc<str>], filters: Vec<v3::Filter>) -> v3::FilterChain {
    let first = names.first().map_or("", |name| name);
    v3::FilterChain {
        name: format!("tls|{first}"),
        filter_chain_match: Some(v3::FilterChainMatch {
            server_names: names.iter().map(ToString::to_string).collect(),
            ..Default::default()
        }),
        filters,
        ..Default::default()
    }
}

/// A filter chain of a port, or (None) of all ports without chains of their own.
pub(crate) fn chain(
    name: &str,
    port: Option<Port>,
    takes: ChainMatch,
    filters: Vec<v3::Filter>,
    socket: Option<core::TransportSocket>,
) -> v3::FilterChain {
    let (transport, protocols): (&str, Vec<String>) = match takes {
        ChainMatch::Mesh => (
            "tls",
            vec![
                Alpn::Http.as_str().to_owned(),
                Alpn::Tcp.as_str().to_owned(),
            ],
        ),
        ChainMatch::MeshOf(alpn) => ("tls", vec![alpn.as_str().to_owned()]),
        ChainMatch::PlainHttp => (
            "raw_buffer",
            vec![
                "http/1.0".to_owned(),
                "http/1.1".to_owned(),
                "h2c".to_owned(),
            ],
        ),
        ChainMatch::PlainBytes => ("raw_buffer", Vec::new()),
        ChainMatch::ForeignTls => ("tls", Vec::new()),
        ChainMatch::Rest => ("", Vec::new()),
    };
    let matching = v3::FilterChainMatch {
        destination_port: port.and_then(|port| number(u32::from(port.get()))),
        transport_protocol: transport.to_owned(),
        application_protocols: protocols,
        ..Default::default()
    };
    let empty = matching == v3::FilterChainMatch::default();
    v3::FilterChain {
        name: name.to_owned(),
        filter_chain_match: (!empty).then_some(matching),
        filters,
        transport_socket_connect_timeout: socket.as_ref().and_then(|_| duration(HANDSHAKE_TIME)),
        transport_socket: socket,
        ..Default::default()
    }
}
