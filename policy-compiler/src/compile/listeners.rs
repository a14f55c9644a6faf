//! The client's listeners: the constant ones of capture, and the one of each destination.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::TrafficDirection;
use envoy_types::pb::envoy::config::listener::v3 as listener;
use heddle_ports::{OUTBOUND, OUTBOUND_MARKED};
use prost::Message;

use super::reporting::{client_spans, source};
use super::server_names::NamedCluster;
use crate::envoy::hcm::{Routes, Side, connection_manager};
use crate::envoy::listener::{self as build, ChainMatch, chain};
use crate::envoy::network::{on_demand, say_tcp, tcp_proxy, tcp_proxy_sticky, tcp_proxy_to};
use crate::envoy::reporting::Reporting;
use crate::envoy::route;
use crate::finding::ObjectRef;
use crate::resource::{Part, Resource, ResourceKey, ResourceKind};
use crate::telemetry::{LineFormat, SpanTag};
use crate::world::{Bucket, Protocol};

/// How long a client of a port without a declared protocol may be silent before its bytes are announced as TCP.
const DETECT_MS: u16 = 20;
/// The name of a cluster that does not exist: Envoy closes connections to it.
const REFUSED: &str = "refused";

/// The constant listeners of a captured pod.
pub(crate) fn capture_listeners(bucket: Bucket, origins: &BTreeSet<ObjectRef>) -> Part {
    let listener = |name: &str, port: u16, filters: Vec<listener::Filter>| {
        let mut listener = build::wildcard(name, port, TrafficDirection::Outbound);
        // A listener for the destination takes the connection if there is one.
        listener.use_original_dst =
            Some(envoy_types::pb::google::protobuf::BoolValue { value: true });
        listener.listener_filters = vec![build::original_dst()];
        listener.filter_chains = vec![
            build::refuse_loopback(),
            chain(name, None, ChainMatch::Rest, filters, None),
        ];
        Resource::new(
            ResourceKind::Listener,
            name,
            listener.encode_to_vec(),
            Vec::new(),
            origins.clone(),
        )
    };
    Part {
        resources: vec![
            listener("outbound", OUTBOUND, on_demand(bucket.format())),
            // Connections get here if their destination was requested and its listener is removed again.
            listener(
                "outbound-marked",
                OUTBOUND_MARKED,
                vec![tcp_proxy("outbound", REFUSED, None)],
            ),
        ],
    }
}

/// Where a destination's listener is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ListenerBinding {
    /// Capture hands connections over.
    Captured,
    /// At a socket of its own.
    OwnSocket,
}

/// The target of the connections that a listener accepts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ListenerTarget {
    /// By the service's routes, or to its cluster.
    Service {
        cluster: Arc<str>,
        route: Option<Arc<str>>,
        /// The cluster chooses the endpoint by the client's address.
        sticky: bool,
        /// The clusters by server names of TLS; connections with another name, or with none, are refused. None: all go to the cluster.
        named: Option<Arc<[NamedCluster]>>,
    },
    /// To the pod at the very address of the listener.
    Pod {
        cluster: Arc<str>,
        /// Whether it has a sidecar.
        is_meshed: bool,
    },
    /// All pods there deny the caller.
    Denied,
}

impl ListenerTarget {
    /// The clusters by server names of TLS, and whether they choose endpoints by the client's address. None: it takes all connections.
    fn by_name(&self) -> Option<(&[NamedCluster], bool)> {
        match self {
            Self::Service { named, sticky, .. } => Some((named.as_deref()?, *sticky)),
            Self::Pod { .. } | Self::Denied => None,
        }
    }
}

/// All inputs of a destination's listener. The caller is not one of them: all callers share the listener.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ListenerInput {
    pub(crate) at: SocketAddr,
    pub(crate) binding: ListenerBinding,
    pub(crate) protocol: Protocol,
    pub(crate) target: ListenerTarget,
    pub(crate) namespace: Arc<str>,
    pub(crate) service: Option<Arc<str>>,
    pub(crate) line_format: LineFormat,
    /// The attributes of spans. None: the caller does not trace, or there is no HTTP.
    pub(crate) spans: Option<Arc<[SpanTag]>>,
    pub(crate) origins: BTreeSet<ObjectRef>,
}

/// `dst|<ip:port>`
pub(super) fn listener_name(at: SocketAddr) -> String {
    format!("dst|{at}")
}

/// Makes the listener of a destination.
pub(crate) fn destination_listener(input: &ListenerInput) -> Part {
    let name = listener_name(input.at);
    let mut listener = match input.binding {
        ListenerBinding::Captured => build::handed(&name, input.at),
        ListenerBinding::OwnSocket => build::bound(&name, input.at, TrafficDirection::Outbound),
    };
    let reporting = reporting(input);
    let http = || {
        let routes = routes(&name, input)?;
        Some(vec![connection_manager(
            Side::Client,
            "outbound",
            routes,
            &reporting,
        )])
    };
    let tcp = || proxy_of_bytes(input, &reporting);
    let chains = &mut listener.filter_chains;
    match (input.protocol, input.target.by_name()) {
        (Protocol::Tcp | Protocol::Detect, Some((named, sticky))) => {
            chains.extend(by_name(named, sticky, &reporting));
            listener.listener_filters.push(build::tls_inspector(&[]));
        }
        (Protocol::Http, _) => {
            chains
                .extend(http().map(|filters| chain("http", None, ChainMatch::Rest, filters, None)));
        }
        (Protocol::Tcp, None) => {
            chains.push(chain("tcp", None, ChainMatch::Rest, vec![tcp()], None))
        }
        (Protocol::Detect, None) if input.protocol.announced(input.at.port()) == Protocol::Tcp => {
            let filters = vec![say_tcp(), tcp()];
            chains.push(chain("tcp", None, ChainMatch::Rest, filters, None));
        }
        // The bytes pass as they were sent. The first ones decide only whether the caller announces HTTP, which the server's sidecar
        // reads where a rule needs it.
        (Protocol::Detect, None) => {
            let http = match input.target {
                ListenerTarget::Denied => http(),
                ListenerTarget::Service { .. } | ListenerTarget::Pod { .. } => Some(vec![tcp()]),
            };
            chains.extend(
                http.map(|filters| chain("http", None, ChainMatch::PlainHttp, filters, None)),
            );
            let filters = vec![say_tcp(), tcp()];
            chains.push(chain("tcp", None, ChainMatch::PlainBytes, filters, None));
            listener.listener_filters.push(build::http_inspector(&[]));
            build::wait(&mut listener, DETECT_MS);
        }
    }
    part(&name, &listener, input)
}

/// Forwards a connection as bytes.
fn proxy_of_bytes(input: &ListenerInput, reporting: &Reporting<'_>) -> listener::Filter {
    match &input.target {
        ListenerTarget::Service {
            cluster,
            sticky: true,
            ..
        } => tcp_proxy_sticky("outbound", cluster, reporting),
        ListenerTarget::Service { cluster, .. } => tcp_proxy("outbound", cluster, Some(reporting)),
        ListenerTarget::Pod { cluster, .. } => {
            tcp_proxy_to("outbound", cluster, input.at, reporting)
        }
        ListenerTarget::Denied => tcp_proxy("outbound", REFUSED, Some(reporting)),
    }
}

fn part(name: &str, listener: &listener::Listener, input: &ListenerInput) -> Part {
    let resource = Resource::new(
        ResourceKind::Listener,
        name,
        listener.encode_to_vec(),
        requires(input),
        input.origins.clone(),
    );
    Part {
        resources: vec![resource],
    }
}

/// The chains of a port that takes connections by server name.
fn by_name(
    named: &[NamedCluster],
    sticky: bool,
    reporting: &Reporting<'_>,
) -> Vec<listener::FilterChain> {
    let proxy = |cluster: &str| match sticky {
        true => tcp_proxy_sticky("outbound", cluster, reporting),
        false => tcp_proxy("outbound", cluster, Some(reporting)),
    };
    let chains = named
        .iter()
        .map(|of| build::named_chain(&of.names, vec![proxy(&of.cluster)]));
    let refused = vec![tcp_proxy("outbound", REFUSED, Some(reporting))];
    let refused = chain("refused", None, ChainMatch::Rest, refused, None);
    chains.chain([refused]).collect()
}

fn routes<'a>(name: &str, input: &'a ListenerInput) -> Option<Routes<'a>> {
    match &input.target {
        ListenerTarget::Service { route, .. } => route.as_deref().map(Routes::Named),
        ListenerTarget::Pod { cluster, is_meshed } => {
            let route = route::to_one(cluster, input.at, *is_meshed);
            Some(Routes::Inline(Box::new(route)))
        }
        ListenerTarget::Denied => Some(Routes::Inline(Box::new(route::forbidden(name)))),
    }
}

/// HTTP waits for its routes by itself; TCP would run into a missing cluster.
fn requires(input: &ListenerInput) -> Vec<ResourceKey> {
    let key = |kind, name: &Arc<str>| ResourceKey {
        kind,
        name: Arc::clone(name),
    };
    match (&input.target, input.protocol) {
        (ListenerTarget::Denied, _) | (ListenerTarget::Service { .. }, Protocol::Http) => {
            Vec::new()
        }
        (ListenerTarget::Pod { cluster, .. }, _)
        | (ListenerTarget::Service { cluster, .. }, Protocol::Tcp | Protocol::Detect) => {
            let named = input.target.by_name().into_iter();
            let named = named.flat_map(|(named, _)| named).map(|of| &of.cluster);
            let clusters = [cluster].into_iter().chain(named);
            clusters
                .flat_map(|cluster| {
                    [
                        key(ResourceKind::Cluster, cluster),
                        key(ResourceKind::Endpoints, cluster),
                    ]
                })
                .collect()
        }
    }
}

fn reporting(input: &ListenerInput) -> Reporting<'_> {
    let service = input.service.as_deref();
    let spans = input.spans.as_deref();
    let port = input.at.port();
    Reporting {
        spans: spans.map(|tags| client_spans(&input.namespace, service, port, tags)),
        ..source(&input.namespace, service, input.line_format)
    }
}
