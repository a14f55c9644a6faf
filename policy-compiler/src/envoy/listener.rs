//! Listeners and their filter chains.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::listener::v3;
use envoy_types::pb::envoy::extensions::filters::listener::http_inspector::v3::HttpInspector;
use envoy_types::pb::envoy::extensions::filters::listener::original_dst::v3::OriginalDst;
use envoy_types::pb::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;

use super::tls::Alpn;
use super::{address, any, milliseconds, number, truth};
use crate::world::Port;

/// Bytes a connection may hold up. Envoy's 1 MiB per connection and direction is a lot for a sidecar with thousands of them.
pub(super) const BUFFER: u32 = 64 * 1024;

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

/// Reads the ClientHello, if there is one.
pub(crate) fn tls_inspector() -> v3::ListenerFilter {
    listener_filter(
        "envoy.filters.listener.tls_inspector",
        any(&TlsInspector::default()),
    )
}

/// Looks whether the first bytes are HTTP, but at the ports that say what they speak.
pub(crate) fn http_inspector(except: &[Port]) -> v3::ListenerFilter {
    use v3::listener_filter_chain_match_predicate::{MatchSet, Rule};
    let predicate = |rule| v3::ListenerFilterChainMatchPredicate { rule: Some(rule) };
    let port = |port: &Port| {
        let (start, end) = (i32::from(port.get()), i32::from(port.get()) + 1);
        predicate(Rule::DestinationPortRange(
            envoy_types::pb::envoy::r#type::v3::Int32Range { start, end },
        ))
    };
    let mut filter = listener_filter(
        "envoy.filters.listener.http_inspector",
        any(&HttpInspector::default()),
    );
    filter.filter_disabled = match except {
        [] => None,
        [only] => Some(port(only)),
        // An `or` of fewer than two is refused by Envoy's own validation.
        several => Some(predicate(Rule::OrMatch(MatchSet {
            rules: several.iter().map(port).collect(),
        }))),
    };
    filter
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

/// How long to wait for a client's first bytes, and to go on without them then.
pub(crate) fn wait(listener: &mut v3::Listener, silence_ms: u16) {
    listener.listener_filters_timeout = milliseconds(silence_ms);
    listener.continue_on_listener_filters_timeout = true;
}

/// Which connections a chain takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Takes {
    /// mTLS of a meshed caller, whatever it announces.
    Mesh,
    /// mTLS of a meshed caller that announces this.
    MeshOf(Alpn),
    /// Plain text that looks like HTTP.
    PlainHttp,
    /// Plain text that does not. Beside [`Takes::PlainHttp`] it has to say so: Envoy looks for the transport first and never goes back,
    /// so that a chain for any transport would not get what is plain.
    PlainBytes,
    /// TLS that is not ours: the application's own. Beside [`Takes::Mesh`] for the same reason.
    ForeignTls,
    /// Whatever no other chain of the port takes.
    Rest,
}

/// A filter chain of a port, or (None) of all ports without chains of their own.
pub(crate) fn chain(
    name: &str,
    port: Option<Port>,
    takes: Takes,
    filters: Vec<v3::Filter>,
    socket: Option<core::TransportSocket>,
) -> v3::FilterChain {
    let (transport, protocols): (&str, Vec<String>) = match takes {
        Takes::Mesh => (
            "tls",
            vec![
                Alpn::Http.as_str().to_owned(),
                Alpn::Tcp.as_str().to_owned(),
            ],
        ),
        Takes::MeshOf(alpn) => ("tls", vec![alpn.as_str().to_owned()]),
        Takes::PlainHttp => (
            "raw_buffer",
            vec![
                "http/1.0".to_owned(),
                "http/1.1".to_owned(),
                "h2c".to_owned(),
            ],
        ),
        Takes::PlainBytes => ("raw_buffer", Vec::new()),
        Takes::ForeignTls => ("tls", Vec::new()),
        Takes::Rest => ("", Vec::new()),
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
        transport_socket: socket,
        ..Default::default()
    }
}
