//! Hosts outside the mesh, as the workloads of a namespace call them by name. Workloads of all namespaces that no object names share one
//! value.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use prost::Message;

use super::memo::{Lazy, Recipe, kept};
use super::reporting;
use crate::envoy::external;
use crate::finding::ObjectRef;
use crate::kinds::policies::external_service::ExternalHosts;
use crate::resource::{Part, Resource, ResourceKind, RuleOrigins};
use crate::settings::Settings;
use crate::telemetry::LineFormat;
use crate::traffic::{ExternalAddresses, ExternalHost, ExternalPort, ExternalProtocol};
use crate::world::{Bucket, Port};

/// The hosts that the workloads of a namespace call by name.
#[derive(Debug, PartialEq)]
pub(crate) struct Egress {
    ports: BTreeMap<Port, Arc<EgressPort>>,
    /// By the names of their clusters.
    hosts: BTreeMap<Arc<str>, Arc<EgressHost>>,
    /// In order of precedence.
    addresses: Vec<ExternalAddresses>,
}

/// A port at which hosts are called by name.
#[derive(Debug)]
struct EgressPort {
    listener: Lazy<ExternalListener>,
    /// There are some if a host is called by HTTP.
    routes: Option<Arc<Lazy<ExternalRoutes>>>,
    part: OnceLock<Arc<Part>>,
}

impl PartialEq for EgressPort {
    fn eq(&self, other: &Self) -> bool {
        self.listener == other.listener && self.routes == other.routes
    }
}

/// A host, with its cluster.
#[derive(Debug)]
struct EgressHost {
    host: ExternalHost,
    part: OnceLock<Arc<Part>>,
}

impl PartialEq for EgressHost {
    fn eq(&self, other: &Self) -> bool {
        self.host == other.host
    }
}

/// All inputs of a listener.
#[derive(Debug, PartialEq)]
struct ExternalListener {
    hosts: ExternalPort,
    bucket: Bucket,
    line_format: LineFormat,
}

/// All inputs of a route configuration.
#[derive(Debug, PartialEq)]
struct ExternalRoutes {
    port: Port,
    hosts: Vec<ExternalHost>,
}

impl Egress {
    /// Merges hosts in order of precedence. Keeps the old values that are equal.
    pub(crate) fn new<'a>(
        hosts: impl Iterator<Item = &'a ExternalHosts>,
        settings: &Settings,
        old: Option<&Self>,
    ) -> Self {
        let mut in_force: BTreeMap<(Port, Arc<str>), &ExternalHost> = BTreeMap::new();
        let mut addresses = Vec::new();
        for of in hosts {
            for (key, host) in &of.named {
                in_force.entry(key.clone()).or_insert(host);
            }
            addresses.extend(of.addresses.iter().cloned());
        }
        let mut ports: BTreeMap<Port, ExternalPort> = BTreeMap::new();
        let mut by_cluster = BTreeMap::new();
        for ((number, _), host) in in_force {
            let port = ports.entry(number).or_insert_with(|| ExternalPort {
                port: number,
                http: Vec::new(),
                tls: Vec::new(),
            });
            match host.protocol {
                ExternalProtocol::Http => port.http.push(host.clone()),
                ExternalProtocol::Tls => port.tls.push(host.clone()),
            }
            let name = host.cluster_name();
            let old = old.and_then(|old| old.hosts.get(&name));
            let new = EgressHost {
                host: host.clone(),
                part: OnceLock::new(),
            };
            by_cluster.insert(name, kept(old.into_iter(), new));
        }
        let ports = ports.into_iter().map(|(number, port)| {
            let old = old.and_then(|old| old.ports.get(&number));
            let new = EgressPort::new(port, settings, old.map(|old| &**old));
            (number, kept(old.into_iter(), new))
        });
        Self {
            ports: ports.collect(),
            hosts: by_cluster,
            addresses,
        }
    }

    /// The object that opens an address outside to connections without a name.
    pub(crate) fn opens(&self, at: SocketAddr) -> Option<&ObjectRef> {
        let ip = at.ip().to_canonical();
        let mut addresses = self.addresses.iter();
        let found = addresses.find(|of| of.port.get() == at.port() && of.block.contains(&ip))?;
        Some(&found.object)
    }

    /// The listeners of all ports, with their routes.
    pub(crate) fn ports(&self) -> impl Iterator<Item = (Port, Arc<Part>)> {
        self.ports.iter().map(|(port, of)| (*port, of.part()))
    }

    /// Whether hosts are called by HTTP at a port, so that requests to other destinations pass its listener too.
    pub(crate) fn carries_requests(&self, port: u16) -> bool {
        let port = Port::try_from(i32::from(port));
        let port = port.ok().and_then(|port| self.ports.get(&port));
        port.is_some_and(|port| port.routes.is_some())
    }

    /// The names of all clusters.
    pub(crate) fn clusters(&self) -> impl Iterator<Item = &Arc<str>> {
        self.hosts.keys()
    }

    /// Whether there is a cluster of that name.
    pub(crate) fn has_cluster(&self, name: &str) -> bool {
        self.hosts.contains_key(name)
    }

    /// The cluster of that name.
    pub(crate) fn cluster(&self, name: &str) -> Option<Arc<Part>> {
        Some(self.hosts.get(name)?.part())
    }
}

impl EgressPort {
    fn new(hosts: ExternalPort, settings: &Settings, old: Option<&Self>) -> Self {
        let routes = ExternalRoutes {
            port: hosts.port,
            hosts: hosts.http.clone(),
        };
        let old = old.and_then(|old| old.routes.as_ref());
        Self {
            routes: (!hosts.http.is_empty()).then(|| kept(old.into_iter(), Lazy::new(routes))),
            listener: Lazy::new(ExternalListener {
                hosts,
                bucket: settings.bucket(),
                line_format: settings.line_format,
            }),
            part: OnceLock::new(),
        }
    }

    fn part(&self) -> Arc<Part> {
        let make = || {
            let routes = self.routes.iter().map(|routes| routes.resource());
            let resources = routes.chain([self.listener.resource()]).collect();
            Arc::new(Part { resources })
        };
        Arc::clone(self.part.get_or_init(make))
    }
}

impl EgressHost {
    fn part(&self) -> Arc<Part> {
        let make = || {
            let resource = Resource::new(
                ResourceKind::Cluster,
                &self.host.cluster_name(),
                external::cluster(&self.host),
                Vec::new(),
                [self.host.object.clone()].into(),
            );
            Arc::new(Part {
                resources: vec![resource],
            })
        };
        Arc::clone(self.part.get_or_init(make))
    }
}

/// `external|<port>`: the listener, and its routes.
fn name(port: Port) -> String {
    format!("external|{port}")
}

/// The port at which hosts outside the mesh are called by HTTP, by the name of its routes.
#[must_use]
pub fn external_routes_port(name: &str) -> Option<u16> {
    name.strip_prefix("external|")?.parse().ok()
}

impl Recipe for ExternalListener {
    fn make(&self) -> Arc<Resource> {
        let name = name(self.hosts.port);
        let reporting = reporting::external(self.line_format);
        let time = self.bucket.format();
        let listener = external::listener(&name, &self.hosts, time, &reporting);
        // It requires no cluster: each is fetched when its host is called.
        Resource::new(
            ResourceKind::Listener,
            &name,
            listener.encode_to_vec(),
            Vec::new(),
            self.hosts.origins(),
        )
    }
}

impl Recipe for ExternalRoutes {
    fn make(&self) -> Arc<Resource> {
        let name = name(self.port);
        let rules = self
            .hosts
            .iter()
            .enumerate()
            .map(|(index, host)| RuleOrigins {
                id: Arc::clone(&host.host),
                host: index,
                route: 0,
                objects: [host.object.clone()].into(),
            });
        let origins = self.hosts.iter().map(|host| host.object.clone());
        Resource::merged(
            ResourceKind::Route,
            &name,
            external::routes(&name, &self.hosts).encode_to_vec(),
            Vec::new(),
            origins.collect(),
            rules.collect(),
        )
    }
}
