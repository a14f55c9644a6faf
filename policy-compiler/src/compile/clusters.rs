//! The client's side of a service: clusters, endpoints, routes. None of it depends on who calls.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use prost::Message;

use super::endpoints::{EndpointInputs, Reached, reached};
use super::memo::{Lazy, Recipe, kept};
use crate::envoy::cluster;
use crate::envoy::endpoint::{Group, assignment};
use crate::envoy::route::{self, Target as RouteTarget};
use crate::envoy::tls::Alpn;
use crate::finding::ObjectRef;
use crate::kinds::traffic_split::{NamespaceSplits, Split, Target};
use crate::resource::{Part, Resource, ResourceKey, ResourceKind};
use crate::world::{Labels, NamespacedName, Port, Protocol, Service, SpiffeId};

/// `out|<ns>/<service>|<port>`
pub(crate) fn out_name(service: &NamespacedName, port: Port) -> String {
    format!("out|{service}|{port}")
}

/// What a cluster announces by itself. Where HTTP is detected, the TCP chain says so.
pub(crate) const fn alpn(protocol: Protocol) -> Alpn {
    match protocol {
        Protocol::Http | Protocol::Detect => Alpn::Http,
        Protocol::Tcp => Alpn::Tcp,
    }
}

/// Whose doing a resource of a service is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Origins {
    service: NamespacedName,
    split: Option<ObjectRef>,
}

impl Origins {
    fn objects(&self) -> BTreeSet<ObjectRef> {
        let service = super::service_ref(&self.service);
        std::iter::once(service).chain(self.split.clone()).collect()
    }
}

#[derive(Debug, PartialEq)]
pub(crate) struct ClusterRecipe {
    name: Arc<str>,
    identities: BTreeSet<SpiffeId>,
    alpn: Alpn,
    origins: Origins,
}

impl Recipe for ClusterRecipe {
    fn make(&self) -> Arc<Resource> {
        Resource::new(
            ResourceKind::Cluster,
            &self.name,
            cluster::eds(&self.name, &self.identities, self.alpn).encode_to_vec(),
            Vec::new(),
            self.origins.objects(),
        )
    }
}

#[derive(Debug, PartialEq)]
pub(crate) struct EndpointsRecipe {
    name: Arc<str>,
    groups: Vec<Group>,
    origins: Origins,
}

impl Recipe for EndpointsRecipe {
    fn make(&self) -> Arc<Resource> {
        Resource::new(
            ResourceKind::Endpoints,
            &self.name,
            assignment(&self.name, &self.groups).encode_to_vec(),
            // They require nothing: Envoy asks for them once it has the cluster, and acknowledges the cluster once it has them.
            Vec::new(),
            self.origins.objects(),
        )
    }
}

#[derive(Debug, PartialEq)]
pub(crate) struct RouteRecipe {
    name: Arc<str>,
    targets: Vec<(Arc<str>, u32)>,
    /// The clusters that must be there before.
    clusters: Vec<Arc<str>>,
    origins: Origins,
}

impl Recipe for RouteRecipe {
    fn make(&self) -> Arc<Resource> {
        let target = |(cluster, weight): &(Arc<str>, u32)| RouteTarget {
            cluster: cluster.to_string(),
            weight: *weight,
        };
        let targets: Vec<RouteTarget> = self.targets.iter().map(target).collect();
        Resource::new(
            ResourceKind::Route,
            &self.name,
            route::outbound(&self.name, &targets).encode_to_vec(),
            self.clusters.iter().flat_map(pair_keys).collect(),
            self.origins.objects(),
        )
    }
}

fn pair_keys(name: &Arc<str>) -> [ResourceKey; 2] {
    [ResourceKind::Cluster, ResourceKind::Endpoints].map(|kind| ResourceKey {
        kind,
        name: Arc::clone(name),
    })
}

/// A cluster and its endpoints.
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    cluster: Arc<Lazy<ClusterRecipe>>,
    endpoints: Arc<Lazy<EndpointsRecipe>>,
}

impl Pair {
    fn new(
        name: Arc<str>,
        identities: BTreeSet<SpiffeId>,
        alpn: Alpn,
        groups: Vec<Group>,
        origins: Origins,
        old: Option<&Self>,
    ) -> Self {
        let cluster = ClusterRecipe {
            name: Arc::clone(&name),
            // Nothing is announced where nobody has a sidecar: equal clusters have equal recipes.
            alpn: if identities.is_empty() {
                Alpn::Http
            } else {
                alpn
            },
            identities,
            origins: origins.clone(),
        };
        let endpoints = EndpointsRecipe {
            name,
            groups,
            origins,
        };
        Self {
            cluster: kept(old.map(|old| &old.cluster), Lazy::new(cluster)),
            endpoints: kept(old.map(|old| &old.endpoints), Lazy::new(endpoints)),
        }
    }

    fn name(&self) -> &Arc<str> {
        &self.cluster.recipe().name
    }
}

/// By identity: one that says the same was kept.
impl PartialEq for Pair {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.cluster, &other.cluster) && Arc::ptr_eq(&self.endpoints, &other.endpoints)
    }
}

/// The cluster of a service's port as a whole.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Whole {
    pair: Pair,
    /// Whether an endpoint has no sidecar.
    pub(crate) unmeshed: bool,
}

/// The clusters of a service by port.
pub(crate) type Wholes = BTreeMap<Port, Whole>;

/// What a client needs for one port of one service.
#[derive(Debug)]
pub(crate) struct ClientSide {
    /// Clusters with their endpoints: the service's own first, then the backends of a split.
    pairs: Vec<Pair>,
    route: Option<Arc<Lazy<RouteRecipe>>>,
    part: OnceLock<Arc<Part>>,
}

impl ClientSide {
    fn new(pairs: Vec<Pair>, route: Option<Arc<Lazy<RouteRecipe>>>) -> Self {
        Self {
            pairs,
            route,
            part: OnceLock::new(),
        }
    }

    /// Everything, backends of a split included.
    pub(crate) fn part(&self) -> Arc<Part> {
        let make = || {
            let mut resources: Vec<Arc<Resource>> = Vec::new();
            for pair in &self.pairs {
                resources.extend([pair.cluster.resource(), pair.endpoints.resource()]);
            }
            resources.extend(self.route.as_ref().map(|route| route.resource()));
            Arc::new(Part { resources })
        };
        Arc::clone(self.part.get_or_init(make))
    }

    /// The parts of this and of what it was, if that was ever looked at and nothing differs but content: the same resources,
    /// reached in the same way.
    pub(crate) fn replaces(&self, old: &Self) -> Option<(Arc<Part>, Arc<Part>)> {
        let alike = self.clusters().eq(old.clusters()) && self.route() == old.route();
        let old = old.part.get().filter(|_| alike)?;
        Some((Arc::clone(old), self.part()))
    }

    /// The route configuration, where HTTP is spoken.
    pub(crate) fn route(&self) -> Option<&Arc<str>> {
        self.route.as_ref().map(|route| &route.recipe().name)
    }

    /// The cluster that connections go to which are no HTTP.
    pub(crate) fn cluster(&self) -> Option<&Arc<str>> {
        self.pairs.first().map(Pair::name)
    }

    /// All clusters that calls may go to.
    pub(crate) fn clusters(&self) -> impl Iterator<Item = &Arc<str>> {
        self.pairs.iter().map(Pair::name)
    }
}

impl PartialEq for ClientSide {
    fn eq(&self, other: &Self) -> bool {
        self.pairs == other.pairs && self.route == other.route
    }
}

/// The client's side of a service by port. A headless one has none: its callers dial pods.
pub(crate) type ClientSides = BTreeMap<Port, Arc<ClientSide>>;

/// What the clusters of a service look at.
pub(crate) struct Scene<'a> {
    pub(crate) endpoints: EndpointInputs<'a>,
    pub(crate) trust_domain: &'a str,
    /// The splits of the service's namespace.
    pub(crate) splits: Option<&'a NamespaceSplits>,
}

impl Scene<'_> {
    fn split(&self, service: &NamespacedName, port: Port) -> Option<&Arc<Split>> {
        self.splits?.in_force.get(&(service.clone(), port))
    }

    fn reached(&self, service: &NamespacedName, port: Port, subset: Option<&Labels>) -> Reached {
        reached(self.endpoints, self.trust_domain, service, port, subset)
    }
}

/// Compiles the clusters of a service as a whole.
pub(crate) fn wholes(scene: &Scene<'_>, service: &Service, old: Option<&Wholes>) -> Wholes {
    let whole = |(number, port): (&Port, &crate::world::ServicePort)| {
        let old = old.and_then(|old| old.get(number)).map(|old| &old.pair);
        let split = scene
            .split(&service.name, *number)
            .filter(|_| port.protocol != Protocol::Http);
        let whole = whole(scene, &service.name, *number, port.protocol, split, old);
        (*number, whole)
    };
    service.ports.iter().map(whole).collect()
}

/// On ports that are no HTTP, a split shifts weight in the endpoints of this one cluster.
fn whole(
    scene: &Scene<'_>,
    service: &NamespacedName,
    port: Port,
    protocol: Protocol,
    split: Option<&Arc<Split>>,
    old: Option<&Pair>,
) -> Whole {
    let own = scene.reached(service, port, None);
    let unmeshed = own.unmeshed;
    let mut identities = own.identities;
    let mut groups = Vec::new();
    match split {
        None => groups.push(Group {
            weight: 1,
            backends: own.backends,
        }),
        Some(split) => {
            for share in &split.shares {
                let there = match &share.target {
                    Target::Service(name) => scene.reached(name, port, None),
                    Target::Labels(labels) => scene.reached(service, port, Some(labels)),
                };
                identities.extend(there.identities);
                // Without weight a backend gets nothing, and where it is makes no difference.
                let backends = if share.weight == 0 {
                    Vec::new()
                } else {
                    there.backends
                };
                groups.push(Group {
                    weight: share.weight,
                    backends,
                });
            }
        }
    }
    let origins = Origins {
        service: service.clone(),
        split: split.map(|split| split.object.clone()),
    };
    let name = out_name(service, port).into();
    Whole {
        pair: Pair::new(name, identities, alpn(protocol), groups, origins, old),
        unmeshed,
    }
}

/// Compiles the client's side of a service; `whole` knows the clusters of services of the namespace.
pub(crate) fn client_sides<'a>(
    scene: &Scene<'_>,
    service: &Service,
    wholes: impl Fn(&NamespacedName) -> Option<&'a Arc<Wholes>>,
    old: Option<&ClientSides>,
) -> ClientSides {
    let mut sides = ClientSides::new();
    if service.headless {
        return sides;
    }
    let pair = |name: &NamespacedName, port: Port| {
        let whole = wholes(name).and_then(|wholes| wholes.get(&port));
        whole.map(|whole| whole.pair.clone())
    };
    for (number, port) in &service.ports {
        let Some(own) = pair(&service.name, *number) else {
            continue;
        };
        let old = old.and_then(|old| old.get(number));
        let side = match (port.protocol, scene.split(&service.name, *number)) {
            (Protocol::Http, Some(split)) => {
                divided(scene, &service.name, *number, split, own, pair, old)
            }
            (Protocol::Http | Protocol::Detect | Protocol::Tcp, _) => {
                undivided(own, port.protocol, old)
            }
        };
        sides.insert(*number, kept(old, side));
    }
    sides
}

fn undivided(own: Pair, protocol: Protocol, old: Option<&Arc<ClientSide>>) -> ClientSide {
    let route = match protocol {
        Protocol::Http | Protocol::Detect => {
            let route = RouteRecipe {
                name: Arc::clone(own.name()),
                targets: vec![(Arc::clone(own.name()), 1)],
                clusters: vec![Arc::clone(own.name())],
                origins: own.endpoints.recipe().origins.clone(),
            };
            Some(kept_route(route, old))
        }
        Protocol::Tcp => None,
    };
    ClientSide::new(vec![own], route)
}

/// HTTP: the weights are in the route, each backend is a cluster of its own.
fn divided(
    scene: &Scene<'_>,
    service: &NamespacedName,
    port: Port,
    split: &Split,
    own: Pair,
    whole: impl Fn(&NamespacedName, Port) -> Option<Pair>,
    old: Option<&Arc<ClientSide>>,
) -> ClientSide {
    let name = Arc::clone(own.name());
    // The service as a whole stays known beside its parts: what was under way when the split came goes on.
    let mut pairs = vec![own];
    let (mut targets, mut clusters) = (Vec::new(), Vec::new());
    for (index, share) in split.shares.iter().enumerate() {
        let pair = match &share.target {
            Target::Service(name) => whole(name, port),
            Target::Labels(labels) => Some(subset(scene, service, port, split, index, labels, old)),
        };
        // A backend service is there, or the split would not be in force; else nothing can be sent to it.
        let Some(pair) = pair else { continue };
        if share.weight > 0 {
            targets.push((Arc::clone(pair.name()), share.weight));
        }
        // Backends without weight stay known: streams that began there go on, and weight can come back at once.
        clusters.push(Arc::clone(pair.name()));
        // The split service itself can be one of its backends.
        if !pairs.contains(&pair) {
            pairs.push(pair);
        }
    }
    // The weight of the only one says nothing.
    if let [(_, weight)] = &mut *targets {
        *weight = 1;
    }
    let route = RouteRecipe {
        name,
        targets,
        clusters,
        origins: Origins {
            service: service.clone(),
            split: Some(split.object.clone()),
        },
    };
    ClientSide::new(pairs, Some(kept_route(route, old)))
}

fn kept_route(route: RouteRecipe, old: Option<&Arc<ClientSide>>) -> Arc<Lazy<RouteRecipe>> {
    let old = old.and_then(|old| old.route.as_ref());
    kept(old, Lazy::new(route))
}

fn subset(
    scene: &Scene<'_>,
    service: &NamespacedName,
    port: Port,
    split: &Split,
    index: usize,
    labels: &Labels,
    old: Option<&Arc<ClientSide>>,
) -> Pair {
    let name: Arc<str> = format!(
        "{}|{}/{}/{index}",
        out_name(service, port),
        split.object.namespace,
        split.object.name
    )
    .into();
    let there = scene.reached(service, port, Some(labels));
    let groups = vec![Group {
        weight: 1,
        backends: there.backends,
    }];
    let origins = Origins {
        service: service.clone(),
        split: Some(split.object.clone()),
    };
    let old = old.and_then(|old| old.pairs.iter().find(|pair| *pair.name() == name));
    Pair::new(name, there.identities, Alpn::Http, groups, origins, old)
}
