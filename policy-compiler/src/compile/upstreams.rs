//! The upstreams of a service: clusters and endpoints, of the whole service and of the backends of its rules.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::cluster_inputs::ClusterInputs;
use super::endpoints::Misnamed;
use super::facet::{Caller, OutPort, candidates};
use super::groups;
use super::memo::{Lazy, kept};
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
    fn new(upstream: Upstream, groups: Vec<EndpointGroup>, old: &[&Self]) -> Self {
        let endpoints = EndpointAssignment {
            name: Arc::clone(&upstream.name),
            groups,
            origins: upstream.origins.clone(),
        };
        Self {
            upstream: kept(old.iter().map(|old| &old.upstream), Lazy::new(upstream)),
            endpoints: kept(old.iter().map(|old| &old.endpoints), Lazy::new(endpoints)),
        }
    }

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
        old: &OldClusters<'_>,
        change: impl FnOnce(&mut Upstream),
    ) -> Self {
        let mut upstream = self.upstream.recipe().clone();
        upstream.name = name;
        let origins = rule.into_iter().flat_map(|rule| &rule.origins);
        upstream.origins.rules.extend(origins.cloned());
        change(&mut upstream);
        with_old_name(upstream, self.endpoints.recipe().groups.clone(), old)
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

/// Clusters that a new one may equal, by name.
pub(super) type OldClusters<'a> = BTreeMap<&'a str, Vec<&'a ClusterAndEndpoints>>;

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
    for (number, port) in &service.ports {
        for (callers, rules) in scene.rules_of_bytes(service, port) {
            let rule = rules
                .iter()
                .find(|entry| entry.matcher.is_any())
                .map(|entry| &*entry.rule);
            for facet in scene.facets(service, *number, &rules, callers) {
                let key = (*number, facet);
                let known = candidates(old, &wholes, &key);
                let pairs: Vec<_> = known.iter().map(|whole| &whole.pair).collect();
                let whole = whole(scene, service, &key, port.protocol, rule, &pairs);
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
    protocol: Protocol,
    rule: Option<&RouteRule>,
    old: &[&ClusterAndEndpoints],
) -> ServiceCluster {
    let (name, port) = (&service.name, *port);
    let caller = Caller::of(service, facet);
    let own = scene.reached(name, port, None, caller);
    let (unmeshed, misnamed, mut identities) = (own.unmeshed, own.misnamed, own.identities);
    let mut forward = match rule.map(|rule| &rule.action) {
        None | Some(Action::Redirect(_) | Action::Respond { .. }) => None,
        Some(Action::Forward(forward)) => Some(forward.clone()),
    };
    let mut groups = match &mut forward {
        None => vec![EndpointGroup {
            weight: 1,
            hosts: own.hosts,
            ending: own.ending,
        }],
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
        pair: ClusterAndEndpoints::new(upstream, groups, old),
        unmeshed,
        plain_requests,
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

pub(super) fn with_old_name(
    upstream: Upstream,
    groups: Vec<EndpointGroup>,
    old: &OldClusters<'_>,
) -> ClusterAndEndpoints {
    let old = old.get(&*upstream.name).map_or(&[][..], Vec::as_slice);
    ClusterAndEndpoints::new(upstream, groups, old)
}

pub(super) const fn balance(service: &Service) -> Balance {
    if service.sticky {
        Balance::ClientAddress
    } else {
        Balance::RoundRobin
    }
}
