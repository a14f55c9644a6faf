//! The policy of a port, and of the requests of its rules.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::finding::ObjectRef;
use crate::kinds::policies::x_backend_traffic_policy::BackendPolicy;
use crate::kinds::traffic_policy::{self as groups, PolicyGroups};
use crate::traffic::{Balance, HeaderPolicy, RetryBudget, RoutePolicy, UpstreamPolicy};
use crate::world::{NamespacedName, Port, Protocol};

/// The target of a policy, in the order of precedence: the closest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PolicyTarget {
    /// No policy: the rule sets the fields itself.
    Itself,
    /// A rule of a route.
    Rule,
    /// A route.
    Route,
    /// A port of a service.
    Port,
    /// A service.
    Service,
}

impl PolicyTarget {
    /// The target in a word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Itself => "itself",
            Self::Rule => "rule",
            Self::Route => "route",
            Self::Port => "port",
            Self::Service => "service",
        }
    }
}

/// A policy that the requests of a rule meet, or the object of the rule itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetPolicy {
    /// The object.
    pub object: ObjectRef,
    /// The target that it names.
    pub target: PolicyTarget,
    /// The names of the groups of fields that it sets, without those of closer policies.
    pub groups: Vec<&'static str>,
}

/// A policy of a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeclaredPolicy {
    pub(super) object: ObjectRef,
    pub(super) target: PolicyTarget,
    pub(super) groups: PolicyGroups,
    /// The ports of services at which the rules of the targeted route are in force. Of another target there are none.
    pub(super) places: BTreeSet<(NamespacedName, Port)>,
}

/// How rules have requests to a backend sent again that an application may have received.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Resent<'a> {
    /// Whether a retry of a rule's own causes it.
    pub(crate) by_rule: bool,
    /// The policies of routes and rules that cause it.
    pub(crate) policies: BTreeSet<&'a ObjectRef>,
}

/// The policy of one port, or of the requests of a rule there: each group of fields is that of the policy with the closest target.
#[derive(Clone, Debug, Default)]
pub(crate) struct PortPolicy<'a> {
    groups: PolicyGroups,
    objects: Vec<&'a ObjectRef>,
    /// All its policies by precedence: those of the callers' namespace, then those of the service's, of either the closest target first.
    layers: Vec<&'a DeclaredPolicy>,
    /// The number of policies of the callers' namespace, where it is not that of the service.
    consumers: usize,
    /// The budget of the service that the calls end at, of an `XBackendTrafficPolicy`.
    backend: Option<(&'a ObjectRef, RetryBudget)>,
}

impl<'a> PortPolicy<'a> {
    /// The groups of these policies, each of the first policy that sets it, as far as they have an effect on callers by the protocol.
    pub(super) fn layered(layers: Vec<&'a DeclaredPolicy>, protocol: Protocol) -> Self {
        let mut policy = Self {
            layers,
            ..Self::default()
        };
        let mut all = PolicyGroups::default();
        for of in &policy.layers {
            all = all.or(&of.groups);
            let groups = all.clone().for_callers(protocol);
            if groups != policy.groups {
                policy.groups = groups;
                policy.objects.push(&of.object);
            }
        }
        policy
    }

    /// The policy of the requests of a rule of the port: the policies of its route come first among those of the route's namespace.
    pub(crate) fn of_rule(&self, closer: Vec<&'a DeclaredPolicy>) -> Self {
        let consumers = self.layers.iter().take(self.consumers);
        let producers = self.layers.iter().skip(self.consumers);
        // A route of the service's namespace comes after the policies of the callers.
        let of_route = closer.first().map(|of| &of.object.namespace);
        let earlier = |of: &&&DeclaredPolicy| of_route != Some(&of.object.namespace);
        let first: Vec<_> = consumers.clone().filter(earlier).copied().collect();
        let then = consumers
            .filter(|of| !earlier(of))
            .chain(producers)
            .copied();
        let layers = first.into_iter().chain(closer).chain(then);
        Self::layered(layers.collect(), Protocol::Http)
    }

    /// The policy of callers that have these policies of their own namespace.
    pub(super) fn with_consumers(&self, own: Vec<&'a DeclaredPolicy>) -> Self {
        let consumers = own.len();
        Self {
            consumers,
            ..Self::layered([own, self.layers.clone()].concat(), Protocol::Http)
        }
    }

    /// Whether policies of the callers' namespace concern upstreams, so that the service as a backend differs for these callers.
    pub(crate) fn consumers_govern(&self) -> bool {
        let mut own = self.layers.iter().take(self.consumers);
        own.any(|of| of.groups.governs_upstreams())
    }

    /// The policy of a route or rule that has requests sent again that an application may have received. None: policies of services decide.
    pub(super) fn resending(&self) -> Option<&'a ObjectRef> {
        let first = self.layers.iter().find(|of| of.groups.sets_retries())?;
        let of_route = matches!(first.target, PolicyTarget::Rule | PolicyTarget::Route);
        (of_route && first.groups.resends()).then_some(&first.object)
    }

    /// Its policies by precedence.
    pub(crate) fn met(&self) -> Vec<MetPolicy> {
        let mut won = BTreeSet::new();
        let layers = self.layers.iter();
        let met = layers.map(|of| MetPolicy {
            object: of.object.clone(),
            target: of.target,
            groups: of
                .groups
                .names()
                .into_iter()
                .filter(|name| won.insert(*name))
                .collect(),
        });
        met.collect()
    }

    /// The objects that set it.
    pub(crate) fn objects(&self) -> impl Iterator<Item = &ObjectRef> {
        self.objects.iter().copied()
    }

    /// The same for an upstream of a service with this policy as a backend.
    pub(crate) fn at_backend(mut self, policy: Option<&'a BackendPolicy>) -> Self {
        self.backend = policy.and_then(|of| Some((&of.object, of.budget?)));
        self
    }

    /// The objects that set the bounds of the upstream.
    pub(crate) fn upstream_objects(&self) -> impl Iterator<Item = &ObjectRef> {
        let backend = self
            .backend
            .filter(|_| self.groups.named_budget().is_none());
        self.objects().chain(backend.map(|(object, _)| object))
    }

    /// The budget of retries: that which a `TrafficPolicy` names, then that of the backend, then the default one where anything is sent
    /// again that an application may have received. `resent`: how rules have requests sent again. Where a rule has retries of its own, a
    /// `TrafficPolicy` sets none of them.
    pub(crate) fn retry_budget(&self, resent: Option<&Resent<'_>>) -> Option<RetryBudget> {
        let by_rule = resent.is_some_and(|resent| resent.by_rule);
        let by_policies = resent.is_some_and(|resent| !resent.policies.is_empty());
        let named = self.groups.named_budget();
        let named = named.filter(|_| !by_rule || by_policies);
        let backend = self.backend.map(|(_, budget)| budget);
        let resends = resent.is_some() || self.groups.resends();
        named
            .or(backend)
            .or_else(|| resends.then(groups::default_budget))
    }

    /// Sets its groups in a rule.
    pub(crate) fn set_in(&self, rule: &mut RoutePolicy) {
        self.groups.set_in(rule);
    }

    /// Adds its changes of headers before those of a rule.
    pub(crate) fn headers(&self, rule: &HeaderPolicy) -> HeaderPolicy {
        self.groups
            .headers()
            .map_or_else(|| rule.clone(), |own| own.before(rule))
    }

    /// The same as [`Self::set_in`] for an upstream.
    pub(crate) fn set_in_upstream(&self, upstream: &mut UpstreamPolicy) {
        self.groups.set_in_upstream(upstream);
        if let Some(budget) = self.retry_budget(None) {
            upstream.retry_budget = Some(budget);
        }
    }

    /// How long a connection is kept without a request, by whether an endpoint has no sidecar. None: as without a policy.
    pub(crate) fn idle_timeout(&self, unmeshed: bool) -> Option<Duration> {
        self.groups.idle_timeout(unmeshed)
    }

    /// How an endpoint is chosen. None: as without a policy.
    pub(crate) fn balance(&self) -> Option<&Balance> {
        self.groups.balance()
    }

    /// Whether it concerns upstreams.
    pub(crate) fn governs_upstreams(&self) -> bool {
        self.backend.is_some() || self.groups.governs_upstreams()
    }
}
