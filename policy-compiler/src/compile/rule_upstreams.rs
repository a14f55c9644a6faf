//! The upstreams of the backends of rules that need clusters of their own.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::cluster_inputs::ClusterInputs;
use super::facet::{Caller, Facet, OutPort};
use super::groups;
use super::upstreams::{
    ClusterAndEndpoints, KnownClusters, ServiceCluster, alpn, balance, govern, out_name, tls,
    with_family,
};
use crate::kinds::policies::traffic_policy::{PortPolicy, Resent};
use crate::traffic::{
    Action, Alpn, Limits, Origins, Purpose, RouteRule, RuleId, Upstream, idle_timeout,
};
use crate::world::{Family, Labels, NamespacedName, Port, Protocol, Service};

/// `out|<ns>/<service>|<port>|<object>/<index>`, for a route `<object>/<rule>/<index>`, and again the family.
fn subset_name(
    (service, port): (&NamespacedName, Port),
    place: Place<'_>,
    family: Option<Family>,
) -> Arc<str> {
    let object = match &place.rule.id {
        // A split is one rule.
        RuleId::Declared(object, _) => format!("{}/{}", object.namespace, object.name),
        RuleId::Route { object, index, .. } => {
            format!("{}/{}/{index}", object.namespace, object.name)
        }
        RuleId::WholeService => String::new(),
    };
    let index = place.index;
    with_family(format!("out|{service}|{port}|{object}/{index}"), family)
}

/// The place of a backend among those of its rule.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) rule: &'a RouteRule,
    pub(super) index: usize,
}

impl<'a> Place<'a> {
    pub(super) const fn of(rule: &'a RouteRule, index: usize) -> Self {
        Self { rule, index }
    }
}

/// The pods of a service with some labels, as a backend of a rule.
pub(super) fn subset(
    scene: &ClusterInputs<'_>,
    service: &Service,
    (port, facet): &OutPort,
    (place, resent): (Place<'_>, Option<&Resent<'_>>),
    labels: &Labels,
    known: &mut KnownClusters,
) -> ClusterAndEndpoints {
    let name = subset_name((&service.name, *port), place, facet.family);
    let caller = Caller::of(service, facet);
    let mut there = scene.reached(&service.name, *port, Some(labels), caller);
    let (unmeshed, identities) = (there.unmeshed, std::mem::take(&mut there.identities));
    let groups = vec![there.group(1)];
    let mut upstream = Upstream {
        name,
        tls: tls(identities, Alpn::Http),
        balance: balance(service),
        by_zone: service.by_zone(),
        policy: None,
        idle_timeout: idle_timeout(unmeshed),
        purpose: Purpose::Calls,
        origins: Origins {
            service: service.name.clone(),
            rules: place.rule.origins.clone(),
        },
    };
    let policy = scene.policy_at_backend(facet, &service.name, *port, Protocol::Http);
    govern(&mut upstream, &policy, unmeshed);
    bound_retries(&mut upstream, &policy, resent);
    known.shared(upstream, groups)
}

/// Sets the budget of retries where rules have requests sent again.
fn bound_retries(upstream: &mut Upstream, policy: &PortPolicy<'_>, resent: Option<&Resent<'_>>) {
    let Some(resent) = resent else { return };
    let bounds = upstream.policy.get_or_insert_default();
    bounds.retry_budget = policy.retry_budget(Some(resent));
    let objects = resent.policies.iter().copied();
    upstream.origins.rules.extend(objects.cloned());
}

/// The endpoints of the backends of a rule for some connections to a service, in a cluster with their weights.
pub(super) fn of_connections(
    scene: &ClusterInputs<'_>,
    service: &Service,
    (port, facet): &OutPort,
    rule: &RouteRule,
    known: &mut KnownClusters,
) -> ClusterAndEndpoints {
    let caller = Caller::of(service, facet);
    let place = Place { rule, index: 0 };
    let (mut identities, mut groups) = (BTreeSet::new(), Vec::new());
    let reached = |name: &NamespacedName, port: Port, labels: Option<&Labels>| {
        scene.reached(name, port, labels, caller)
    };
    let mut forward = match &rule.action {
        Action::Forward(forward) => Some(forward.clone()),
        Action::Redirect(_) | Action::Respond { .. } => None,
    };
    if let Some(forward) = &mut forward {
        groups = groups::groups(reached, forward, &mut identities);
    }
    let mut upstream = Upstream {
        name: subset_name((&service.name, *port), place, facet.family),
        tls: tls(identities, Alpn::Tcp),
        balance: balance(service),
        // The groups have their weights in the place of zones.
        by_zone: service.by_zone() && groups.len() == 1,
        policy: None,
        idle_timeout: idle_timeout(false),
        purpose: Purpose::Calls,
        origins: Origins {
            service: service.name.clone(),
            rules: rule.origins.clone(),
        },
    };
    let policy = scene.policy_for(facet, &service.name, *port, Protocol::Tcp);
    govern(&mut upstream, &policy, false);
    if let Some(forward) = &forward {
        groups::refuse_share(&mut upstream, &mut groups, forward, service.sticky);
    }
    known.shared(upstream, groups)
}

/// The endpoints of a port of a service, for the requests of a rule. If the port does not declare HTTP, they have a cluster of their own: the
/// rules for connections to that port do not apply (GEP-1294: of several levels of routes the first one alone does), and its servers pass bytes
/// on, so that the application itself ends idle connections.
pub(super) fn for_requests(
    scene: &ClusterInputs<'_>,
    service: &Service,
    (port, facet): &OutPort,
    place: Place<'_>,
    ((name, at), whole): ((&NamespacedName, Port), &ServiceCluster),
    known: &mut KnownClusters,
) -> ClusterAndEndpoints {
    let backend = scene.recorder.service(name);
    let (Some(backend), Protocol::Tcp | Protocol::Detect) = (backend, whole.protocol) else {
        return whole.pair.clone();
    };
    let mut there = scene.reached(name, at, None, Caller::of(service, facet));
    let identities = std::mem::take(&mut there.identities);
    let mut upstream = Upstream {
        name: subset_name((&service.name, *port), place, facet.family),
        tls: tls(identities, alpn(whole.protocol)),
        balance: balance(backend),
        by_zone: backend.by_zone(),
        policy: None,
        idle_timeout: idle_timeout(true),
        purpose: Purpose::Calls,
        origins: Origins {
            service: name.clone(),
            rules: place.rule.origins.clone(),
        },
    };
    let all_callers = Facet {
        namespace: None,
        ..facet.clone()
    };
    let policy = scene.policy_at_backend(&all_callers, name, at, whole.protocol);
    govern(&mut upstream, &policy, true);
    known.shared(upstream, vec![there.group(1)])
}

/// The endpoints of a service as a backend of a rule, in a cluster of their own where that differs: it has the policy of the called service, and a budget of
/// retries if rules have requests sent again (`resent`).
pub(super) fn governed(
    scene: &ClusterInputs<'_>,
    service: &Service,
    key: &OutPort,
    (place, resent): (Place<'_>, Option<&Resent<'_>>),
    (target, whole): ((&NamespacedName, Port), &ServiceCluster),
    known: &mut KnownClusters,
) -> ClusterAndEndpoints {
    let (port, facet) = key;
    let backend = for_requests(scene, service, key, place, (target, whole), known);
    let plain_requests = whole.plain_requests || whole.protocol != Protocol::Http;
    let policy = scene.policy_for(facet, &service.name, *port, Protocol::Http);
    let own = out_name(&service.name, *port, facet.family);
    // The service itself has its policy already, but not that of its callers' namespace.
    let differs = *backend.name() != own || policy.consumers_govern();
    let governs = policy.governs_upstreams() && differs;
    if !governs && resent.is_none() {
        return backend;
    }
    let origins = &backend.upstream().origins;
    let of_backend = scene.backend_policy_for(facet, &origins.service);
    let policy = policy.at_backend(of_backend.filter(|of| origins.rules.contains(&of.object)));
    let name = subset_name((&service.name, *port), place, facet.family);
    backend.under(name, Some(place.rule), known, |upstream| {
        govern(upstream, &policy, plain_requests);
        bound_retries(upstream, &policy, resent);
    })
}

/// The endpoints of a service without a rule, in a cluster of their own: for callers of a namespace with policies of its own about
/// connections and endpoints. None if it has none.
pub(super) fn of_consumers(
    scene: &ClusterInputs<'_>,
    service: &Service,
    (port, facet): &OutPort,
    whole: &ServiceCluster,
    known: &mut KnownClusters,
) -> Option<ClusterAndEndpoints> {
    let name = &service.name;
    let policy = scene.policy_at_backend(facet, name, *port, Protocol::Http);
    let namespace = facet.namespace.as_ref();
    let namespace = namespace.filter(|_| policy.consumers_govern())?;
    let name = format!("out|{name}|{port}|{namespace}/0");
    let name = with_family(name, facet.family);
    Some(whole.pair.under(name, None, known, |upstream| {
        govern(upstream, &policy, whole.plain_requests);
    }))
}

/// The endpoints of a backend as the mirror of a rule, in a cluster of their own: with the limits of copies.
pub(super) fn mirror(
    service: &Service,
    (port, facet): &OutPort,
    place: Place<'_>,
    backend: &ClusterAndEndpoints,
    known: &mut KnownClusters,
) -> ClusterAndEndpoints {
    let name = subset_name((&service.name, *port), place, None);
    let name = with_family(format!("{name}/mirror"), facet.family);
    backend.under(name, Some(place.rule), known, |upstream| {
        upstream.purpose = Purpose::Copies;
        if let Some(policy) = &mut upstream.policy {
            (policy.limits, policy.retry_budget) = (Limits::default(), None);
        }
    })
}
