//! The policies of a target, and the one policy that they are for a port.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::port_policy::{DeclaredPolicy, PortPolicy};
use crate::finding::ObjectRef;
use crate::kinds::traffic_policy::PolicyGroups;
use crate::traffic::{
    Ejection, ExternalHost, ExternalProtocol, HeaderPolicy, HostPolicy, Overload, RateLimit, RuleId,
};
use crate::world::{Port, Protocol};

/// The part of a target that a policy names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    /// All ports of a service or ExternalService, or all rules of a route.
    Whole,
    /// A port.
    Port(Port),
    /// The rules of a route that have a name.
    Rule(Arc<str>),
}

impl Part {
    pub(super) fn of_ports(port: Option<Port>) -> Self {
        port.map_or(Self::Whole, Self::Port)
    }

    pub(super) const fn port(&self) -> Option<Port> {
        match self {
            Self::Port(port) => Some(*port),
            Self::Whole | Self::Rule(_) => None,
        }
    }
}

/// The policies of a service, an ExternalService or a route: for the whole of it, and for single ports or rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TargetPolicies {
    pub(super) policies: BTreeMap<Part, DeclaredPolicy>,
}

/// The fields of an object that the pods behind all ports keep, or behind one.
type KeptFields<'a> = (
    Option<Port>,
    &'a ObjectRef,
    Option<&'a [RateLimit]>,
    Option<&'a Overload>,
);

impl TargetPolicies {
    /// The policy of a port, as far as it has an effect on callers by its protocol.
    pub(crate) fn of(&self, port: Port, protocol: Protocol) -> PortPolicy<'_> {
        let layers = self.layers([Part::Port(port), Part::Whole]);
        PortPolicy::layered(layers, protocol)
    }

    /// The policy of a port for callers of the namespace of these policies, given that of the namespace of the service.
    pub(crate) fn before<'a>(&'a self, port: Port, policy: &PortPolicy<'a>) -> PortPolicy<'a> {
        policy.with_consumers(self.layers([Part::Port(port), Part::Whole]))
    }

    /// Whether a policy holds for a port.
    pub(crate) fn has_port(&self, port: Port) -> bool {
        let parts = [Part::Port(port), Part::Whole];
        parts.iter().any(|part| self.policies.contains_key(part))
    }

    /// The policies of a route that hold for one of its rules, that of the rule first.
    pub(crate) fn of_rule(&self, rule: &RuleId) -> Vec<&DeclaredPolicy> {
        let named = rule.rule_name().cloned().map(Part::Rule);
        self.layers(named.into_iter().chain([Part::Whole]))
    }

    pub(super) fn layers(&self, parts: impl IntoIterator<Item = Part>) -> Vec<&DeclaredPolicy> {
        let parts = parts.into_iter();
        parts.filter_map(|part| self.policies.get(&part)).collect()
    }

    /// The policy of a host outside. None: no policy has an effect on it.
    pub(crate) fn of_host(&self, host: &ExternalHost) -> Option<HostPolicy> {
        let protocol = match host.protocol {
            ExternalProtocol::Http => Protocol::Http,
            ExternalProtocol::Tls => Protocol::Tcp,
        };
        let policy = self.of(host.port, protocol);
        let mut own = HostPolicy {
            headers: policy.headers(&HeaderPolicy::default()),
            idle_timeout: policy.idle_timeout(true),
            objects: policy.objects().cloned().collect(),
            ..Default::default()
        };
        own.upstream.ejection = Ejection::NEVER;
        policy.set_in(&mut own.requests);
        policy.set_in_upstream(&mut own.upstream);
        own.requests.timeouts = own.requests.timeouts.without_zeros();
        if own.upstream.ejection.happens() {
            // A host is the one endpoint of its cluster.
            own.upstream.ejection.max_percent = 100;
        }
        (!own.objects.is_empty()).then_some(own)
    }

    /// The objects of a port: the one that names it, then the one of all ports.
    pub(crate) fn of_port(&self, port: Port) -> impl Iterator<Item = &ObjectRef> {
        let layers = self.layers([Part::Port(port), Part::Whole]);
        layers.into_iter().map(|of| &of.object)
    }

    /// The objects that name a budget of retries, with the one port that they name.
    pub(crate) fn named_budgets(&self) -> impl Iterator<Item = (Option<Port>, &ObjectRef)> {
        let all = self.policies.iter();
        let named = all.filter(|(_, of)| of.groups.named_budget().is_some());
        named.map(|(part, of)| (part.port(), &of.object))
    }

    /// The rate limits of the pods behind a port, and the object that sets them.
    pub(crate) fn rate_limits(&self, port: Port) -> Option<(&ObjectRef, &[RateLimit])> {
        self.winner(port, PolicyGroups::rate_limits)
    }

    /// The protection of the pods behind a port from overload, and the object that sets it.
    pub(crate) fn overload(&self, port: Port) -> Option<(&ObjectRef, &Overload)> {
        self.winner(port, PolicyGroups::overload)
    }

    /// A group of fields of a port: that of the policy which names it, else that of the policy of all ports.
    fn winner<'a, T>(
        &'a self,
        port: Port,
        group: impl Fn(&'a PolicyGroups) -> Option<T>,
    ) -> Option<(&'a ObjectRef, T)> {
        let layers = self.layers([Part::Port(port), Part::Whole]);
        let mut set = layers
            .into_iter()
            .filter_map(|of| Some((&of.object, group(&of.groups)?)));
        set.next()
    }

    /// The objects with fields that the pods behind all ports keep, or behind one, and the first of these fields.
    pub(crate) fn at_servers(
        &self,
    ) -> impl Iterator<Item = (Option<Port>, &ObjectRef, &'static str)> {
        let all = self.policies.iter();
        all.filter_map(|(part, of)| Some((part.port(), &of.object, of.groups.at_servers()?)))
    }

    /// Whether the fields that the pods keep differ, or the objects that set them.
    pub(super) fn server_side_differs(&self, other: &Self) -> bool {
        !self.kept().eq(other.kept())
    }

    fn kept(&self) -> impl Iterator<Item = KeptFields<'_>> {
        let all = self.policies.iter();
        let kept = all.filter(|(_, of)| of.groups.at_servers().is_some());
        kept.map(|(part, of)| {
            let groups = &of.groups;
            let (limits, overload) = (groups.rate_limits(), groups.overload());
            (part.port(), &of.object, limits, overload)
        })
    }
}
