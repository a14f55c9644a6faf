//! The client's side: the constant capture listeners, and what a destination address becomes when somebody dials it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::TrafficDirection;
use envoy_types::pb::envoy::config::listener::v3 as listener;
use prost::Message;

use super::clusters::{Unit, Units};
use super::inbound::{protocol_of, service_targets, services_of};
use crate::envoy::cluster;
use crate::envoy::hcm::{Routes, Side, connection_manager};
use crate::envoy::listener::{self as build, Takes, chain};
use crate::envoy::metrics::Edge;
use crate::envoy::network::{on_demand, say_tcp, tcp_proxy};
use crate::envoy::route::{self, Target};
use crate::envoy::tls::Alpn;
use crate::finding::ObjectRef;
use crate::resource::{Resource, ResourceKey, ResourceKind};
use crate::world::{NamespacedName, Port, Protocol, Service, SpiffeId, World};

const OUTBOUND: u16 = 15001;
const OUTBOUND_MARKED: u16 = 15002;
/// How long a client of a port without a declared protocol may be silent before its bytes count as TCP.
const DETECT_MS: u16 = 20;

/// Who calls: what the listeners of a pod say about their own side.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Caller {
    pub(crate) namespace: Arc<str>,
    pub(crate) owner: Arc<str>,
    pub(crate) principal: SpiffeId,
}

/// What is at an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    /// A port of a service.
    Service {
        name: NamespacedName,
        port: Port,
        protocol: Protocol,
    },
    /// A port of a pod, dialled by the pod's own address.
    Pod {
        namespace: Arc<str>,
        owner: Arc<str>,
        service: Option<Arc<str>>,
        protocol: Protocol,
        identity: Option<SpiffeId>,
        origins: BTreeSet<ObjectRef>,
    },
}

/// Every address that the mesh knows.
pub(crate) type Destinations = BTreeMap<SocketAddr, Destination>;

/// Collects the addresses of services and pods.
pub(crate) fn destinations(world: &World, trust_domain: &str) -> Destinations {
    let mut found = Destinations::new();
    let services: Vec<&Service> = world.services.values().collect();
    pods(world, trust_domain, &services, &mut found);
    for service in &services {
        for port in service.ports.values() {
            let here = Destination::Service {
                name: service.name.clone(),
                port: port.port,
                protocol: port.protocol,
            };
            found.extend(
                service
                    .cluster_ips
                    .iter()
                    .map(|ip| (SocketAddr::new(*ip, port.port.get()), here.clone())),
            );
        }
    }
    found
}

fn pods(world: &World, trust_domain: &str, services: &[&Service], found: &mut Destinations) {
    let mut owners: BTreeMap<IpAddr, u32> = BTreeMap::new();
    for ip in world
        .workloads
        .values()
        .filter(|w| w.alive)
        .flat_map(|w| &w.ips)
    {
        *owners.entry(*ip).or_default() += 1;
    }
    for workload in world.workloads.values().filter(|w| w.alive) {
        let services = services_of(services, workload);
        let targets = service_targets(&services, workload);
        let headless = |port: &Port| {
            targets
                .get(port)
                .is_some_and(|said| said.iter().any(|(service, _)| service.headless))
        };
        let mut ports: BTreeSet<Port> = targets.keys().copied().collect();
        if workload.meshed {
            ports.extend(workload.ports.iter().map(|p| p.port));
            ports.insert(Port::METRICS);
        } else {
            ports.retain(headless);
        }
        for port in ports {
            let said = targets.get(&port);
            let here = Destination::Pod {
                namespace: Arc::clone(&workload.name.namespace),
                owner: Arc::clone(&workload.owner),
                service: said
                    .and_then(|said| said.iter().map(|(s, _)| &s.name.name).min())
                    .cloned(),
                protocol: if port == Port::METRICS {
                    Protocol::Http
                } else {
                    protocol_of(port, &targets, workload)
                },
                identity: workload.meshed.then(|| workload.identity(trust_domain)),
                origins: said
                    .into_iter()
                    .flatten()
                    .map(|(s, _)| super::service_ref(&s.name))
                    .collect(),
            };
            // Pods of the host's network share an address, and nobody can tell whose port it is.
            let own = workload.ips.iter().filter(|ip| owners.get(ip) == Some(&1));
            found.extend(own.map(|ip| (SocketAddr::new(*ip, port.get()), here.clone())));
        }
    }
}

/// The constant listeners of a captured pod.
pub(crate) fn capture_listeners(origins: &BTreeSet<ObjectRef>) -> Vec<Arc<Resource>> {
    let listener = |name: &str, port: u16, filters: Vec<listener::Filter>| {
        let mut listener = build::wildcard(name, port, TrafficDirection::Outbound);
        // A listener for the destination takes the connection if there is one.
        listener.use_original_dst =
            Some(envoy_types::pb::google::protobuf::BoolValue { value: true });
        listener.listener_filters = vec![build::original_dst()];
        listener.filter_chains = vec![chain(name, None, Takes::Rest, filters, None)];
        Resource::new(
            ResourceKind::Listener,
            name,
            listener.encode_to_vec(),
            Vec::new(),
            origins.clone(),
        )
    };
    vec![
        listener("outbound", OUTBOUND, on_demand()),
        // Whoever gets here has asked for a destination whose listener is gone again: a cluster that does not exist refuses.
        listener(
            "outbound-marked",
            OUTBOUND_MARKED,
            vec![tcp_proxy("outbound", "refused", None)],
        ),
    ]
}

/// Everything for one known destination but the on-demand cluster: the listener, and what it leads to.
pub(crate) fn destination(
    caller: &Caller,
    at: SocketAddr,
    listens: Listens,
    here: &Destination,
    units: &Units,
) -> Vec<Arc<Resource>> {
    match here {
        Destination::Service {
            name,
            port,
            protocol,
        } => {
            let Some(unit) = units.get(&(name.clone(), *port)) else {
                return Vec::new();
            };
            let edge = edge(caller, &name.namespace, Some(&name.name));
            let routes = || unit.route.as_deref().map(Routes::Named);
            let listener =
                destination_listener(at, listens, *protocol, routes, &unit.cluster, &edge);
            with_listener(at, listener, unit, *protocol)
        }
        Destination::Pod {
            namespace,
            service,
            protocol,
            identity,
            origins,
            ..
        } => {
            let unit = pod_unit(at, *protocol, identity.as_ref(), origins);
            let edge = edge(caller, namespace, service.as_ref());
            let inline = || {
                let target = Target {
                    cluster: unit.cluster.to_string(),
                    weight: 1,
                };
                Some(Routes::Inline(Box::new(route::outbound(
                    &unit.cluster,
                    &[target],
                ))))
            };
            let listener =
                destination_listener(at, listens, *protocol, inline, &unit.cluster, &edge);
            with_listener(at, listener, &unit, Protocol::Tcp)
        }
    }
}

fn with_listener(
    at: SocketAddr,
    listener: listener::Listener,
    unit: &Unit,
    protocol: Protocol,
) -> Vec<Arc<Resource>> {
    let mut resources = unit.resources.clone();
    let ready =
        |r: &&Arc<Resource>| matches!(r.key.kind, ResourceKind::Cluster | ResourceKind::Endpoints);
    // HTTP waits for its routes by itself; TCP would run into a missing cluster.
    let requires = match protocol {
        Protocol::Http => Vec::new(),
        Protocol::Tcp | Protocol::Detect => unit
            .resources
            .iter()
            .filter(ready)
            .map(|r| r.key.clone())
            .collect(),
    };
    resources.push(Resource::new(
        ResourceKind::Listener,
        &listener_name(at),
        listener.encode_to_vec(),
        requires,
        unit.origins.clone(),
    ));
    resources
}

/// `dst|<ip:port>`
fn listener_name(at: SocketAddr) -> String {
    format!("dst|{at}")
}

/// One pod. The cluster is static, for nothing about it can change while the pod lives.
fn pod_unit(
    at: SocketAddr,
    protocol: Protocol,
    identity: Option<&SpiffeId>,
    origins: &BTreeSet<ObjectRef>,
) -> Unit {
    let name = format!("pod|{at}");
    let alpn = match protocol {
        Protocol::Http | Protocol::Detect => Alpn::Http,
        Protocol::Tcp => Alpn::Tcp,
    };
    let body = cluster::fixed(&name, at, identity, alpn).encode_to_vec();
    let cluster = Resource::new(
        ResourceKind::Cluster,
        &name,
        body,
        Vec::new(),
        origins.clone(),
    );
    Unit {
        resources: vec![cluster],
        route: None,
        cluster: name.into(),
        origins: origins.clone(),
    }
}

/// Where a destination's listener is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Listens {
    /// Capture hands connections over.
    Handed,
    /// At a socket of its own.
    Bound,
}

fn destination_listener<'a>(
    at: SocketAddr,
    listens: Listens,
    protocol: Protocol,
    routes: impl Fn() -> Option<Routes<'a>>,
    cluster: &str,
    edge: &Edge,
) -> listener::Listener {
    let name = listener_name(at);
    let mut listener = match listens {
        Listens::Handed => build::handed(&name, at),
        Listens::Bound => build::bound(&name, at, TrafficDirection::Outbound),
    };
    let http =
        || routes().map(|routes| vec![connection_manager(Side::Client, "outbound", routes, edge)]);
    let tcp = || tcp_proxy("outbound", cluster, Some(edge));
    match protocol {
        Protocol::Http => listener
            .filter_chains
            .extend(http().map(|filters| chain("http", None, Takes::Rest, filters, None))),
        Protocol::Tcp => {
            listener
                .filter_chains
                .push(chain("tcp", None, Takes::Rest, vec![tcp()], None))
        }
        Protocol::Detect => {
            listener.listener_filters.push(build::http_inspector(&[]));
            build::wait(&mut listener, DETECT_MS);
            listener
                .filter_chains
                .extend(http().map(|filters| chain("http", None, Takes::PlainHttp, filters, None)));
            listener.filter_chains.push(chain(
                "tcp",
                None,
                Takes::Rest,
                vec![say_tcp(), tcp()],
                None,
            ));
        }
    }
    listener
}

fn edge(caller: &Caller, namespace: &str, service: Option<&Arc<str>>) -> Edge {
    Edge(vec![
        ("reporter", "source".to_owned()),
        ("source_namespace", caller.namespace.to_string()),
        ("source_workload", caller.owner.to_string()),
        ("source_principal", caller.principal.to_string()),
        ("destination_namespace", namespace.to_owned()),
        (
            "destination_service",
            service.map_or_else(|| "-".to_owned(), ToString::to_string),
        ),
        // Tells the backends of a split apart.
        ("upstream_cluster", "%UPSTREAM_CLUSTER%".to_owned()),
    ])
}

/// The last step of an on-demand answer: the cluster that Envoy asked for.
pub(crate) fn marked(name: &str, at: SocketAddr, after: &[Arc<Resource>]) -> Arc<Resource> {
    let requires: Vec<ResourceKey> = after.iter().map(|r| r.key.clone()).collect();
    let origins = after
        .iter()
        .flat_map(|r| r.origins.iter().cloned())
        .collect();
    Resource::new(
        ResourceKind::Cluster,
        name,
        cluster::marked(name, at).encode_to_vec(),
        requires,
        origins,
    )
}

/// An address that nobody knows, straight through.
pub(crate) fn passthrough(
    name: &str,
    at: SocketAddr,
    origins: &BTreeSet<ObjectRef>,
) -> Arc<Resource> {
    Resource::new(
        ResourceKind::Cluster,
        name,
        cluster::fixed(name, at, None, Alpn::Tcp).encode_to_vec(),
        Vec::new(),
        origins.clone(),
    )
}
