//! Which endpoints of a service take traffic, and which of those have a sidecar.
//!
//! One rule for each way in which a slice names an address:
//! - A `targetRef` to a pod of the slice's namespace: that pod decides. While it is not known, has ended, or has another address, nothing is
//!   sent there, for the slice may be outdated or false. Nor if the pod has no sidecar and shares the address with one that has.
//! - No such `targetRef` (slices made by hand or mirrored): the living pod at the address decides. No pod has it: an address outside the
//!   mesh, plain text. Several have it: plain text only if none of them has a sidecar (pods of the host's network), else nothing.
//!
//! A terminating pod is alive until its containers have ended; at an address of two pods the one that stays counts.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::addresses::{Addresses, PodsAt};
use super::facet::{Caller, Node};
use super::inputs::{Reads, UnitInput};
use crate::settings::Settings;
use crate::traffic::{EndpointGroup, UpstreamHost};
use crate::world::{
    Endpoint, EndpointsByPort, Family, Labels, NamespacedName, Pod, PodTemplate, Port, Service,
    SpiffeId, World, selects,
};

/// How many endpoints there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Readiness {
    pub(crate) ready: usize,
    pub(crate) all: usize,
}

/// The objects and addresses by which endpoints are resolved. The pods and addresses belong to the input `Endpoints` of the service.
#[derive(Clone, Copy)]
pub(crate) struct EndpointInputs<'a> {
    reads: &'a Reads,
    world: &'a World,
    addresses: &'a Addresses,
}

/// The owner of an endpoint's address.
#[derive(Clone, Copy)]
enum Owner<'a> {
    Pod(&'a Pod),
    /// No pod of the cluster, or pods of the host's network.
    Outside,
    /// Not known yet, or gone.
    Unknown,
    /// The slice names this pod, which has other addresses, or shares this one with a pod that has a sidecar.
    Misnamed(&'a Pod),
}

impl<'a> Owner<'a> {
    fn pod(self) -> Option<&'a Pod> {
        match self {
            Self::Pod(pod) => Some(pod),
            Self::Outside | Self::Unknown | Self::Misnamed(_) => None,
        }
    }

    /// Whether traffic may be sent there.
    const fn reachable(self) -> bool {
        match self {
            Self::Pod(_) | Self::Outside => true,
            Self::Unknown | Self::Misnamed(_) => false,
        }
    }
}

/// An address and port with the copy that counts.
struct Resolved<'a> {
    endpoint: &'a Endpoint,
    owner: Owner<'a>,
}

impl Resolved<'_> {
    /// Whether traffic is sent there, given whether plain text may be.
    fn takes(&self, plain: bool) -> bool {
        let meshed = self.owner.pod().is_some_and(|pod| pod.template.meshed);
        self.owner.reachable() && (meshed || plain)
    }

    /// Whether new traffic is sent there.
    fn takes_new(&self, plain: bool) -> bool {
        self.endpoint.ready && self.takes(plain)
    }
}

impl<'a> EndpointInputs<'a> {
    pub(crate) const fn new(reads: &'a Reads, world: &'a World, addresses: &'a Addresses) -> Self {
        Self {
            reads,
            world,
            addresses,
        }
    }

    fn service(self, name: &NamespacedName) -> Option<&'a Arc<Service>> {
        self.reads.record(name, UnitInput::Service);
        self.world.services.get(name)
    }

    fn endpoints(self, name: &NamespacedName) -> Option<&'a EndpointsByPort> {
        self.reads.record(name, UnitInput::Endpoints);
        self.world.endpoints(name)
    }

    fn owner(self, endpoint: &Endpoint) -> Owner<'a> {
        let living = |name| {
            let pod = self.world.pods.get(name);
            pod.map(|pod| &**pod).filter(|pod| pod.alive)
        };
        let ip = endpoint.ip.to_canonical();
        let Some(name) = &endpoint.pod else {
            return match self.addresses.pods_at(ip) {
                PodsAt::None => Owner::Outside,
                PodsAt::One(name) => living(name).map_or(Owner::Unknown, Owner::Pod),
                PodsAt::Several if self.sidecar_at(ip) => Owner::Unknown,
                PodsAt::Several => Owner::Outside,
            };
        };
        let Some(pod) = living(name) else {
            return Owner::Unknown;
        };
        let has_address = pod.ips.iter().any(|own| own.to_canonical() == ip);
        if has_address && (pod.template.meshed || !self.sidecar_at(ip)) {
            Owner::Pod(pod)
        } else if pod.ips.is_empty() {
            Owner::Unknown
        } else {
            Owner::Misnamed(pod)
        }
    }

    /// Whether a living pod with a sidecar has the address.
    fn sidecar_at(self, ip: IpAddr) -> bool {
        let mut pods = self.addresses.all_pods(ip);
        pods.any(|name| self.world.pods.get(name).is_some_and(|pod| pod.proxied()))
    }

    /// The endpoints of a port, each address and port once.
    fn of_port(
        self,
        service: &NamespacedName,
        port: Port,
        caller: Caller<'a>,
    ) -> impl Iterator<Item = Resolved<'a>> + use<'a> {
        let definition = self.service(service);
        let family = definition.and_then(|s| s.reached_by(caller.family));
        let local = definition.is_some_and(|s| s.local);
        let of_family = move |endpoint: &Endpoint| {
            family.is_none_or(|family| Family::of(endpoint.ip.to_canonical()) == family)
        };
        // As for kube-proxy, an endpoint without a node is local nowhere.
        let of_node = move |endpoint: &Endpoint| match caller.node {
            Node::At(node) if local => node.is_some() && endpoint.node.as_deref() == node,
            Node::At(_) | Node::Any => true,
        };
        self.list(service, port)
            .chunk_by(Endpoint::same_place)
            // Before the owner is looked up, for there may be as many callers as nodes.
            .filter(move |copies| copies.iter().any(of_node))
            .filter_map(move |copies| self.resolve(copies))
            .filter(move |found| of_family(found.endpoint) && of_node(found.endpoint))
    }

    fn list(self, service: &NamespacedName, port: Port) -> &'a [Endpoint] {
        let definition = self.service(service);
        let name = definition.and_then(|s| s.ports.get(&port)).map(|p| &p.name);
        let list = name.and_then(|name| self.endpoints(service)?.get(name));
        list.map_or(&[][..], Vec::as_slice)
    }

    /// Returns the nodes with callers that get endpoints of their own, because the service keeps calls on the node.
    pub(crate) fn nodes(
        self,
        service: &NamespacedName,
        port: Port,
    ) -> impl Iterator<Item = &'a Arc<str>> {
        let local = self.service(service).is_some_and(|s| s.local);
        let list = if local { self.list(service, port) } else { &[] };
        list.iter().filter_map(|endpoint| endpoint.node.as_ref())
    }

    /// Of several copies that of a living pod counts, of one that stays rather than of a terminating one. Of copies of the same pod none of
    /// which is known to be newer, the pod's own `Ready` condition decides; without a pod, the best one counts.
    fn resolve(self, copies: &'a [Endpoint]) -> Option<Resolved<'a>> {
        let all = copies.iter().map(|endpoint| Resolved {
            endpoint,
            owner: self.owner(endpoint),
        });
        let rank = |copy: &Resolved<'_>| {
            let Endpoint { ready, serving, .. } = *copy.endpoint;
            let worst_first = copy.owner.pod().is_some_and(|pod| !pod.ready);
            (
                copy.owner.reachable(),
                copy.owner.pod().is_none_or(|pod| !pod.terminating),
                (ready != worst_first, serving != worst_first),
            )
        };
        all.max_by_key(rank)
    }
}

fn within(subset: Option<&Labels>, pod: Option<&Pod>) -> bool {
    subset.is_none_or(|labels| pod.is_some_and(|pod| selects(labels, &pod.template.labels)))
}

/// Counts for status, perhaps only of pods with these labels. A pod counts once for each family of the service; the family with the fewest
/// ready ones is returned.
pub(crate) fn readiness(
    inputs: EndpointInputs<'_>,
    settings: &Settings,
    service: &NamespacedName,
    port: Port,
    subset: Option<&Labels>,
) -> Readiness {
    let definition = inputs.service(service);
    let families = definition.map_or(&[][..], |service| &service.families);
    // The endpoints of the only family are those of every call.
    if families.len() < 2 {
        return of_family(inputs, settings, (service, port), subset, None);
    }
    let families = families.iter().copied().map(Some);
    // A family without any endpoint is one that the pods have not got.
    families
        .map(|family| of_family(inputs, settings, (service, port), subset, family))
        .filter(|readiness| readiness.all > 0)
        .min_by_key(|readiness| readiness.ready)
        .unwrap_or_default()
}

/// Whether [`readiness`] counts a ready endpoint. Almost always the first one is, and the others cost nothing.
pub(crate) fn takes_traffic(
    inputs: EndpointInputs<'_>,
    settings: &Settings,
    service: &NamespacedName,
    port: Port,
    subset: Option<&Labels>,
) -> bool {
    let definition = inputs.service(service);
    if definition.is_some_and(|service| service.families.len() > 1) {
        return readiness(inputs, settings, service, port, subset).ready > 0;
    }
    is_ready(inputs, settings, (service, port), subset, None)
}

/// Whether [`reached`] finds a ready endpoint for callers of a family, on any node.
pub(crate) fn is_ready(
    inputs: EndpointInputs<'_>,
    settings: &Settings,
    (service, port): (&NamespacedName, Port),
    subset: Option<&Labels>,
    called: Option<Family>,
) -> bool {
    let plain = settings.sends_plain(service);
    let mut endpoints = inputs.of_port(service, port, Caller::any(called));
    endpoints.any(|found| found.takes_new(plain) && within(subset, found.owner.pod()))
}

/// The ports of a service that have a ready endpoint, each with the families of such calls.
pub(crate) fn ready_ports(
    inputs: EndpointInputs<'_>,
    settings: &Settings,
    service: &Service,
) -> BTreeSet<(Port, Option<Family>)> {
    let called = called_families(service);
    let all = service.ports.keys();
    let all = all.flat_map(|port| called.iter().map(|family| (*port, *family)));
    let ready = all.filter(|(port, family)| {
        let at = (&service.name, *port);
        is_ready(inputs, settings, at, None, *family)
    });
    ready.collect()
}

/// The families of the addresses that callers of a service dial. None: they are not known, and all endpoints count.
pub(crate) fn called_families(service: &Service) -> Vec<Option<Family>> {
    match &*service.families {
        [] => vec![None],
        families => families.iter().copied().map(Some).collect(),
    }
}

fn of_family(
    inputs: EndpointInputs<'_>,
    settings: &Settings,
    (service, port): (&NamespacedName, Port),
    subset: Option<&Labels>,
    family: Option<Family>,
) -> Readiness {
    let plain = settings.sends_plain(service);
    let mut readiness = Readiness::default();
    for found in inputs.of_port(service, port, Caller::any(family)) {
        if !within(subset, found.owner.pod()) {
            continue;
        }
        readiness.all += 1;
        readiness.ready += usize::from(found.takes_new(plain));
    }
    readiness
}

/// The endpoints of a port, as a client needs them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ReachableEndpoints {
    /// Where to send: the ready ones; if there are none, those that end but still answer, so that the last pod of a service that is
    /// being moved serves to its end.
    pub(crate) hosts: Vec<UpstreamHost>,
    /// Whether the hosts are those that end.
    pub(crate) ending: bool,
    /// The identities that a client may meet. Of all endpoints, ready or not, so that readiness does not change the cluster.
    pub(crate) identities: BTreeSet<SpiffeId>,
    /// Whether any endpoint, ready or not, has no sidecar.
    pub(crate) unmeshed: bool,
    /// The first endpoint with a slice that names a pod which cannot be at its address.
    pub(crate) misnamed: Option<Box<Misnamed>>,
}

impl ReachableEndpoints {
    /// Takes the hosts, as endpoints with a weight.
    pub(crate) fn group(self, weight: u32) -> EndpointGroup {
        EndpointGroup {
            weight,
            hosts: self.hosts,
            ending: self.ending,
        }
    }
}

/// An endpoint that gets no traffic, for the pod that its slice names has other addresses, or shares this one with a sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Misnamed {
    pub(crate) ip: IpAddr,
    pub(crate) pod: Arc<str>,
}

fn host(endpoint: &Endpoint, plain: bool, zone: Option<Arc<str>>) -> UpstreamHost {
    let at = SocketAddr::new(endpoint.ip, endpoint.port.get());
    UpstreamHost { at, plain, zone }
}

/// Looks at the endpoints of a port, perhaps only those of pods with these labels.
pub(crate) fn reached(
    inputs: EndpointInputs<'_>,
    settings: &Settings,
    service: &NamespacedName,
    port: Port,
    subset: Option<&Labels>,
    caller: Caller<'_>,
) -> ReachableEndpoints {
    let plain = caller.bypassed || settings.sends_plain(service);
    let by_zone = inputs.service(service).is_some_and(|s| s.by_zone());
    let mut reached = ReachableEndpoints::default();
    let mut ending = Vec::new();
    // Most pods of a service share one template, which has one identity.
    let mut templates: Vec<&Arc<PodTemplate>> = Vec::new();
    for found in inputs.of_port(service, port, caller) {
        let Resolved { endpoint, owner } = found;
        let pod = owner.pod();
        if let Owner::Misnamed(pod) = owner
            && reached.misnamed.is_none()
        {
            reached.misnamed = Some(Box::new(Misnamed {
                ip: endpoint.ip,
                pod: Arc::clone(&pod.name.name),
            }));
        }
        if !owner.reachable() || !within(subset, pod) {
            continue;
        }
        let meshed = pod.filter(|pod| pod.template.meshed);
        reached.unmeshed |= meshed.is_none();
        if let Some(pod) = meshed
            && !templates
                .iter()
                .any(|template| Arc::ptr_eq(template, &pod.template))
        {
            templates.push(&pod.template);
            reached
                .identities
                .insert(pod.template.identity(&settings.trust_domain));
        }
        if !found.takes(plain) {
            continue;
        }
        let zone = endpoint.zone.clone().filter(|_| by_zone);
        let host = host(endpoint, meshed.is_none(), zone);
        if found.takes_new(plain) {
            reached.hosts.push(host);
        } else if endpoint.serving && endpoint.terminating {
            ending.push(host);
        }
    }
    if reached.hosts.is_empty() {
        reached.ending = !ending.is_empty();
        reached.hosts = ending;
    }
    reached.hosts.sort();
    reached.hosts.dedup();
    reached.hosts.shrink_to_fit();
    reached
}
