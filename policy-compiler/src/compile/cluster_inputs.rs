//! The inputs of the clusters of a service: its rules and policies for each kind of callers, and its endpoints.

use std::collections::BTreeSet;
use std::sync::Arc;

use heddle_crds::{TrafficPolicySpec, XBackendTrafficPolicySpec};

use super::Compiled;
use super::endpoints::{ReachableEndpoints, reached};
use super::facet::{Caller, Callers, Facet};
use crate::kind::ObjectKind;
use crate::kinds::mesh::Settings;
use crate::kinds::policies::traffic_policy::{PortPolicy, RulePolicies};
use crate::kinds::policies::x_backend_traffic_policy::BackendPolicy;
use crate::kinds::service_rules::RuleKind;
use crate::traffic::{Backend, Otherwise, RouteEntry};
use crate::validation::Recorder;
use crate::validation::inputs::Target;
use crate::world::{DeclaredSpec, Labels, NamespacedName, Port, Protocol, Service, ServicePort};

/// The inputs of the clusters of a service.
pub(crate) struct ClusterInputs<'a> {
    pub(crate) recorder: &'a Recorder<'a>,
    pub(super) compiled: &'a Compiled,
    pub(crate) settings: &'a Settings,
}

impl<'a> ClusterInputs<'a> {
    pub(super) fn new(recorder: &'a Recorder<'a>, compiled: &'a Compiled) -> Self {
        Self {
            recorder,
            compiled,
            settings: &compiled.settings,
        }
    }

    /// The rules of a port in force, for the callers of a namespace with routes of its own, or for all others.
    fn rules(
        &self,
        service: &NamespacedName,
        port: Port,
        callers: Option<&Arc<str>>,
    ) -> Vec<&'a RouteEntry> {
        for kind in ObjectKind::with_rules() {
            self.recorder.record_attached(kind, service);
        }
        let validated = &self.compiled.validated;
        validated.rules(service, port, callers).collect()
    }

    /// Whether a port differs for callers of bypassed namespaces, given its rules for all callers.
    fn has_bypass(
        &self,
        service: &NamespacedName,
        port: &ServicePort,
        rules: &[&RouteEntry],
    ) -> bool {
        if self.settings.bypassed.is_empty() {
            return false;
        }
        // Also where a port has no rules of bytes: the last of these reads asks for routes.
        for kind in ObjectKind::with(RuleKind::Route) {
            self.recorder.record_attached(kind, service);
        }
        let policy = self.policy(service, port.port, port.protocol);
        !rules.is_empty()
            || policy.objects().next().is_some()
            || self.backend_policy(service).is_some()
            || self.settings.plain.is_some()
            || self.compiled.validated.otherwise(service, port.port, None) == Otherwise::NotFound
    }

    /// The callers that have rules of a port apart, with the rules: all, and the namespaces with routes of their own.
    pub(super) fn rules_by_callers(
        &self,
        service: &NamespacedName,
        port: Port,
    ) -> Vec<(Callers<'a>, Vec<&'a RouteEntry>)> {
        let callers = self.compiled.validated.callers(service, port).into_iter();
        callers
            .map(|callers| (Callers::of(callers), self.rules(service, port, callers)))
            .collect()
    }

    /// Adds the callers of bypassed namespaces, where a port differs for them.
    fn with_bypass(
        &self,
        service: &NamespacedName,
        port: &ServicePort,
        mut all: Vec<(Callers<'a>, Vec<&'a RouteEntry>)>,
    ) -> Vec<(Callers<'a>, Vec<&'a RouteEntry>)> {
        let rules = all.first().map_or(&[][..], |(_, rules)| rules);
        if self.has_bypass(service, port, rules) {
            all.push((Callers::Bypassed, Vec::new()));
        }
        all
    }

    /// The callers of a port that have rules or policies apart, with the rules that decide about connections. On a port that declares HTTP
    /// there are none: elsewhere a rule shifts weight in the endpoints of one cluster.
    pub(super) fn rules_of_bytes(
        &self,
        service: &Service,
        port: &ServicePort,
    ) -> Vec<(Callers<'a>, Vec<&'a RouteEntry>)> {
        let name = &service.name;
        let all = match port.protocol {
            Protocol::Http => vec![(Callers::All, Vec::new())],
            Protocol::Tcp | Protocol::Detect => {
                for kind in ObjectKind::with_rules() {
                    self.recorder.record_own_attached(kind);
                }
                self.rules_by_callers(name, port.port)
            }
        };
        self.with_bypass(name, port, all)
    }

    /// The callers of a port that have rules or policies apart, with their rules.
    pub(super) fn rules_of_requests(
        &self,
        service: &NamespacedName,
        port: &ServicePort,
    ) -> Vec<(Callers<'a>, Vec<&'a RouteEntry>)> {
        let mut all = self.rules_by_callers(service, port.port);
        let validated = &self.compiled.validated;
        if port.protocol == Protocol::Http {
            let with_routes = validated.consumers(service, port.port);
            for namespace in validated.policy_consumers(service, port.port) {
                if !with_routes.contains(namespace) {
                    let rules = self.rules(service, port.port, None);
                    all.push((Callers::Of(namespace), rules));
                }
            }
        }
        self.with_bypass(service, port, all)
    }

    /// The policy of a port for some callers.
    pub(super) fn policy_for(
        &self,
        facet: &Facet,
        service: &NamespacedName,
        port: Port,
        protocol: Protocol,
    ) -> PortPolicy<'a> {
        if facet.bypassed {
            return PortPolicy::default();
        }
        let policy = self.policy(service, port, protocol);
        let validated = &self.compiled.validated;
        let namespace = facet
            .namespace
            .as_ref()
            .filter(|_| protocol == Protocol::Http);
        let own = namespace.and_then(|of| validated.consumer_policies(service, port, of));
        own.map_or(policy.clone(), |own| own.before(port, &policy))
    }

    /// The answer to requests of some callers that no rule of a port takes. The rules are read before.
    pub(super) fn otherwise_for(
        &self,
        facet: &Facet,
        service: &NamespacedName,
        port: Port,
    ) -> Otherwise {
        let validated = &self.compiled.validated;
        match facet.bypassed {
            true => Otherwise::WholeService,
            false => {
                // A namespace may have policies of its own without routes.
                let namespace = facet.namespace.as_ref();
                let callers = namespace.and_then(|of| validated.consumer(service, port, of));
                validated.otherwise(service, port, callers)
            }
        }
    }

    /// The traffic policy in force of a port with a protocol.
    fn policy(&self, service: &NamespacedName, port: Port, protocol: Protocol) -> PortPolicy<'a> {
        self.recorder
            .record_attached(TrafficPolicySpec::KIND, service);
        let attached = self.compiled.validated.traffic_policies_of(service);
        attached.map_or_else(PortPolicy::default, |policies| policies.of(port, protocol))
    }

    /// The policies of the routes that have these rules. Callers of bypassed namespaces have no rules.
    pub(super) fn rule_policies(&self, rules: &[&'a RouteEntry]) -> RulePolicies<'a> {
        let policies = &self.compiled.validated.traffic_policies;
        RulePolicies::of(rules, |route| {
            self.recorder
                .record_of_route(TrafficPolicySpec::KIND, route);
            policies.attached(&Target::Route(route.clone())).next()
        })
    }

    /// The policy of a port for some callers, where it is the backend too.
    pub(super) fn policy_at_backend(
        &self,
        facet: &Facet,
        service: &NamespacedName,
        port: Port,
        protocol: Protocol,
    ) -> PortPolicy<'a> {
        let backend = match protocol {
            // As a backend of a rule, a port that declares nothing gets requests too.
            Protocol::Http | Protocol::Detect => self.backend_policy_for(facet, service),
            Protocol::Tcp => None,
        };
        let policy = self.policy_for(facet, service, port, protocol);
        policy.at_backend(backend)
    }

    /// The policy of a service as a backend of the requests of some callers.
    pub(super) fn backend_policy_for(
        &self,
        facet: &Facet,
        service: &NamespacedName,
    ) -> Option<&'a BackendPolicy> {
        match facet.bypassed {
            true => None,
            false => self.backend_policy(service),
        }
    }

    /// The policy in force of a service as a backend of requests.
    fn backend_policy(&self, service: &NamespacedName) -> Option<&'a BackendPolicy> {
        let kind = XBackendTrafficPolicySpec::KIND;
        self.recorder.record_attached(kind, service);
        let policies = &self.compiled.validated.backend_policies;
        policies.attached(&Target::Service(service.clone())).next()
    }

    pub(super) fn reached(
        &self,
        service: &NamespacedName,
        port: Port,
        subset: Option<&Labels>,
        caller: Caller<'_>,
    ) -> ReachableEndpoints {
        reached(
            self.recorder.endpoint_inputs(),
            self.settings,
            service,
            port,
            subset,
            caller,
        )
    }

    /// Returns the kinds of callers for which a port is compiled, given the rules that count there for callers of a namespace.
    pub(super) fn facets(
        &self,
        service: &Service,
        port: Port,
        rules: &[&RouteEntry],
        callers: Callers<'_>,
    ) -> Vec<Facet> {
        let backends = rules.iter().flat_map(|entry| entry.rule.backends());
        let backends = backends.filter_map(|backend| match backend {
            Backend::Service(name, port) => Some((name, *port)),
            Backend::Subset(..) | Backend::Invalid(_) => None,
        });
        let called = std::iter::once((&service.name, port)).chain(backends);
        let nodes: BTreeSet<&Arc<str>> = called
            .flat_map(|(name, port)| self.recorder.endpoint_inputs().nodes(name, port))
            .collect();
        let families = [None].into_iter().chain(service.second_family().map(Some));
        let facets = families.flat_map(|family| {
            let nodes = nodes.iter().map(|node| Some(Arc::clone(node)));
            let nodes = [None].into_iter().chain(nodes);
            nodes.map(move |node| Facet {
                family,
                node,
                namespace: callers.namespace().cloned(),
                bypassed: callers == Callers::Bypassed,
            })
        });
        facets.collect()
    }
}
