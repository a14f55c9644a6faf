//! Hosts outside the mesh, as the workloads of a namespace call them by name. Workloads of all namespaces that no object names share one
//! value.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use prost::Message;

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
    hosts: BTreeMap<Arc<str>, ExternalHost>,
    /// In order of precedence.
    addresses: Vec<ExternalAddresses>,
}

/// All inputs of a port at which hosts are called by name: its listener, and its routes if a host is called by HTTP.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct EgressPort {
    hosts: ExternalPort,
    bucket: Bucket,
    line_format: LineFormat,
}

impl Egress {
    /// Merges hosts in order of precedence.
    pub(crate) fn new<'a>(
        hosts: impl Iterator<Item = &'a ExternalHosts>,
        settings: &Settings,
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
            by_cluster.insert(host.cluster_name(), host.clone());
        }
        let ports = ports.into_iter().map(|(number, hosts)| {
            let port = EgressPort {
                hosts,
                bucket: settings.bucket(),
                line_format: settings.line_format,
            };
            (number, Arc::new(port))
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

    /// All ports.
    pub(crate) fn ports(&self) -> impl Iterator<Item = (Port, &Arc<EgressPort>)> {
        self.ports.iter().map(|(port, of)| (*port, of))
    }

    /// Whether hosts are called by HTTP at a port, so that requests to other destinations pass its listener too.
    pub(crate) fn carries_requests(&self, port: u16) -> bool {
        let port = Port::try_from(i32::from(port));
        let port = port.ok().and_then(|port| self.ports.get(&port));
        port.is_some_and(|port| !port.hosts.http.is_empty())
    }

    /// The names of all clusters.
    pub(crate) fn clusters(&self) -> impl Iterator<Item = &Arc<str>> {
        self.hosts.keys()
    }

    /// Whether there is a cluster of that name.
    pub(crate) fn has_cluster(&self, name: &str) -> bool {
        self.hosts.contains_key(name)
    }

    /// The host that has the cluster of that name.
    pub(crate) fn host(&self, cluster: &str) -> Option<&ExternalHost> {
        self.hosts.get(cluster)
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

/// The listener of a port, and its routes.
pub(crate) fn external_port(port: &Arc<EgressPort>) -> Part {
    let routes = (!port.hosts.http.is_empty()).then(|| routes(&port.hosts));
    Part {
        resources: routes.into_iter().chain([listener(port)]).collect(),
    }
}

fn listener(port: &EgressPort) -> Arc<Resource> {
    let name = name(port.hosts.port);
    let reporting = reporting::external(port.line_format);
    let time = port.bucket.format();
    let listener = external::listener(&name, &port.hosts, time, &reporting);
    // It requires no cluster: each is fetched when its host is called.
    Resource::new(
        ResourceKind::Listener,
        &name,
        listener.encode_to_vec(),
        Vec::new(),
        port.hosts.origins(),
    )
}

fn routes(port: &ExternalPort) -> Arc<Resource> {
    let name = name(port.port);
    let hosts = port.http.iter().enumerate();
    let rules = hosts.map(|(index, host)| RuleOrigins {
        id: Arc::clone(&host.host),
        host: index,
        route: 0,
        objects: [host.object.clone()].into(),
    });
    let origins = port.http.iter().map(|host| host.object.clone());
    Resource::merged(
        ResourceKind::Route,
        &name,
        external::routes(&name, &port.http).encode_to_vec(),
        Vec::new(),
        origins.collect(),
        rules.collect(),
    )
}

/// The cluster of a host.
pub(crate) fn external_cluster(host: &ExternalHost) -> Part {
    let resource = Resource::new(
        ResourceKind::Cluster,
        &host.cluster_name(),
        external::cluster(host),
        Vec::new(),
        [host.object.clone()].into(),
    );
    Part {
        resources: vec![resource],
    }
}
