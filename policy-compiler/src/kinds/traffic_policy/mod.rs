//! The groups of fields of a `TrafficPolicy`: their checks, and their meaning in the traffic model.

mod call_match;
mod faults;
mod headers;
mod overload;
mod rate_limits;
mod retries;
mod timeouts;
mod upstreams;

pub(crate) use retries::default_budget;

use std::time::Duration;

use heddle_crds::TrafficPolicySpec;

use super::ValidationError;
use crate::called_server::CalledServer;
use crate::finding::ObjectRef;
use crate::traffic::{
    Balance, Connections, Ejection, Fault, HeaderPolicy, Limits, Overload, RateLimit, Retries,
    RetryBudget, RoutePolicy, Timeouts, UpstreamPolicy, idle_timeout,
};
use crate::world::{NamespacedName, Protocol};

/// The groups that a policy sets. Of two policies for a port one wins a group as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PolicyGroups {
    timeouts: Option<Timeouts>,
    /// With the budget that the policy names.
    retries: Option<(Retries, Option<RetryBudget>)>,
    faults: Option<Vec<Fault>>,
    headers: Option<HeaderPolicy>,
    rate_limits: Option<Vec<RateLimit>>,
    overload: Option<Overload>,
    ejection: Option<Ejection>,
    limits: Option<Limits>,
    connections: Option<(Connections, Option<Duration>)>,
    balancing: Option<(Balance, Option<Duration>)>,
}

impl PolicyGroups {
    /// The groups of a spec.
    pub(super) fn of(policy: &ObjectRef, spec: &TrafficPolicySpec) -> Self {
        let retries = spec.retries.as_ref();
        Self {
            timeouts: spec.timeouts.as_ref().map(timeouts::timeouts),
            retries: retries.map(|of| (retries::retries(of), retries::budget(of))),
            ejection: spec.outlier_ejection.as_ref().map(upstreams::ejection),
            limits: spec.limits.as_ref().map(upstreams::limits),
            connections: spec.connections.as_ref().map(upstreams::connections),
            balancing: spec.load_balancing.as_ref().map(upstreams::balancing),
            headers: spec.headers.as_ref().map(headers::policy),
            faults: Some(faults::faults(&spec.faults)).filter(|of| !of.is_empty()),
            rate_limits: Some(rate_limits::rate_limits(policy, &spec.rate_limits))
                .filter(|of| !of.is_empty()),
            overload: spec.overload.as_ref().map(overload::overload),
        }
    }

    /// Returns the names of the groups that are set.
    pub(super) fn names(&self) -> Vec<&'static str> {
        let all = [
            ("timeouts", self.timeouts.is_some()),
            ("retries", self.retries.is_some()),
            ("faults", self.faults.is_some()),
            ("headers", self.headers.is_some()),
            ("rateLimits", self.rate_limits.is_some()),
            ("overload", self.overload.is_some()),
            ("outlierEjection", self.ejection.is_some()),
            ("limits", self.limits.is_some()),
            ("connections", self.connections.is_some()),
            ("loadBalancing", self.balancing.is_some()),
        ];
        let set = all.into_iter().filter(|(_, set)| *set);
        set.map(|(name, _)| name).collect()
    }

    /// The rate limits, which the server's sidecar keeps.
    pub(super) fn rate_limits(&self) -> Option<&[RateLimit]> {
        self.rate_limits.as_deref()
    }

    /// Leaves out the limits that the sidecars of all servers share. Returns the fault, if there is no service that counts them.
    pub(super) fn without_uncounted(
        &mut self,
        spec: &TrafficPolicySpec,
        server: Option<&CalledServer>,
    ) -> Option<ValidationError> {
        let fault = rate_limits::uncounted(&spec.rate_limits, server)?;
        let limits = self.rate_limits.as_mut()?;
        limits.retain(|limit| limit.shared.is_none());
        if limits.is_empty() {
            self.rate_limits = None;
        }
        Some(fault)
    }

    /// The protection from overload, which the server's sidecar keeps.
    pub(super) fn overload(&self) -> Option<&Overload> {
        self.overload.as_ref()
    }

    /// The name of the first group that the server's sidecar keeps.
    pub(super) fn at_servers(&self) -> Option<&'static str> {
        let limits = self.rate_limits.as_ref().map(|_| "spec.rateLimits");
        limits.or(self.overload.as_ref().map(|_| "spec.overload"))
    }

    /// Returns these groups, and those of `other` that are not among them.
    pub(super) fn or(&self, other: &Self) -> Self {
        let (own, other) = (self.clone(), other.clone());
        Self {
            timeouts: own.timeouts.or(other.timeouts),
            retries: own.retries.or(other.retries),
            ejection: own.ejection.or(other.ejection),
            limits: own.limits.or(other.limits),
            connections: own.connections.or(other.connections),
            balancing: own.balancing.or(other.balancing),
            faults: own.faults.or(other.faults),
            headers: own.headers.or(other.headers),
            rate_limits: own.rate_limits.or(other.rate_limits),
            overload: own.overload.or(other.overload),
        }
    }

    /// Sets the groups in a rule.
    pub(super) fn set_in(&self, rule: &mut RoutePolicy) {
        if let Some(timeouts) = &self.timeouts {
            rule.timeouts = timeouts.clone();
        }
        if let Some((retries, _)) = &self.retries {
            rule.retries = retries.clone();
        }
        if let Some(faults) = &self.faults {
            rule.faults = faults.clone();
        }
    }

    /// The changes of headers, before those of a rule.
    pub(super) fn headers(&self) -> Option<&HeaderPolicy> {
        self.headers.as_ref()
    }

    /// The same as [`Self::set_in`] for an upstream.
    pub(super) fn set_in_upstream(&self, upstream: &mut UpstreamPolicy) {
        if let Some(ejection) = self.ejection {
            upstream.ejection = ejection;
        }
        if let Some(limits) = self.limits {
            upstream.limits = limits;
        }
        if let Some((connections, _)) = self.connections {
            upstream.connections = connections;
        }
        if let Some((_, slow_start)) = self.balancing {
            upstream.slow_start = slow_start;
        }
    }

    /// The budget of retries that the policy names.
    pub(super) fn named_budget(&self) -> Option<RetryBudget> {
        self.retries.as_ref().and_then(|(_, budget)| *budget)
    }

    /// Whether the policy sets retries.
    pub(super) const fn sets_retries(&self) -> bool {
        self.retries.is_some()
    }

    /// Whether the policy has requests sent again that an application may have received.
    pub(super) fn resends(&self) -> bool {
        self.retries.as_ref().is_some_and(|(of, _)| of.resends())
    }

    /// How long a connection is kept without a request, by whether an endpoint has no sidecar. None: as without a policy.
    pub(super) fn idle_timeout(&self, unmeshed: bool) -> Option<Duration> {
        let (_, named) = self.connections?;
        Some(named.unwrap_or(idle_timeout(unmeshed)))
    }

    /// How an endpoint is chosen. None: as without a policy.
    pub(super) fn balance(&self) -> Option<&Balance> {
        self.balancing.as_ref().map(|(balance, _)| balance)
    }

    /// The fields that have an effect on callers of a port of a protocol.
    pub(super) fn for_callers(self, protocol: Protocol) -> Self {
        match protocol {
            Protocol::Http => Self {
                rate_limits: None,
                overload: None,
                ..self
            },
            Protocol::Tcp | Protocol::Detect => self.for_bytes(),
        }
    }

    /// The fields that have an effect on connections of bytes. A group without effect is not set.
    fn for_bytes(self) -> Self {
        let ejection = self.ejection.map(Ejection::for_bytes);
        let limits = self.limits.map(|limits| Limits {
            requests: None,
            ..limits
        });
        let connections = self.connections.map(|(of, _)| Connections {
            max_requests: None,
            ..of
        });
        let connections = connections.filter(|of| *of != Connections::default());
        // The listener of a port of bytes would have to know the hash.
        let hash = |(balance, _): &(Balance, _)| matches!(balance, Balance::Hash(_));
        Self {
            timeouts: None,
            retries: None,
            faults: None,
            headers: None,
            rate_limits: None,
            overload: None,
            ejection,
            limits: limits.filter(|of| *of != Limits::default()),
            connections: connections.map(|of| (of, None)),
            balancing: self.balancing.filter(|of| !hash(of)),
        }
    }

    /// Whether they concern upstreams.
    pub(super) fn governs_upstreams(&self) -> bool {
        self.named_budget().is_some()
            || self.resends()
            || self.ejection.is_some()
            || self.limits.is_some()
            || self.connections.is_some()
            || self.balancing.is_some()
    }

    /// The fields that are set and concern requests only.
    pub(super) fn of_requests(&self) -> Vec<&'static str> {
        let Self {
            ejection,
            limits,
            connections,
            balancing,
            ..
        } = self;
        let hash = |(balance, _): &(Balance, _)| matches!(balance, Balance::Hash(_));
        let all = [
            ("timeouts", self.timeouts.is_some()),
            ("retries", self.retries.is_some()),
            ("faults", self.faults.is_some()),
            ("headers", self.headers.is_some()),
            ("rateLimits", self.rate_limits.is_some()),
            ("overload", self.overload.is_some()),
            (
                "outlierEjection.gatewayErrors",
                ejection.is_some_and(|of| of.gateway_errors > 0),
            ),
            (
                "outlierEjection.serverErrors",
                ejection.is_some_and(|of| of.server_errors > 0),
            ),
            (
                "limits.requests",
                limits.is_some_and(|of| of.requests.is_some()),
            ),
            (
                "connections.idleTimeout",
                connections.is_some_and(|(_, idle)| idle.is_some()),
            ),
            (
                "connections.maxRequests",
                connections.is_some_and(|(of, _)| of.max_requests.is_some()),
            ),
            ("loadBalancing.hash", balancing.as_ref().is_some_and(hash)),
        ];
        let set = all.into_iter().filter(|(_, set)| *set);
        set.map(|(name, _)| name).collect()
    }

    /// Whether a field is set that concerns connections of bytes too.
    pub(super) fn concerns_bytes(self) -> bool {
        self.for_bytes() != Self::default()
    }
}

/// The fault of a policy for the rate limit service that asks it.
pub(super) fn check_server(
    spec: &TrafficPolicySpec,
    target: &NamespacedName,
    server: Option<&CalledServer>,
) -> Option<ValidationError> {
    rate_limits::check_server(&spec.rate_limits, target, server)
}

/// Returns the faults of the groups of a spec.
pub(super) fn check(spec: &TrafficPolicySpec) -> Vec<ValidationError> {
    let timeouts = spec.timeouts.iter().flat_map(timeouts::check);
    let retries = spec.retries.iter().flat_map(retries::check);
    let faults = faults::check(&spec.faults);
    let limits = rate_limits::check(&spec.rate_limits);
    let balancing = spec.load_balancing.iter();
    let balancing = balancing.flat_map(upstreams::check_balancing);
    let headers = spec.headers.iter().flat_map(headers::check);
    let all = timeouts.chain(retries).chain(faults).chain(headers);
    let overload = spec.overload.iter().flat_map(overload::check);
    let all = all.chain(limits).chain(overload);
    all.chain(balancing).collect()
}
