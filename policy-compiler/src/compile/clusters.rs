//! The client's side of a service: clusters, endpoints, routes. None of it depends on who calls.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use super::endpoints::{EndpointInputs, Reached, reached};
use super::facet::{Caller, Facet, OutPort, candidates, for_node};
use super::memo::{Lazy, kept};
use super::recipes::{ClusterRecipe, EndpointsRecipe, Origins, RouteRecipe};
use crate::envoy::endpoint::Group;
use crate::envoy::tls::Alpn;
use crate::finding::ObjectRef;
use crate::kinds::mesh::Settings;
use crate::kinds::traffic_split::{NamespaceSplits, Split, Target};
use crate::resource::{Part, Resource};
use crate::world::{Family, Labels, NamespacedName, Port, Protocol, Service, SpiffeId};

/// `out|<ns>/<service>|<port>`, and with `|4` or `|6` at the end the same for a service's second family.
fn out_name(service: &NamespacedName, port: Port, family: Option<Family>) -> Arc<str> {
    with_family(format!("out|{service}|{port}"), family)
}

/// `out|<ns>/<service>|<port>|<split>/<index>`, and again the family.
fn subset_name(
    service: &NamespacedName,
    port: Port,
    split: &ObjectRef,
    index: usize,
    family: Option<Family>,
) -> Arc<str> {
    let (namespace, name) = (&split.namespace, &split.name);
    with_family(
        format!("out|{service}|{port}|{namespace}/{name}/{index}"),
        family,
    )
}

fn with_family(name: String, family: Option<Family>) -> Arc<str> {
    match family {
        None => name.into(),
        Some(family) => format!("{name}|{}", family.number()).into(),
    }
}

/// What a cluster announces by itself. Where HTTP is detected, the chain for all else announces TCP.
pub(crate) const fn alpn(protocol: Protocol) -> Alpn {
    match protocol {
        Protocol::Http | Protocol::Detect => Alpn::Http,
        Protocol::Tcp => Alpn::Tcp,
    }
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
        (alpn, sticky): (Alpn, bool),
        groups: Vec<Group>,
        origins: Origins,
        old: &[&Self],
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
            sticky,
            origins: origins.clone(),
        };
        let endpoints = EndpointsRecipe {
            name,
            groups,
            origins,
        };
        Self {
            cluster: kept(old.iter().map(|old| &old.cluster), Lazy::new(cluster)),
            endpoints: kept(old.iter().map(|old| &old.endpoints), Lazy::new(endpoints)),
        }
    }

    fn name(&self) -> &Arc<str> {
        &self.cluster.recipe().name
    }

    fn sticky(&self) -> bool {
        self.cluster.recipe().sticky
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

/// The clusters of a service by port and callers.
pub(crate) type Wholes = BTreeMap<OutPort, Whole>;

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

    /// Whether that cluster chooses the endpoint by the client's address.
    pub(crate) fn sticky(&self) -> bool {
        self.pairs.first().is_some_and(Pair::sticky)
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

/// The client's side of a service by port and callers. A headless one has none: its callers dial pods.
pub(crate) type ClientSides = BTreeMap<OutPort, Arc<ClientSide>>;

/// What the clusters of a service look at.
pub(crate) struct Scene<'a> {
    pub(crate) endpoints: EndpointInputs<'a>,
    pub(crate) settings: &'a Settings,
    /// The splits of the service's namespace.
    pub(crate) splits: Option<&'a NamespaceSplits>,
}

impl Scene<'_> {
    fn split(&self, service: &NamespacedName, port: Port) -> Option<&Arc<Split>> {
        self.splits?.in_force.get(&(service.clone(), port))
    }

    fn reached(
        &self,
        service: &NamespacedName,
        port: Port,
        subset: Option<&Labels>,
        caller: Caller<'_>,
    ) -> Reached {
        reached(self.endpoints, self.settings, service, port, subset, caller)
    }

    /// The kinds of callers for whom a port is compiled.
    fn facets(&self, service: &Service, port: Port) -> Vec<Facet> {
        let split = self.split(&service.name, port);
        let backends = split.iter().flat_map(|split| &split.shares);
        let backends = backends.filter_map(|share| match &share.target {
            Target::Service(name) => Some(name),
            Target::Labels(_) => None,
        });
        let services = std::iter::once(&service.name).chain(backends);
        let nodes: BTreeSet<&Arc<str>> = services
            .flat_map(|name| self.endpoints.nodes(name, port))
            .collect();
        let families = [None].into_iter().chain(service.second_family().map(Some));
        let facets = families.flat_map(|family| {
            let nodes = nodes.iter().map(|node| Some(Arc::clone(node)));
            let nodes = [None].into_iter().chain(nodes);
            nodes.map(move |node| Facet { family, node })
        });
        facets.collect()
    }
}

/// Compiles the clusters of a service as a whole.
pub(crate) fn wholes(scene: &Scene<'_>, service: &Service, old: Option<&Wholes>) -> Wholes {
    let mut wholes = Wholes::new();
    for (number, port) in &service.ports {
        let split = scene
            .split(&service.name, *number)
            .filter(|_| port.protocol != Protocol::Http);
        for facet in scene.facets(service, *number) {
            let key = (*number, facet);
            let known = candidates(old, &wholes, &key);
            let pairs: Vec<&Pair> = known.iter().map(|whole| &whole.pair).collect();
            let whole = whole(scene, service, &key, port.protocol, split, &pairs);
            wholes.insert(key, whole);
        }
    }
    wholes
}

/// On ports that are no HTTP, a split shifts weight in the endpoints of this one cluster.
fn whole(
    scene: &Scene<'_>,
    service: &Service,
    (port, facet): &OutPort,
    protocol: Protocol,
    split: Option<&Arc<Split>>,
    old: &[&Pair],
) -> Whole {
    let (name, port) = (&service.name, *port);
    let caller = Caller::of(service, facet);
    let own = scene.reached(name, port, None, caller);
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
                    Target::Service(name) => scene.reached(name, port, None, caller),
                    Target::Labels(labels) => scene.reached(name, port, Some(labels), caller),
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
        service: name.clone(),
        split: split.map(|split| split.object.clone()),
    };
    let cluster = out_name(name, port, facet.family);
    let how = (alpn(protocol), service.sticky);
    Whole {
        pair: Pair::new(cluster, identities, how, groups, origins, old),
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
    for (number, port) in &service.ports {
        for facet in scene.facets(service, *number) {
            let called = Caller::of(service, &facet).family;
            let pair = |name: &NamespacedName| {
                let backend = scene.endpoints.world.services.get(name)?;
                let family = backend.if_second(called);
                let node = facet.node.as_ref();
                let whole = for_node(wholes(name)?, *number, family, node)?;
                Some(whole.pair.clone())
            };
            let Some(own) = pair(&service.name) else {
                continue;
            };
            let key = (*number, facet.clone());
            let old = candidates(old, &sides, &key);
            let side = match (port.protocol, scene.split(&service.name, *number)) {
                (Protocol::Http, Some(split)) => {
                    divided(scene, service, &key, split, own, pair, &old)
                }
                (Protocol::Http | Protocol::Detect | Protocol::Tcp, _) => {
                    undivided(own, port.protocol, &old)
                }
            };
            let side = kept(old.into_iter(), side);
            sides.insert(key, side);
        }
    }
    sides
}

fn undivided(own: Pair, protocol: Protocol, old: &[&Arc<ClientSide>]) -> ClientSide {
    let route = match protocol {
        Protocol::Http => {
            let route = RouteRecipe {
                name: Arc::clone(own.name()),
                targets: vec![(Arc::clone(own.name()), 1)],
                clusters: vec![Arc::clone(own.name())],
                sticky: own.sticky(),
                origins: own.endpoints.recipe().origins.clone(),
            };
            Some(kept_route(route, old))
        }
        // Bytes go to the cluster; a split has its weights in the endpoints.
        Protocol::Tcp | Protocol::Detect => None,
    };
    ClientSide::new(vec![own], route)
}

/// HTTP: the weights are in the route, each backend is a cluster of its own.
fn divided(
    scene: &Scene<'_>,
    service: &Service,
    key: &OutPort,
    split: &Split,
    own: Pair,
    whole: impl Fn(&NamespacedName) -> Option<Pair>,
    old: &[&Arc<ClientSide>],
) -> ClientSide {
    let name = Arc::clone(own.name());
    // The service as a whole stays known beside its parts: what was under way when the split came goes on.
    let mut pairs = vec![own];
    let (mut targets, mut clusters) = (Vec::new(), Vec::new());
    let mut sticky = false;
    for (index, share) in split.shares.iter().enumerate() {
        let pair = match &share.target {
            Target::Service(name) => whole(name),
            Target::Labels(labels) => Some(subset(scene, service, key, split, index, labels, old)),
        };
        // A backend service is there, or the split would not be in force; else nothing can be sent to it.
        let Some(pair) = pair else { continue };
        sticky |= pair.sticky();
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
        sticky,
        origins: Origins {
            service: service.name.clone(),
            split: Some(split.object.clone()),
        },
    };
    ClientSide::new(pairs, Some(kept_route(route, old)))
}

fn kept_route(route: RouteRecipe, old: &[&Arc<ClientSide>]) -> Arc<Lazy<RouteRecipe>> {
    let old = old.iter().filter_map(|old| old.route.as_ref());
    kept(old, Lazy::new(route))
}

fn subset(
    scene: &Scene<'_>,
    service: &Service,
    (port, facet): &OutPort,
    split: &Split,
    index: usize,
    labels: &Labels,
    old: &[&Arc<ClientSide>],
) -> Pair {
    let name = subset_name(&service.name, *port, &split.object, index, facet.family);
    let caller = Caller::of(service, facet);
    let there = scene.reached(&service.name, *port, Some(labels), caller);
    let groups = vec![Group {
        weight: 1,
        backends: there.backends,
    }];
    let origins = Origins {
        service: service.name.clone(),
        split: Some(split.object.clone()),
    };
    let old = old.iter().flat_map(|old| &old.pairs);
    let old: Vec<&Pair> = old.filter(|pair| *pair.name() == name).collect();
    let how = (Alpn::Http, service.sticky);
    Pair::new(name, there.identities, how, groups, origins, &old)
}
