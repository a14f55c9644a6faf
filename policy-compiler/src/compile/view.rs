//! The view of one proxy: parts, chosen by its scope.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use super::applications::application;
use super::clusters::OutboundPort;
use super::egress::{Egress, external_cluster, external_port};
use super::limiter;
use super::listeners::{ListenerBinding, ListenerInput, ListenerTarget, destination_listener};
use super::on_demand::{OnDemandInput, OnDemandTarget, on_demand_address, on_demand_cluster};
use super::pods::{
    Called, PodClusterInput, PodEndpointsInput, PodGroup, pod_cluster, pod_endpoints,
};
use super::resolved::{DestinationTarget, ResolvedDestination};
use super::scope::{Destination, DestinationKind, Family, Scope};
use super::telemetry::runtime_layer;
use super::{Compiled, Proxy};
use crate::dependency::Dependency;
use crate::finding::ObjectRef;
use crate::resource::{Part, ResourceKey, View};
use crate::world::{
    Capture, DeclaredDestination, NamespacedName, Port, Protocol, Standalone, in_namespace,
};

/// Names the parts of a view, in the order in which they stand in it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum PartKey {
    Server,
    Application(Port),
    Capture,
    External(Port),
    ExternalCluster(Arc<str>),
    Service(NamespacedName, Port, Option<Family>),
    PodCluster(PodGroup),
    PodEndpoints(PodGroup),
    Listener(SocketAddr),
    OnDemand(Arc<str>),
    Runtime,
    Collector,
    Limiter,
}

/// Collects the parts of a view.
struct ViewBuilder<'a> {
    compiled: &'a Compiled,
    proxy: &'a Proxy,
    parts: BTreeMap<PartKey, Arc<Part>>,
    /// The pods that are called by their own addresses.
    pods: BTreeMap<PodGroup, Called>,
    absent: BTreeSet<Arc<str>>,
    depends: BTreeSet<Dependency>,
    /// The objects by which the proxy traces.
    traces: Option<&'a BTreeSet<ObjectRef>>,
}

impl Compiled {
    /// Returns the view of a proxy with this scope. `None`: there is no such meshed pod.
    #[must_use]
    pub fn view(&self, pod: &crate::world::PodRef, scope: &Scope<'_>) -> Option<View> {
        let proxy = self.proxies.get(pod)?;
        let served = self.compiled_template(&proxy.template)?;
        let server = served.config.part(&self.shared.interner);
        let mut builder = ViewBuilder {
            compiled: self,
            proxy,
            parts: BTreeMap::from([(PartKey::Server, server)]),
            pods: BTreeMap::new(),
            absent: BTreeSet::new(),
            depends: BTreeSet::from([Dependency::Pod(pod.clone())]),
            traces: served.runtime.traces.as_ref(),
        };
        for input in served.applications() {
            let key = PartKey::Application(input.port);
            let part = self.shared.applications.of(input, application);
            builder.parts.insert(key, part);
        }
        let tapped = scope.tapped.then(|| served.runtime.tapped());
        let runtime = tapped.as_ref().unwrap_or(&served.runtime);
        if runtime.has_values() {
            let part = self.shared.runtimes.of(runtime.clone(), runtime_layer);
            builder.parts.insert(PartKey::Runtime, part);
        }
        if served.runtime.reports {
            builder.collector();
        }
        if limiter::asks(&served.config.input) {
            builder.limiter();
        }
        match &proxy.template.capture {
            Capture::Redirect => builder.captured(scope),
            Capture::Standalone(standalone) => builder.standalone(standalone, scope),
        }
        Some(View {
            parts: builder.parts.into_values().collect(),
            absent: builder.absent,
            depends: builder.depends,
        })
    }
}

impl<'a> ViewBuilder<'a> {
    fn egress(&self) -> Option<&'a Egress> {
        let egress = self.compiled.egress(&self.proxy.template.namespace);
        egress.map(|egress| &**egress)
    }

    /// Adds the cluster to which the tracers of the listeners send spans, and their loggers records.
    fn collector(&mut self) {
        let service = self.called_service(self.compiled.collector_service());
        let host = || (PartKey::Collector, self.compiled.collector_host());
        let (key, part) = service.unwrap_or_else(host);
        self.parts.insert(key, part);
    }

    /// Adds the cluster in which the sidecar asks for shared limits.
    fn limiter(&mut self) {
        let service = self.called_service(self.compiled.limiter_service());
        let host = || (PartKey::Limiter, self.compiled.limiter_host());
        let (key, part) = service.unwrap_or_else(host);
        self.parts.insert(key, part);
    }

    /// The client side of a service that sidecars call themselves. None: it is not there.
    fn called_service(
        &mut self,
        service: Option<(&NamespacedName, Port)>,
    ) -> Option<(PartKey, Arc<Part>)> {
        let (name, port) = service?;
        self.depends.insert(Dependency::Service(name.clone()));
        let caller = self.compiled.facet(self.proxy, None);
        let side = self.compiled.client_side(name, port, &caller)?;
        // With the part of a destination in scope, that takes its place.
        let key = PartKey::Service(name.clone(), port, None);
        Some((key, side.called_part()))
    }

    fn captured(&mut self, scope: &Scope<'_>) {
        self.parts.insert(PartKey::Capture, self.compiled.capture());
        self.external();
        self.declared();
        for destination in scope.active {
            if let Some((at, resolved)) = self.find(destination)
                && self.compiled.in_scope(self.proxy, &resolved)
            {
                self.destination(at, ListenerBinding::Captured, &resolved);
            }
        }
        for destination in scope.draining {
            if let Some((at, resolved)) = self.find(destination) {
                let denied = self.denied(&resolved);
                self.behind(at, &resolved, denied);
            }
        }
        let mut others = Vec::new();
        for name in scope.granted {
            match on_demand_address(name) {
                Some(at) => self.answer(name, at, scope.retired.contains(name)),
                None => others.push(name),
            }
        }
        self.called_pods();
        for name in others {
            match self.egress().and_then(|egress| egress.host(name)) {
                Some(host) => {
                    let clusters = &self.compiled.shared.external_clusters;
                    let part = clusters.of(host.clone(), external_cluster);
                    let key = PartKey::ExternalCluster(Arc::clone(name));
                    self.parts.insert(key, part);
                }
                None => self.not_on_demand(name),
            }
        }
        self.absent.extend(scope.denied.iter().cloned());
    }

    /// The listeners of the ports at which hosts outside the mesh are called by name, and their routes.
    fn external(&mut self) {
        let namespace = Arc::clone(&self.proxy.template.namespace);
        self.depends.extend([
            Dependency::Egress(Some(namespace)),
            Dependency::Egress(None),
        ]);
        let ports = self.egress().into_iter().flat_map(Egress::ports);
        let ports = ports.map(|(number, port)| {
            let parts = &self.compiled.shared.external_ports;
            let part = parts.of(Arc::clone(port), external_port);
            (PartKey::External(number), part)
        });
        self.parts.extend(ports);
    }

    /// Whether a listener of hosts outside the mesh accepts connections to an address too.
    fn takes_requests(&self, at: SocketAddr) -> bool {
        self.egress()
            .is_some_and(|egress| egress.carries_requests(at.port()))
    }

    /// The clusters of the pods that are called, once all of those are known.
    fn called_pods(&mut self) {
        let shared = &self.compiled.shared;
        let trust_domain = &self.compiled.settings.trust_domain;
        for (group, called) in std::mem::take(&mut self.pods) {
            let cluster = PodClusterInput::new(&group, &called, trust_domain);
            let endpoints = PodEndpointsInput::new(&group, called);
            let cluster = shared.pod_clusters.of(cluster, pod_cluster);
            let endpoints = shared.pod_endpoints.of(endpoints, pod_endpoints);
            self.parts
                .insert(PartKey::PodCluster(group.clone()), cluster);
            self.parts.insert(PartKey::PodEndpoints(group), endpoints);
        }
    }

    /// Without capture all destinations are declared, with the addresses to listen at.
    fn standalone(&mut self, standalone: &Standalone, scope: &Scope<'_>) {
        for ((name, port), at) in &standalone.upstreams {
            self.depends.insert(Dependency::Service(name.clone()));
            if let Some(resolved) = self.compiled.resolve_service(name, *port) {
                self.destination(*at, ListenerBinding::OwnSocket, &resolved);
            }
        }
        for name in scope.granted {
            self.not_on_demand(name);
        }
        self.absent.extend(scope.denied.iter().cloned());
    }

    fn not_on_demand(&mut self, name: &Arc<str>) {
        let mut resources = self.parts.values().flat_map(|part| &part.resources);
        if !resources.any(|resource| resource.key.name == *name) {
            self.absent.insert(Arc::clone(name));
        }
    }

    /// Adds the declared destinations: they are in the view from the start.
    fn declared(&mut self) {
        let compiled = self.compiled;
        for entry in compiled.declarations(self.proxy) {
            match &entry {
                DeclaredDestination::Service(name, port) => self.declared_service(name, *port),
                DeclaredDestination::Namespace(namespace) => {
                    self.depends
                        .insert(Dependency::Namespace(Arc::clone(namespace)));
                    for (name, _) in in_namespace(&compiled.world.services, namespace) {
                        self.declared_service(name, None);
                    }
                }
            }
        }
    }

    fn declared_service(&mut self, name: &NamespacedName, port: Option<Port>) {
        self.depends.insert(Dependency::Service(name.clone()));
        let compiled = self.compiled;
        let Some(service) = compiled.world.services.get(name) else {
            return;
        };
        // Headless services have no address: their pods are told when they are dialled.
        for ip in &service.cluster_ips {
            for number in service
                .ports
                .keys()
                .filter(|n| port.is_none_or(|p| p == **n))
            {
                let at = SocketAddr::new(*ip, number.get());
                self.depends.insert(Dependency::Address(*ip));
                if let Some(resolved) = compiled.resolve(at) {
                    self.destination(at, ListenerBinding::Captured, &resolved);
                }
            }
        }
    }

    /// Where a destination is now.
    fn find(&mut self, destination: &Destination) -> Option<(SocketAddr, ResolvedDestination)> {
        let (world, name) = (&self.compiled.world, &destination.name);
        let ips = match destination.kind {
            DestinationKind::Service => {
                self.depends.insert(Dependency::Service(name.clone()));
                world.services.get(name).map(|s| &s.cluster_ips[..])
            }
            DestinationKind::Pod => world.pods.get(name).map(|w| &w.ips[..]),
        };
        let ips = ips.unwrap_or_default().iter();
        self.depends.extend(ips.map(|ip| Dependency::Address(*ip)));
        let found = self.compiled.locate(destination);
        if found.is_none() && destination.kind == DestinationKind::Pod {
            // It may come, or a service may come that leads there.
            self.depends.extend([
                Dependency::Pod(name.clone()),
                Dependency::Namespace(Arc::clone(&name.namespace)),
            ]);
        }
        found
    }

    fn answer(&mut self, name: &Arc<str>, at: SocketAddr, retired: bool) {
        self.depends.insert(Dependency::Address(at.ip()));
        let Some(resolved) = self.compiled.resolve(at) else {
            if let Some(pod) = self.compiled.addresses.pod(at.ip()) {
                // A service may come that leads to this port of it.
                self.depends
                    .insert(Dependency::Namespace(Arc::clone(&pod.namespace)));
            }
            self.unknown(name, at);
            return;
        };
        let after = if self.compiled.in_scope(self.proxy, &resolved) {
            self.destination(at, ListenerBinding::Captured, &resolved)
        } else {
            self.depends.extend(resolved.depends(at));
            None
        };
        let target = match after {
            // Requests of a connection that is open name the cluster for as long as it is.
            Some(_) if retired && !self.takes_requests(at) => {
                self.absent.insert(Arc::clone(name));
                return;
            }
            Some(after) => OnDemandTarget::SameAddress { after },
            None => OnDemandTarget::Refuse,
        };
        self.on_demand(name, at, target, resolved.origins());
    }

    /// An address that is neither a service's nor a pod's.
    fn unknown(&mut self, name: &Arc<str>, at: SocketAddr) {
        let (target, origins) = self.compiled.unknown_address(self.proxy, at);
        self.on_demand(name, at, target, origins);
    }

    fn on_demand(
        &mut self,
        name: &Arc<str>,
        at: SocketAddr,
        target: OnDemandTarget,
        origins: BTreeSet<ObjectRef>,
    ) {
        let input = OnDemandInput {
            name: Arc::clone(name),
            at,
            target,
            requests: self.takes_requests(at),
            origins,
        };
        let part = self.compiled.shared.on_demand.of(input, on_demand_cluster);
        self.parts.insert(PartKey::OnDemand(Arc::clone(name)), part);
    }

    /// Adds the listener of a destination and the resources behind it. Returns all that must be acknowledged before the first
    /// connection. `None`: the service has no such port.
    fn destination(
        &mut self,
        at: SocketAddr,
        binding: ListenerBinding,
        resolved: &ResolvedDestination,
    ) -> Option<Vec<ResourceKey>> {
        let denied = self.denied(resolved);
        let mut after = self.behind(at, resolved, denied);
        let input = self.listener(at, binding, resolved, denied)?;
        let shared = &self.compiled.shared;
        let part = shared.listeners.of(input, destination_listener);
        after.extend(part.resources.iter().map(|resource| resource.key.clone()));
        self.parts.insert(PartKey::Listener(at), part);
        after.sort();
        after.dedup();
        Some(after)
    }

    /// Adds the resources behind a destination's listener, and returns their keys. A denied destination has none.
    fn behind(
        &mut self,
        at: SocketAddr,
        resolved: &ResolvedDestination,
        denied: bool,
    ) -> Vec<ResourceKey> {
        self.depends.extend(resolved.depends(at));
        if denied {
            return Vec::new();
        }
        match &resolved.target {
            DestinationTarget::ServicePort { second_family } => {
                let Some(side) = self.client_side(resolved, *second_family) else {
                    return Vec::new();
                };
                let part = side.part();
                let keys = part.resources.iter().map(|resource| resource.key.clone());
                let keys = keys.collect();
                let Destination { name, port, .. } = &resolved.destination;
                let key = PartKey::Service(name.clone(), *port, *second_family);
                self.parts.insert(key, part);
                keys
            }
            DestinationTarget::Pod { group, .. } => {
                let called = self.pods.entry(group.clone()).or_default();
                called.addresses.insert(at);
                called.origins.extend(resolved.origins());
                group.keys()
            }
        }
    }

    fn client_side(
        &self,
        resolved: &ResolvedDestination,
        second_family: Option<Family>,
    ) -> Option<&Arc<OutboundPort>> {
        let Destination { name, port, .. } = &resolved.destination;
        let caller = self.compiled.facet(self.proxy, second_family);
        self.compiled.client_side(name, *port, &caller)
    }

    fn listener(
        &self,
        at: SocketAddr,
        binding: ListenerBinding,
        resolved: &ResolvedDestination,
        denied: bool,
    ) -> Option<ListenerInput> {
        let target = match &resolved.target {
            DestinationTarget::ServicePort { second_family } => {
                let side = self.client_side(resolved, *second_family)?;
                match denied {
                    true => ListenerTarget::Denied,
                    false => ListenerTarget::Service {
                        cluster: Arc::clone(side.cluster()?),
                        route: side.route().cloned(),
                        sticky: side.sticky(),
                        named: side.named().cloned(),
                    },
                }
            }
            DestinationTarget::Pod { .. } if denied => ListenerTarget::Denied,
            DestinationTarget::Pod { group, .. } => ListenerTarget::Pod {
                cluster: group.cluster_name(),
                is_meshed: group.is_meshed(),
            },
        };
        let service = resolved.services().map(|(name, _)| &name.name).min();
        // Readers of metrics are not users.
        let http = resolved.protocol == Protocol::Http && at.port() != Port::METRICS.get();
        let traces = self.traces.filter(|_| http);
        let mut origins = resolved.origins();
        origins.extend(traces.into_iter().flatten().cloned());
        Some(ListenerInput {
            at,
            binding,
            protocol: resolved.protocol,
            target,
            namespace: Arc::clone(&resolved.destination.name.namespace),
            service: service.cloned(),
            line_format: self.compiled.settings.line_format,
            spans: traces.map(|_| Arc::clone(&self.compiled.settings.span_tags)),
            origins,
        })
    }

    /// Returns whether all pods there deny this caller, or only plain text could be sent and is not allowed.
    fn denied(&self, resolved: &ResolvedDestination) -> bool {
        match &resolved.target {
            DestinationTarget::ServicePort { .. } => {
                let Destination { name, port, .. } = &resolved.destination;
                self.compiled.refuses(self.proxy, name, *port)
            }
            DestinationTarget::Pod { group, services } => {
                let mut services = services.iter();
                !group.is_meshed()
                    && !self.compiled.bypasses(&self.proxy.template.namespace)
                    && !services.any(|(name, _)| self.compiled.settings.sends_plain(name))
            }
        }
    }
}
