//! The upstreams of a service: clusters and endpoints, of the whole service and of the backends of its rules.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::cluster_inputs::ClusterInputs;
use super::endpoints::Misnamed;
use super::facet::{Caller, OutPort};
use super::groups;
use super::memo::{Lazy, Shared};
use crate::kinds::policies::traffic_policy::PortPolicy;
use crate::resource::Resource;
use crate::traffic::{
    Action, Alpn, Balance, EndpointAssignment, EndpointGroup, Origins, Purpose, RouteRule,
    TableUpstream, Upstream, UpstreamPolicy, UpstreamTls, idle_timeout,
};
use crate::validation::inputs::UnitInput;
use crate::world::{Family, Labels, NamespacedName, Port, Protocol, Service, SpiffeId};

/// `out|<ns>/<service>|<port>`, and with `|4` or `|6` at the end the same for a service's second family.
pub(super) fn out_name(service: &NamespacedName, port: Port, family: Option<Family>) -> Arc<str> {
    with_family(format!("out|{service}|{port}"), family)
}

pub(super) fn with_family(name: String, family: Option<Family>) -> Arc<str> {
    match family {
        None => name.into(),
        Some(family) => format!("{name}|{}", family.number()).into(),
    }
}

/// Returns the protocol that a cluster announces by itself. If HTTP is detected, the chain for other bytes announces TCP.
pub(crate) const fn alpn(protocol: Protocol) -> Alpn {
    match protocol {
        Protocol::Http | Protocol::Detect => Alpn::Http,
        Protocol::Tcp => Alpn::Tcp,
    }
}

/// A cluster and its endpoints.
#[derive(Clone, Debug)]
pub(crate) struct ClusterAndEndpoints {
    upstream: Arc<Lazy<Upstream>>,
    endpoints: Arc<Lazy<EndpointAssignment>>,
}

impl ClusterAndEndpoints {
    pub(super) fn name(&self) -> &Arc<str> {
        &self.upstream.recipe().name
    }

    pub(super) fn upstream(&self) -> &Upstream {
        self.upstream.recipe()
    }

    /// The cluster, then its endpoints.
    pub(super) fn resources(&self) -> [Arc<Resource>; 2] {
        [self.upstream.resource(), self.endpoints.resource()]
    }

    /// Returns the same endpoints in another cluster, which a rule or the collector needs.
    pub(super) fn under(
        &self,
        name: Arc<str>,
        rule: Option<&RouteRule>,
        known: &mut KnownClusters,
        change: impl FnOnce(&mut Upstream),
    ) -> Self {
        let mut upstream = self.upstream.recipe().clone();
        upstream.name = name;
        let origins = rule.into_iter().flat_map(|rule| &rule.origins);
        upstream.origins.rules.extend(origins.cloned());
        change(&mut upstream);
        known.shared(upstream, self.endpoints.recipe().groups.clone())
    }

    /// The identity of both: equal ones are shared.
    pub(super) fn identity(&self) -> [*const (); 2] {
        let (upstream, endpoints) = (Arc::as_ptr(&self.upstream), Arc::as_ptr(&self.endpoints));
        [upstream.cast(), endpoints.cast()]
    }

    /// Whether an endpoint is ready.
    pub(super) fn is_ready(&self) -> bool {
        let groups = &self.endpoints.recipe().groups;
        groups.iter().any(EndpointGroup::is_ready)
    }

    /// Itself as the upstream of a route table.
    pub(super) fn as_upstream(&self) -> TableUpstream {
        TableUpstream {
            name: Arc::clone(self.name()),
            balance: self.upstream.recipe().balance.clone(),
            ready: self
                .endpoints
                .recipe()
                .groups
                .iter()
                .any(|of| !of.hosts.is_empty()),
            meshed: matches!(self.upstream.recipe().tls, UpstreamTls::Mesh { .. }),
        }
    }
}

/// The clusters and endpoints of the last compile of a service, and those that this compile has made. So equal ones are shared, and a caller
/// that changes its kind keeps those that do not differ.
#[derive(Debug, Default)]
pub(super) struct KnownClusters {
    upstreams: Shared<Lazy<Upstream>>,
    endpoints: Shared<Lazy<EndpointAssignment>>,
}

impl KnownClusters {
    pub(super) fn of<'a>(old: impl Iterator<Item = &'a ClusterAndEndpoints>) -> Self {
        let mut known = Self::default();
        for pair in old {
            known.upstreams.add(&pair.upstream);
            known.endpoints.add(&pair.endpoints);
        }
        known
    }

    /// Returns a cluster with its endpoints, each the known one if that is equal.
    pub(super) fn shared(
        &mut self,
        upstream: Upstream,
        groups: Vec<EndpointGroup>,
    ) -> ClusterAndEndpoints {
        let endpoints = EndpointAssignment {
            name: Arc::clone(&upstream.name),
            groups,
            origins: upstream.origins.clone(),
        };
        ClusterAndEndpoints {
            upstream: self.upstreams.of(Lazy::new(upstream)),
            endpoints: self.endpoints.of(Lazy::new(endpoints)),
        }
    }
}

/// By identity: an equal one was kept.
impl PartialEq for ClusterAndEndpoints {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.upstream, &other.upstream)
            && Arc::ptr_eq(&self.endpoints, &other.endpoints)
    }
}

/// The cluster of a service's port as a whole.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ServiceCluster {
    pub(super) pair: ClusterAndEndpoints,
    /// Whether an endpoint has no sidecar.
    pub(crate) unmeshed: bool,
    /// Whether requests go to such an endpoint.
    pub(super) plain_requests: bool,
    /// The protocol of the port.
    pub(super) protocol: Protocol,
    /// An endpoint that gets no traffic, for its slice names a pod that cannot be there.
    pub(crate) misnamed: Option<Box<Misnamed>>,
}

/// The clusters of a service by port and callers.
pub(crate) type ServiceClusters = BTreeMap<OutPort, ServiceCluster>;

impl<'a> ClusterInputs<'a> {
    /// The clusters of a service as a whole.
    pub(super) fn wholes(&self, service: &NamespacedName) -> Option<&'a Arc<ServiceClusters>> {
        self.recorder.record(service, UnitInput::Clusters);
        self.compiled.wholes.get(service)
    }
}

/// Compiles the clusters of a service as a whole.
pub(crate) fn wholes(
    scene: &ClusterInputs<'_>,
    service: &Service,
    old: Option<&ServiceClusters>,
) -> ServiceClusters {
    let mut wholes = ServiceClusters::new();
    let old = old.into_iter().flat_map(ServiceClusters::values);
    let mut known = KnownClusters::of(old.map(|whole| &whole.pair));
    for (number, port) in &service.ports {
        for (callers, rules) in scene.rules_of_bytes(service, port) {
            let rule = rules
                .iter()
                .find(|entry| entry.matcher.is_any())
                .map(|entry| &*entry.rule);
            for facet in scene.facets(service, *number, &rules, callers) {
                let key = (*number, facet);
                let whole = whole(scene, service, &key, (port.protocol, rule), &mut known);
                wholes.insert(key, whole);
            }
        }
    }
    wholes
}

fn whole(
    scene: &ClusterInputs<'_>,
    service: &Service,
    (port, facet): &OutPort,
    (protocol, rule): (Protocol, Option<&RouteRule>),
    known: &mut KnownClusters,
) -> ServiceCluster {
    let (name, port) = (&service.name, *port);
    let caller = Caller::of(service, facet);
    let mut own = scene.reached(name, port, None, caller);
    let (unmeshed, misnamed) = (own.unmeshed, own.misnamed.take());
    let mut identities = std::mem::take(&mut own.identities);
    let mut forward = match rule.map(|rule| &rule.action) {
        None | Some(Action::Redirect(_) | Action::Respond { .. }) => None,
        Some(Action::Forward(forward)) => Some(forward.clone()),
    };
    let mut groups = match &mut forward {
        None => vec![own.group(1)],
        Some(forward) => {
            let reached = |name: &NamespacedName, port: Port, labels: Option<&Labels>| {
                scene.reached(name, port, labels, caller)
            };
            groups::groups(reached, forward, &mut identities)
        }
    };
    let plain_requests = unmeshed && protocol == Protocol::Http;
    let mut upstream = Upstream {
        name: out_name(name, port, facet.family),
        tls: tls(identities, alpn(protocol)),
        balance: balance(service),
        // The groups of a rule have their weights in the place of zones.
        by_zone: service.by_zone() && groups.len() == 1,
        policy: None,
        idle_timeout: idle_timeout(plain_requests),
        purpose: Purpose::Calls,
        origins: Origins {
            service: name.clone(),
            rules: rule.map(|rule| rule.origins.clone()).unwrap_or_default(),
        },
    };
    let policy = scene.policy_at_backend(facet, name, port, protocol);
    govern(&mut upstream, &policy, plain_requests);
    if let Some(forward) = &forward {
        groups::refuse_share(&mut upstream, &mut groups, forward, service.sticky);
    }
    ServiceCluster {
        pair: known.shared(upstream, groups),
        unmeshed,
        plain_requests,
        protocol,
        misnamed,
    }
}

pub(super) fn tls(identities: BTreeSet<SpiffeId>, alpn: Alpn) -> UpstreamTls {
    match identities.is_empty() {
        true => UpstreamTls::Plain,
        false => UpstreamTls::Mesh { identities, alpn },
    }
}

/// Sets the bounds of a policy. `unmeshed`: requests go to an endpoint without a sidecar.
pub(super) fn govern(upstream: &mut Upstream, policy: &PortPolicy<'_>, unmeshed: bool) {
    if policy.governs_upstreams() {
        let mut bounds = upstream.policy.take().unwrap_or_default();
        policy.set_in_upstream(&mut bounds);
        upstream.policy = Some(bounds).filter(|bounds| **bounds != UpstreamPolicy::default());
        if let Some(balance) = policy.balance() {
            upstream.balance = balance.clone();
        }
        if let Some(idle) = policy.idle_timeout(unmeshed) {
            upstream.idle_timeout = idle;
        }
        upstream
            .origins
            .rules
            .extend(policy.upstream_objects().cloned());
    }
}

pub(super) const fn balance(service: &Service) -> Balance {
    if service.sticky {
        Balance::ClientAddress
    } else {
        Balance::RoundRobin
    }
}
