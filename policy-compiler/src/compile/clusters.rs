//! The client's side of a service: clusters, endpoints, routes. None of it depends on who calls.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use prost::Message;

use super::endpoints::{backends, identities};
use crate::envoy::cluster;
use crate::envoy::endpoint::{Group, assignment};
use crate::envoy::route::{self, Target as RouteTarget};
use crate::envoy::tls::Alpn;
use crate::finding::{ObjectKind, ObjectRef};
use crate::kinds::mesh::Settings;
use crate::kinds::traffic_split::{Split, Splits, Target};
use crate::resource::{Resource, ResourceKey, ResourceKind};
use crate::world::{Labels, NamespacedName, Port, Protocol, SpiffeId, World};

/// What a client needs for one port of one service.
#[derive(Clone, Debug, Default)]
pub(crate) struct Unit {
    /// Everything, backends of a split included.
    pub(crate) resources: Vec<Arc<Resource>>,
    /// The route configuration, where HTTP is spoken.
    pub(crate) route: Option<Arc<str>>,
    /// The cluster that TCP connections go to.
    pub(crate) cluster: Arc<str>,
    /// Whose doing it is.
    pub(crate) origins: BTreeSet<ObjectRef>,
}

/// The units of all service ports.
pub(crate) type Units = BTreeMap<(NamespacedName, Port), Unit>;

/// `out|<ns>/<service>|<port>`
pub(crate) fn out_name(service: &NamespacedName, port: Port) -> String {
    format!("out|{service}|{port}")
}

/// What all clusters of a compile look at.
pub(crate) struct Scope<'a> {
    pub(crate) world: &'a World,
    pub(crate) settings: &'a Settings,
    pub(crate) splits: &'a Splits,
}

/// Compiles the client's side of every service.
pub(crate) fn units(scope: &Scope<'_>) -> Units {
    let mut pairs: BTreeMap<(NamespacedName, Port), Pair> = BTreeMap::new();
    let ports = || {
        scope
            .world
            .services
            .values()
            .flat_map(|s| s.ports.values().map(move |p| (s, p)))
    };
    for (service, port) in ports() {
        let key = (service.name.clone(), port.port);
        let split = scope
            .splits
            .get(&key)
            .filter(|_| port.protocol != Protocol::Http);
        pairs.insert(
            key,
            service_pair(scope, &service.name, port.port, port.protocol, split),
        );
    }
    let mut units = Units::new();
    // Headless services can be backends, but nobody dials them: their callers dial pods.
    for (service, port) in ports().filter(|(service, _)| !service.headless) {
        let key = (service.name.clone(), port.port);
        let unit = match (port.protocol, scope.splits.get(&key)) {
            (Protocol::Http, Some(split)) => {
                split_unit(scope, &service.name, port.port, split, &pairs)
            }
            (Protocol::Http | Protocol::Detect | Protocol::Tcp, _) => {
                plain_unit(&service.name, port.port, port.protocol, pairs.get(&key))
            }
        };
        units.insert(key, unit);
    }
    units
}

/// A cluster and its endpoints.
#[derive(Clone, Debug)]
struct Pair {
    cluster: Arc<Resource>,
    endpoints: Arc<Resource>,
}

impl Pair {
    fn new(
        name: &str,
        identities: &BTreeSet<SpiffeId>,
        alpn: Alpn,
        groups: &[Group],
        origins: &BTreeSet<ObjectRef>,
        cluster_origins: &BTreeSet<ObjectRef>,
    ) -> Self {
        let cluster = cluster::eds(name, identities, alpn).encode_to_vec();
        let cluster = Resource::new(
            ResourceKind::Cluster,
            name,
            cluster,
            Vec::new(),
            cluster_origins.clone(),
        );
        let endpoints = assignment(name, groups).encode_to_vec();
        // They require nothing: Envoy asks for them once it has the cluster, and acknowledges the cluster once it has them.
        let endpoints = Resource::new(
            ResourceKind::Endpoints,
            name,
            endpoints,
            Vec::new(),
            origins.clone(),
        );
        Self { cluster, endpoints }
    }

    fn keys(&self) -> [ResourceKey; 2] {
        [self.cluster.key.clone(), self.endpoints.key.clone()]
    }

    fn all(&self) -> [Arc<Resource>; 2] {
        [Arc::clone(&self.cluster), Arc::clone(&self.endpoints)]
    }
}

/// `out|ns/service|port`. On ports that are no HTTP, a split shifts weight in the endpoints of this one cluster.
fn service_pair(
    scope: &Scope<'_>,
    service: &NamespacedName,
    port: Port,
    protocol: Protocol,
    split: Option<&Arc<Split>>,
) -> Pair {
    let trust_domain = &scope.settings.trust_domain;
    let mut known = identities(scope.world, trust_domain, service, port, None);
    let own = origin(service);
    let mut origins = BTreeSet::from([own.clone()]);
    let mut groups = Vec::new();
    match split {
        None => groups.push(Group {
            weight: 1,
            backends: backends(scope.world, service, port, None),
        }),
        Some(split) => {
            origins.insert(split.object.clone());
            for share in &split.shares {
                let (name, subset) = match &share.target {
                    Target::Service(name) => (name, None),
                    Target::Labels(labels) => (service, Some(labels)),
                };
                known.extend(identities(scope.world, trust_domain, name, port, subset));
                groups.push(Group {
                    weight: share.weight,
                    backends: backends(scope.world, name, port, subset),
                });
            }
        }
    }
    let alpn = match protocol {
        // Where HTTP is detected, the TCP chain says so itself.
        Protocol::Http | Protocol::Detect => Alpn::Http,
        Protocol::Tcp => Alpn::Tcp,
    };
    let name = out_name(service, port);
    Pair::new(&name, &known, alpn, &groups, &origins, &origins)
}

fn subset_pair(
    scope: &Scope<'_>,
    service: &NamespacedName,
    port: Port,
    split: &Split,
    index: usize,
    labels: &Labels,
) -> Pair {
    let name = format!(
        "{}|{}/{}/{index}",
        out_name(service, port),
        split.object.namespace,
        split.object.name
    );
    let known = identities(
        scope.world,
        &scope.settings.trust_domain,
        service,
        port,
        Some(labels),
    );
    let groups = [Group {
        weight: 1,
        backends: backends(scope.world, service, port, Some(labels)),
    }];
    let origins = BTreeSet::from([origin(service), split.object.clone()]);
    Pair::new(&name, &known, Alpn::Http, &groups, &origins, &origins)
}

fn plain_unit(
    service: &NamespacedName,
    port: Port,
    protocol: Protocol,
    pair: Option<&Pair>,
) -> Unit {
    let Some(pair) = pair else {
        return Unit::default();
    };
    let name = out_name(service, port);
    let origins = pair.endpoints.origins.clone();
    let mut unit = Unit {
        resources: pair.all().to_vec(),
        route: None,
        cluster: pair.cluster.key.name.clone(),
        origins: origins.clone(),
    };
    match protocol {
        Protocol::Http | Protocol::Detect => {
            let targets = [RouteTarget {
                cluster: name.clone(),
                weight: 1,
            }];
            add_route(&mut unit, &name, &targets, pair.keys().to_vec());
        }
        Protocol::Tcp => {}
    }
    unit
}

/// HTTP: the weights are in the route, each backend is a cluster of its own.
fn split_unit(
    scope: &Scope<'_>,
    service: &NamespacedName,
    port: Port,
    split: &Split,
    pairs: &BTreeMap<(NamespacedName, Port), Pair>,
) -> Unit {
    let name = out_name(service, port);
    let mut unit = Unit {
        cluster: name.as_str().into(),
        origins: BTreeSet::from([origin(service), split.object.clone()]),
        ..Unit::default()
    };
    // The service as a whole stays known beside its parts: what was under way when the split came goes on.
    unit.resources.extend(
        pairs
            .get(&(service.clone(), port))
            .into_iter()
            .flat_map(Pair::all),
    );
    let mut targets = Vec::new();
    let mut requires = Vec::new();
    for (index, share) in split.shares.iter().enumerate() {
        let pair = match &share.target {
            Target::Service(name) => pairs.get(&(name.clone(), port)).cloned(),
            Target::Labels(labels) => Some(subset_pair(scope, service, port, split, index, labels)),
        };
        // A backend service is there and not headless, or the split would not be in force; else nothing can be sent to it.
        let Some(pair) = pair else { continue };
        if share.weight > 0 {
            targets.push(RouteTarget {
                cluster: pair.cluster.key.name.to_string(),
                weight: share.weight,
            });
        }
        // Backends without weight stay known: streams that began there go on, and weight can come back at once.
        requires.extend(pair.keys());
        unit.resources.extend(pair.all());
    }
    add_route(&mut unit, &name, &targets, requires);
    unit
}

fn add_route(unit: &mut Unit, name: &str, targets: &[RouteTarget], requires: Vec<ResourceKey>) {
    let body = route::outbound(name, targets).encode_to_vec();
    let resource = Resource::new(
        ResourceKind::Route,
        name,
        body,
        requires,
        unit.origins.clone(),
    );
    unit.route = Some(Arc::clone(&resource.key.name));
    unit.resources.push(resource);
}

fn origin(service: &NamespacedName) -> ObjectRef {
    ObjectRef {
        kind: ObjectKind::Service,
        namespace: Arc::clone(&service.namespace),
        name: Arc::clone(&service.name),
    }
}
