//! The client's side of a service: clusters, endpoints, routes. The caller's identity is not an input.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use super::cluster_inputs::ClusterInputs;
use super::facet::{Caller, Facet, OutPort, for_caller};
use super::memo::{Lazy, Shared};
use super::routes;
use super::rule_upstreams::{Place, for_requests, governed, mirror, of_consumers, subset};
use super::server_names::{NamedCluster, named};
use super::upstreams::{ClusterAndEndpoints, KnownClusters, ServiceCluster};
use crate::called_server::CalledServer;
use crate::envoy::otlp::COLLECTOR;
use crate::envoy::shared_limits::LIMITER;
use crate::kinds::policies::traffic_policy::Resent;
use crate::resource::{Part, Resource};
use crate::traffic::{Backend, Purpose, RouteEntry, RouteTable, TableUpstream, Upstream};
use crate::world::{NamespacedName, Port, Protocol, Service};

/// The client's side of one port of one service.
#[derive(Debug)]
pub(crate) struct OutboundPort {
    /// Clusters with their endpoints: the service's own first, then the backends of rules.
    pairs: Vec<ClusterAndEndpoints>,
    route: Option<Arc<Lazy<RouteTable>>>,
    sticky: bool,
    /// The clusters by server names of TLS. None: all connections of bytes go to the first cluster.
    named: Option<Arc<[NamedCluster]>>,
    part: OnceLock<Arc<Part>>,
    called: OnceLock<Arc<Part>>,
}

impl OutboundPort {
    fn new(
        service: &Service,
        pairs: Vec<ClusterAndEndpoints>,
        route: Option<Arc<Lazy<RouteTable>>>,
    ) -> Self {
        Self {
            pairs,
            route,
            sticky: service.sticky,
            named: None,
            part: OnceLock::new(),
            called: OnceLock::new(),
        }
    }

    /// The client's side of a port of bytes. A split has its weights in the endpoints.
    fn of_bytes(
        service: &Service,
        own: ClusterAndEndpoints,
        named: Option<(Vec<ClusterAndEndpoints>, Arc<[NamedCluster]>)>,
    ) -> Self {
        let (pairs, named) = named.unzip();
        let pairs = [own].into_iter().chain(pairs.unwrap_or_default());
        Self {
            named,
            ..Self::new(service, pairs.collect(), None)
        }
    }

    /// Everything, backends of rules included.
    pub(crate) fn part(&self) -> Arc<Part> {
        let make = || {
            let mut resources: Vec<Arc<Resource>> = Vec::new();
            for pair in &self.pairs {
                resources.extend(pair.resources());
            }
            resources.extend(self.route.as_ref().map(|route| route.resource()));
            Arc::new(Part { resources })
        };
        Arc::clone(self.part.get_or_init(make))
    }

    /// The clusters in which sidecars call the service themselves. No listener leads there, so that no sidecar asks for routes.
    pub(crate) fn called_part(&self) -> Arc<Part> {
        let make = || {
            let pairs = self.pairs.iter();
            let called = pairs.filter(|pair| [COLLECTOR, LIMITER].contains(&&**pair.name()));
            let resources = called.flat_map(ClusterAndEndpoints::resources).collect();
            Arc::new(Part { resources })
        };
        Arc::clone(self.called.get_or_init(make))
    }

    /// Returns the old and the new parts, if one of the old was ever used and only content differs: the same resources, reached in the same
    /// way.
    pub(crate) fn replaces(&self, old: &Self) -> Option<Vec<(Arc<Part>, Arc<Part>)>> {
        let alike = self.clusters().eq(old.clusters())
            && self.route() == old.route()
            && self.named == old.named;
        let used = old.part.get().is_some() || old.called.get().is_some();
        // Both, because a view that is computed meanwhile may take the other.
        let replaced = || {
            let called = (old.called_part(), self.called_part());
            let called = Some(called).filter(|(old, _)| !old.resources.is_empty());
            let part = (old.part(), self.part());
            [part].into_iter().chain(called).collect()
        };
        (alike && used).then(replaced)
    }

    /// The rules, where HTTP is spoken.
    pub(crate) fn table(&self) -> Option<&RouteTable> {
        self.route.as_ref().map(|route| route.recipe())
    }

    /// The route configuration, where HTTP is spoken.
    pub(crate) fn route(&self) -> Option<&Arc<str>> {
        self.route.as_ref().map(|route| &route.recipe().name)
    }

    /// The cluster of connections that are not HTTP.
    pub(crate) fn cluster(&self) -> Option<&Arc<str>> {
        self.pairs.first().map(ClusterAndEndpoints::name)
    }

    /// The clusters by server names of TLS. None: all connections of bytes go to the first cluster.
    pub(crate) const fn named(&self) -> Option<&Arc<[NamedCluster]>> {
        self.named.as_ref()
    }

    /// Whether connections of bytes to that cluster go to an endpoint by the client's address, as the service demands. A policy changes
    /// nothing of it, for the listener decides it.
    pub(crate) const fn sticky(&self) -> bool {
        self.sticky
    }

    /// The upstream with a name.
    pub(crate) fn upstream(&self, name: &str) -> Option<&Upstream> {
        let mut pairs = self.pairs.iter().map(ClusterAndEndpoints::upstream);
        pairs.find(|upstream| &*upstream.name == name)
    }

    /// Its parts, by identity: equal ones are shared.
    fn shared_parts(&self) -> SharedParts {
        let pairs = self.pairs.iter().map(ClusterAndEndpoints::identity);
        let route = self.route.as_ref().map(|route| Arc::as_ptr(route).cast());
        (pairs.collect(), route, self.sticky, self.named.clone())
    }

    /// All clusters that calls may go to.
    pub(crate) fn clusters(&self) -> impl Iterator<Item = &Arc<str>> {
        self.pairs.iter().map(ClusterAndEndpoints::name)
    }
}

/// The client's side of a service by port and callers. A headless one has none: its callers dial pods.
pub(crate) type OutboundService = BTreeMap<OutPort, Arc<OutboundPort>>;

/// The parts of the client side of a service that a port has, by identity: equal parts are shared.
type SharedParts = (
    Vec<[*const (); 2]>,
    Option<*const ()>,
    bool,
    Option<Arc<[NamedCluster]>>,
);

/// The parts of the last compile of the client side of a service, and those that this compile has made.
#[derive(Default)]
struct KnownSides {
    clusters: KnownClusters,
    routes: Shared<Lazy<RouteTable>>,
    sides: BTreeMap<SharedParts, Arc<OutboundPort>>,
}

impl KnownSides {
    fn of(old: Option<&OutboundService>) -> Self {
        let old = || old.into_iter().flat_map(OutboundService::values);
        let mut known = Self {
            clusters: KnownClusters::of(old().flat_map(|side| &side.pairs)),
            ..Self::default()
        };
        for side in old() {
            side.route.iter().for_each(|route| known.routes.add(route));
            let parts = side.shared_parts();
            known.sides.entry(parts).or_insert_with(|| Arc::clone(side));
        }
        known
    }

    /// Returns the known port with the same parts, or this one.
    fn shared(&mut self, side: OutboundPort) -> Arc<OutboundPort> {
        let shared = self.sides.entry(side.shared_parts());
        Arc::clone(shared.or_insert_with(|| Arc::new(side)))
    }
}

/// Compiles the client side of a service.
pub(crate) fn client_sides(
    scene: &ClusterInputs<'_>,
    service: &Service,
    old: Option<&OutboundService>,
) -> OutboundService {
    let mut sides = OutboundService::new();
    let mut known = KnownSides::of(old);
    if service.headless {
        return sides;
    }
    for (number, port) in &service.ports {
        for (callers, rules) in scene.rules_of_requests(&service.name, port) {
            for facet in scene.facets(service, *number, &rules, callers) {
                let key = (*number, facet);
                if let Some(side) = client_side(scene, service, &key, &rules, &mut known) {
                    sides.insert(key, known.shared(side));
                }
            }
        }
    }
    sides
}

/// Compiles a port for some callers, given the rules that they have.
fn client_side(
    scene: &ClusterInputs<'_>,
    service: &Service,
    key: &OutPort,
    rules: &[&RouteEntry],
    known: &mut KnownSides,
) -> Option<OutboundPort> {
    let (number, facet) = key;
    let called = Caller::of(service, facet).family;
    let of_callers = |name: &NamespacedName, port: Port, namespace: Option<&Arc<str>>| {
        let backend = scene.recorder.service(name)?;
        let caller = Facet {
            family: backend.if_second(called),
            node: facet.node.clone(),
            namespace: namespace.cloned(),
            bypassed: facet.bypassed,
        };
        let whole = for_caller(scene.wholes(name)?, port, &caller)?;
        Some(whole)
    };
    // The rules for connections of a namespace are for calls of the service itself.
    let own = of_callers(&service.name, *number, facet.namespace.as_ref())?;
    let own = own.pair.clone();
    let whole = |name: &NamespacedName, port: Port| of_callers(name, port, None);
    let called = called_by_sidecars(scene, service, key, &own, &mut known.clusters);
    let mut side = match service.ports.get(number)?.protocol {
        Protocol::Http => routed(scene, service, key, own, rules, whole, known),
        Protocol::Detect | Protocol::Tcp => {
            let named = named(scene, service, key, rules, &mut known.clusters);
            OutboundPort::of_bytes(service, own, named)
        }
    };
    side.pairs.extend(called);
    Some(side)
}

/// The endpoints of a service in the clusters that sidecars call themselves: to which tracers send spans, and in which they ask for shared
/// limits. They use the first family of the service.
fn called_by_sidecars(
    scene: &ClusterInputs<'_>,
    service: &Service,
    (port, facet): &OutPort,
    own: &ClusterAndEndpoints,
    known: &mut KnownClusters,
) -> Vec<ClusterAndEndpoints> {
    let is = |server: &Option<CalledServer>| {
        let server = server.as_ref().filter(|_| facet.family.is_none());
        server.is_some_and(|of| of.is(&service.name, *port))
    };
    let mut called = Vec::new();
    if is(&scene.settings.collector) {
        let reports = own.under(COLLECTOR.into(), None, known, |upstream| {
            (upstream.policy, upstream.purpose) = (None, Purpose::Reports);
        });
        called.push(reports);
    }
    if is(&scene.settings.limiter) {
        let questions = own.under(LIMITER.into(), None, known, |upstream| {
            upstream.purpose = Purpose::Questions;
        });
        called.push(questions);
    }
    called
}

/// The clusters of the mirrors of rules, each backend once.
fn mirrors<'a>(
    scene: &ClusterInputs<'_>,
    service: &Service,
    key: &OutPort,
    rules: &[&RouteEntry],
    whole: impl Fn(&NamespacedName, Port) -> Option<&'a ServiceCluster>,
    known: &mut KnownClusters,
) -> BTreeMap<Backend, ClusterAndEndpoints> {
    let mut found = BTreeMap::new();
    for rule in rules.iter().map(|entry| &*entry.rule) {
        for (index, of) in rule.mirrors().iter().enumerate() {
            if found.contains_key(&of.backend) {
                continue;
            }
            let place = Place::of(rule, index);
            let pair = match &of.backend {
                Backend::Service(name, port) => whole(name, *port).map(|whole| {
                    let backend = ((name, *port), whole);
                    for_requests(scene, service, key, place, backend, known)
                }),
                Backend::Subset(_, _, labels) => {
                    let place = (place, None);
                    Some(subset(scene, service, key, place, labels, known))
                }
                Backend::Invalid(_) => None,
            };
            let Some(pair) = pair else { continue };
            let pair = mirror(service, key, place, &pair, known);
            found.insert(of.backend.clone(), pair);
        }
    }
    found
}

fn as_upstreams(
    pairs: &BTreeMap<Backend, ClusterAndEndpoints>,
) -> BTreeMap<Backend, TableUpstream> {
    let pairs = pairs.iter();
    pairs
        .map(|(backend, pair)| (backend.clone(), pair.as_upstream()))
        .collect()
}

/// The port with a route table, which is a known one if that is equal.
fn with_route(
    service: &Service,
    pairs: Vec<ClusterAndEndpoints>,
    table: Option<RouteTable>,
    known: &mut Shared<Lazy<RouteTable>>,
) -> OutboundPort {
    let route = table.map(|table| known.of(Lazy::new(table)));
    OutboundPort::new(service, pairs, route)
}

/// The cluster of a backend, and its place in the route table. None: nothing can be sent to it.
fn of_backend<'a>(
    scene: &ClusterInputs<'_>,
    (service, key): (&Service, &OutPort),
    at: (Place<'_>, Option<&Resent<'_>>),
    backend: &Backend,
    whole: impl Fn(&NamespacedName, Port) -> Option<&'a ServiceCluster>,
    known: &mut KnownClusters,
) -> Option<(ClusterAndEndpoints, TableUpstream)> {
    let (pair, protocol) = match backend {
        Backend::Service(name, port) => {
            let whole = whole(name, *port)?;
            let pair = governed(scene, service, key, at, ((name, *port), whole), known);
            (pair, whole.protocol)
        }
        Backend::Subset(.., of) => {
            let pair = subset(scene, service, key, at, of, known);
            (pair, Protocol::Http)
        }
        Backend::Invalid(_) => return None,
    };
    let upstream = pair.as_upstream();
    // Servers that read bytes leave the mark of a request without a receiver in the answers of the application.
    let meshed = upstream.meshed && protocol == Protocol::Http;
    Some((pair, TableUpstream { meshed, ..upstream }))
}

/// HTTP: the weights are in the route, each backend is a cluster of its own.
fn routed<'a>(
    scene: &ClusterInputs<'_>,
    service: &Service,
    key: &OutPort,
    own: ClusterAndEndpoints,
    rules: &[&RouteEntry],
    whole: impl Fn(&NamespacedName, Port) -> Option<&'a ServiceCluster>,
    known: &mut KnownSides,
) -> OutboundPort {
    let (known, known_routes) = (&mut known.clusters, &mut known.routes);
    // The service as a whole stays in the part beside its backends: requests that began before the rules go on.
    let mut names = BTreeSet::from([Arc::clone(own.name())]);
    let mut pairs = vec![own];
    let mut upstreams = BTreeMap::<Backend, TableUpstream>::new();
    let policy = scene.policy_for(&key.1, &service.name, key.0, Protocol::Http);
    let of_rules = scene.rule_policies(rules);
    let resent = of_rules.resent(rules, &policy);
    let mut ready = BTreeSet::new();
    for entry in rules {
        for (index, backend) in entry.rule.backends().enumerate() {
            if upstreams.contains_key(backend) {
                continue;
            }
            let at = (Place::of(&entry.rule, index), resent.get(&backend));
            let found = of_backend(scene, (service, key), at, backend, &whole, known);
            let Some((pair, upstream)) = found else {
                continue;
            };
            upstreams.insert(backend.clone(), upstream);
            ready.extend(pair.is_ready().then(|| backend.clone()));
            // The service itself can be one of its backends.
            if names.insert(Arc::clone(pair.name())) {
                pairs.push(pair);
            }
        }
    }
    let otherwise = scene.otherwise_for(&key.1, &service.name, key.0);
    let (name, port) = (&service.name, key.0);
    let itself = Backend::Service(name.clone(), port);
    let is_needed = routes::leaves_some(rules, otherwise) && !upstreams.contains_key(&itself);
    let whole_service = whole(name, port).filter(|_| is_needed);
    if let Some(pair) = whole_service.and_then(|of| of_consumers(scene, service, key, of, known)) {
        upstreams.insert(itself, pair.as_upstream());
        pairs.push(pair);
    }
    let mirrors = mirrors(scene, service, key, rules, &whole, known);
    let table = pairs.first().map(|own| {
        let rules = (rules, otherwise);
        let mut table = routes::table((name, port), own, rules, upstreams, &ready);
        table.mirrors = as_upstreams(&mirrors);
        routes::with_policy(table, &policy, &of_rules)
    });
    pairs.extend(mirrors.into_values());
    with_route(service, pairs, table, known_routes)
}
