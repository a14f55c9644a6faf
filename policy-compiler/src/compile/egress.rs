//! Hosts outside the mesh, as the workloads of a namespace call them by name. Workloads of all namespaces that no object names share one
//! value.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use heddle_crds::reason;
use prost::Message;

use super::reporting;
use crate::envoy::external;
use crate::finding::{Finding, ObjectRef};
use crate::kinds::policies::external_service::ExternalHosts;
use crate::resource::{Part, Resource, ResourceKind, RuleOrigins};
use crate::settings::Settings;
use crate::telemetry::LineFormat;
use crate::traffic::{ExternalAddresses, ExternalHost, ExternalPort, ExternalProtocol, HostPolicy};
use crate::world::{Bucket, Port};

/// The most hosts that the sidecars of a namespace get, each at each of its ports: bounds of the objects' namespaces add up. The namespace's own
/// come first, and are fewer.
const MAX_HOSTS: usize = 2000;
/// The most wildcards among them: each has a cache of names.
const MAX_WILDCARDS: usize = 128;
/// The most ports of them: each has a listener.
const MAX_PORTS: usize = 128;

/// The most bytes of certificates of authorities among them: the cluster of each host has a copy.
const MAX_AUTHORITIES: usize = 4 << 20;

/// The hosts that the workloads of a namespace call by name.
#[derive(Debug, PartialEq)]
pub(crate) struct Egress {
    ports: BTreeMap<Port, Arc<EgressPort>>,
    /// By the names of their clusters.
    hosts: BTreeMap<Arc<str>, ExternalHost>,
    /// In order of precedence.
    addresses: Vec<ExternalAddresses>,
    /// The hosts and addresses beyond the bounds, by object.
    beyond: BTreeMap<ObjectRef, usize>,
    overridden: Overridden,
}

/// The objects that lose hosts to another one: the first of those, and the number of the hosts.
type Overridden = BTreeMap<ObjectRef, (ObjectRef, usize)>;

/// The hosts of several namespaces that the sidecars of one get.
struct InForce<'a> {
    named: BTreeMap<(Port, Arc<str>), &'a ExternalHost>,
    addresses: Vec<ExternalAddresses>,
    beyond: BTreeMap<ObjectRef, usize>,
    overridden: Overridden,
}

impl<'a> InForce<'a> {
    /// Merges hosts in order of precedence, within the bounds.
    fn new(hosts: impl Iterator<Item = &'a ExternalHosts>) -> Self {
        let mut named: BTreeMap<(Port, Arc<str>), &ExternalHost> = BTreeMap::new();
        let mut addresses: Vec<ExternalAddresses> = Vec::new();
        let mut beyond: BTreeMap<ObjectRef, usize> = BTreeMap::new();
        let mut overridden = Overridden::new();
        let (mut wildcards, mut authorities, mut ports) = (0, 0, BTreeSet::new());
        for of in hosts {
            for (key, host) in &of.named {
                if let Some(winner) = named.get(key) {
                    // An object that names the callers, and all others too, comes twice.
                    if winner.object != host.object {
                        let lost = overridden.entry(host.object.clone());
                        lost.or_insert_with(|| (winner.object.clone(), 0)).1 += 1;
                    }
                    continue;
                }
                let wildcard = usize::from(host.below().is_some());
                let trusted = host.tls.as_ref().and_then(|tls| tls.authorities.as_ref());
                let trusted = trusted.map_or(0, |text| text.len());
                let full = named.len() >= MAX_HOSTS
                    || authorities + trusted > MAX_AUTHORITIES
                    || wildcards + wildcard > MAX_WILDCARDS
                    || (ports.len() >= MAX_PORTS && !ports.contains(&key.0));
                if full {
                    *beyond.entry(host.object.clone()).or_default() += 1;
                    continue;
                }
                wildcards += wildcard;
                authorities += trusted;
                ports.insert(key.0);
                named.insert(key.clone(), host);
            }
            for block in &of.addresses {
                if addresses.len() < MAX_HOSTS {
                    addresses.push(block.clone());
                } else {
                    *beyond.entry(block.object.clone()).or_default() += 1;
                }
            }
        }
        Self {
            named,
            addresses,
            beyond,
            overridden,
        }
    }
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
        addresses_at: impl Fn(Port) -> BTreeSet<IpAddr>,
        policy_of: impl Fn(&ExternalHost) -> Option<HostPolicy>,
    ) -> Self {
        let InForce {
            named,
            addresses,
            beyond,
            overridden,
        } = InForce::new(hosts);
        let mut ports: BTreeMap<Port, ExternalPort> = BTreeMap::new();
        let mut by_cluster = BTreeMap::new();
        for ((number, _), host) in named {
            let host = ExternalHost {
                policy: policy_of(host).map(Arc::new),
                ..host.clone()
            };
            let port = ports.entry(number).or_insert_with(|| ExternalPort {
                port: number,
                http: Vec::new(),
                tls: Vec::new(),
                inside: None,
                mesh: BTreeSet::new(),
            });
            match host.protocol {
                ExternalProtocol::Http => port.http.push(host.clone()),
                ExternalProtocol::Tls => port.tls.push(host.clone()),
            }
            by_cluster.insert(host.cluster_name(), host);
        }
        let ports = ports.into_iter().map(|(number, mut hosts)| {
            hosts.inside = inside(&hosts, &settings.cluster_domain);
            hosts.mesh = addresses_at(number);
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
            beyond,
            overridden,
        }
    }

    /// The objects of which the workloads of a namespace do not get all hosts; of all other namespaces (`None`).
    pub(crate) fn findings(&self, namespace: Option<&Arc<str>>) -> Vec<Finding> {
        let callers = match namespace {
            Some(namespace) => format!("workloads of namespace {namespace}"),
            None => "workloads of namespaces that no object names".to_owned(),
        };
        // A namespace may have hosts of its own in place of those that others open to it.
        let foreign = self.overridden.iter().filter(|(_, (winner, _))| {
            namespace.is_none_or(|namespace| *namespace != winner.namespace)
        });
        let lost = foreign.map(|(object, (winner, count))| {
            let message = format!(
                "{callers} get {count} of its hosts from {winner}, for the name of its namespace is smaller"
            );
            let finding = Finding::warning(object, "spec.visibleTo", reason::OVERRIDDEN, message);
            finding.fix("open the hosts to these callers by one of the two objects")
        });
        let of = self.beyond.iter().map(|(object, count)| {
            let message = format!(
                "{callers} do not get {count} of its hosts: {MAX_HOSTS} hosts, {MAX_WILDCARDS} wildcards, {MAX_PORTS} ports and {MAX_AUTHORITIES} bytes of caCertificates, counted for each host, are the most"
            );
            let finding = Finding::warning(object, "spec.visibleTo", "TooManyHosts", message);
            finding.fix("open hosts to the namespaces that call them, and name fewer ports")
        });
        of.chain(lost).collect()
    }

    /// The object that opens an address outside to connections without a name.
    pub(crate) fn opens(&self, at: SocketAddr) -> Option<&ObjectRef> {
        let ip = at.ip().to_canonical();
        let mut addresses = self.addresses.iter();
        let found = addresses.find(|of| of.port.get() == at.port() && of.block.contains(&ip))?;
        Some(&found.object)
    }

    /// Whether an address outside is opened to connections without a name at a port.
    pub(crate) fn opens_port(&self, port: u16) -> bool {
        self.addresses.iter().any(|of| of.port.get() == port)
    }

    /// The host that a name in lower case means at a port: one that is named in full, else the longest wildcard.
    pub(crate) fn named(
        &self,
        port: Port,
        protocol: ExternalProtocol,
        name: &str,
        domain: &str,
    ) -> Option<&ExternalHost> {
        let hosts = &self.ports.get(&port)?.hosts;
        let hosts = match protocol {
            ExternalProtocol::Http => &hosts.http,
            ExternalProtocol::Tls => &hosts.tls,
        };
        let inside = name.ends_with(&format!(".{domain}"));
        let hosts = hosts.iter().filter(|of| of.names(name));
        let hosts = hosts.filter(|of| !inside || of.below().is_none());
        // Its own name is longer than each wildcard that stands for it, if the sign is left out.
        hosts.max_by_key(|of| of.host.trim_start_matches('*').len())
    }

    /// All hosts.
    pub(crate) fn all(&self) -> impl Iterator<Item = &ExternalHost> {
        self.hosts.values()
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

/// The domain of the cluster, if a wildcard of the port would take its names: by such a name a sidecar would call a service of the mesh
/// without mTLS.
fn inside(port: &ExternalPort, domain: &Arc<str>) -> Option<Arc<str>> {
    let below = format!(".{domain}");
    let hosts = port.http.iter().chain(&port.tls);
    let mut wildcards = hosts.filter_map(ExternalHost::below);
    wildcards
        .any(|end| below.ends_with(end))
        .then(|| Arc::clone(domain))
}

/// `external|<port>`: the listener, and its routes.
fn name(port: Port) -> String {
    format!("external|{port}")
}

/// The name of the listener of a port.
pub(crate) fn external_listener(port: u16) -> Arc<str> {
    format!("external|{port}").into()
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
        listener,
        Vec::new(),
        port.hosts.origins(),
    )
}

fn routes(port: &ExternalPort) -> Arc<Resource> {
    let name = name(port.port);
    let hosts = port.http.iter().enumerate();
    let rules = hosts.flat_map(|(index, host)| {
        let names = external::route_names(host).into_iter().enumerate();
        names.map(move |(route, name)| RuleOrigins {
            id: name.into(),
            host: index,
            route,
            objects: host.origins(),
        })
    });
    let origins = port.http.iter().flat_map(ExternalHost::origins);
    Resource::merged(
        ResourceKind::Route,
        &name,
        external::routes(&name, port).encode_to_vec(),
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
        host.origins(),
    );
    Part {
        resources: vec![resource],
    }
}
