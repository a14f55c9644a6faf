//! The state of a service and of the policies of a workload, as the compile has it: for `heddle describe`.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::super::Compiled;
use super::deciding;
use super::explanation::DecidingRule;
use super::servers::{Arriving, ReadyEndpoint};
use crate::authz::PortAuthz;
use crate::finding::ObjectRef;
use crate::kinds::policies::traffic_policy::{MetPolicy, PolicyTarget, PortPolicy};
use crate::traffic::{self, Backend, Retries, RouteEntry, RoutePolicy, RouteRule, Timeouts};
use crate::validation::inputs::Target;
use crate::world::{NamespacedName, PodTemplate, Port, Protocol};

/// The method of requests that may be sent again.
const IDEMPOTENT: &str = "GET";

/// The rules of a port of a service for some callers, by precedence.
#[derive(Clone, Debug)]
pub struct PortRules<'a> {
    /// The namespace of the callers, which has routes or traffic policies of its own. `None`: all others.
    pub callers: Option<Arc<str>>,
    /// The rules: the first that matches counts.
    pub entries: Vec<DescribedRule<'a>>,
}

/// A rule of a port of a service.
#[derive(Clone, Copy, Debug)]
pub struct DescribedRule<'a> {
    /// The match, and the rule with its policies as it is in force.
    pub entry: &'a RouteEntry,
    /// The rule as its object declares it: its backends have the reasons for which they are invalid.
    pub declared: &'a RouteRule,
}

impl DescribedRule<'_> {
    /// Returns the rule as it is for requests of every kind: all faults that it has, and the retries of idempotent requests.
    /// `requests` is false on a port of bytes, which are never sent again.
    #[must_use]
    pub fn in_force(&self, requests: bool) -> DecidingRule {
        let rule = &self.entry.rule;
        DecidingRule {
            faults: rule.policy.faults.clone(),
            mirrors: self.declared.mirrors().to_vec(),
            sticky: rule.sticky().cloned(),
            session: rule.session().cloned(),
            ..deciding(
                rule,
                self.entry.matcher.clone(),
                requests.then_some(IDEMPOTENT),
            )
        }
    }
}

impl Compiled {
    /// Returns the AuthPolicies in force that select the pods of a template, in the order in which they decide about mTLS.
    #[must_use]
    pub fn selecting(&self, template: &PodTemplate) -> Vec<&ObjectRef> {
        let policies = self.auth_policies(template);
        policies.into_iter().map(|policy| &policy.object).collect()
    }

    /// Returns the policies of the traffic of a port of a service: each group of fields is that of the first one that sets it. A budget that
    /// a `TrafficPolicy` names comes before that of an `XBackendTrafficPolicy`. Those of other namespaces, which hold for their own callers
    /// alone, are the last ones.
    #[must_use]
    pub fn traffic_policies(&self, service: &NamespacedName, port: Port) -> Vec<&ObjectRef> {
        let target = Target::Service(service.clone());
        let validated = &self.validated;
        let backend = validated.backend_policies.attached(&target);
        let backend = backend.map(|of| &of.object);
        let own = validated.traffic_policies_of(service).into_iter();
        let consumers = validated.policy_consumers(service, port).into_iter();
        let others = consumers.filter_map(|of| validated.consumer_policies(service, port, of));
        own.flat_map(|of| of.of_port(port))
            .chain(backend)
            .chain(others.flat_map(|of| of.of_port(port)))
            .collect()
    }

    /// Returns the policies in force that the requests of an entry of a port meet, from callers of a namespace, by precedence: each group of
    /// fields is that of the first one that sets it. Timeouts and retries of the rule itself come before all of them.
    #[must_use]
    pub fn met_policies(
        &self,
        service: &NamespacedName,
        port: Port,
        callers: Option<&str>,
        entry: &RouteEntry,
    ) -> Vec<MetPolicy> {
        let (policies, rule) = (&self.validated.traffic_policies, &entry.rule);
        let own = self.validated.traffic_policies_of(service);
        let mut of_port = own.map_or_else(PortPolicy::default, |of| of.of(port, Protocol::Http));
        let consumers = callers.and_then(|of| self.validated.consumer_policies(service, port, of));
        if let Some(consumers) = consumers {
            of_port = consumers.before(port, &of_port);
        }
        let route = rule.id.object().map(|route| Target::Route(route.clone()));
        let of_route = route.and_then(|route| policies.attached(&route).next());
        let of_rule = of_route.map(|of| of_port.of_rule(of.of_rule(&rule.id)));
        let mut met = of_rule.unwrap_or(of_port).met();
        // Callers of bypassed namespaces meet none.
        met.retain(|of| rule.origins.contains(&of.object));
        let declared = self.declared_rule(service, port, entry);
        let own = rule.id.object().filter(|_| !met.is_empty());
        let own = own.and_then(|object| itself(object, &declared.policy));
        own.into_iter().chain(met).collect()
    }

    /// Returns the rules of a port of a service: for all callers, and for those of namespaces with routes of their own.
    #[must_use]
    pub fn port_rules(&self, service: &NamespacedName, port: Port) -> Vec<PortRules<'_>> {
        let sides = self.clients.get(service).into_iter();
        let sides = sides
            .flat_map(|sides| &**sides)
            .filter(|((number, facet), _)| {
                *number == port && facet.node.is_none() && facet.family.is_none() && !facet.bypassed
            });
        let tables = sides.filter_map(|((_, facet), side)| Some((&facet.namespace, side.table()?)));
        let tables = tables.map(|(callers, table)| PortRules {
            callers: callers.clone(),
            entries: table
                .hosts
                .iter()
                .flat_map(|host| &host.entries)
                .map(|entry| DescribedRule {
                    entry,
                    declared: self.declared_rule(service, port, entry),
                })
                .collect(),
        });
        let tables: Vec<PortRules<'_>> = tables.collect();
        if !tables.is_empty() {
            return tables;
        }
        // Bytes: the rules for connections, of all callers and of namespaces with routes of their own.
        let callers = self.validated.callers(service, port).into_iter();
        let rules = callers.map(|callers| {
            let rules = self.validated.rules_of_bytes(service, port, callers);
            let entries = rules.into_iter().map(|entry| DescribedRule {
                entry,
                declared: &entry.rule,
            });
            PortRules {
                callers: callers.cloned(),
                entries: entries.collect(),
            }
        });
        rules.collect()
    }

    /// Returns the endpoints of a backend that take calls from a node without endpoints of its own.
    #[must_use]
    pub fn ready_endpoints(&self, backend: &Backend) -> BTreeSet<ReadyEndpoint> {
        let arriving = Arriving {
            identity: None,
            bypassed: false,
            node: None,
            source: None,
            family: None,
            protocol: Protocol::Detect,
            tls: false,
            scope: None,
            request: traffic::Request::default(),
        };
        self.ready(&arriving, backend)
    }
}

/// The groups of fields that a rule sets itself.
fn itself(object: &ObjectRef, policy: &RoutePolicy) -> Option<MetPolicy> {
    let Timeouts {
        request,
        per_try,
        idle,
    } = &policy.timeouts;
    let all = [
        ("timeouts.request", request.is_some()),
        ("timeouts.perTry", per_try.is_some()),
        ("timeouts.idle", idle.is_some()),
        ("retries", policy.retries != Retries::default()),
    ];
    let set = all.into_iter().filter(|(_, set)| *set);
    let groups: Vec<&'static str> = set.map(|(name, _)| name).collect();
    (!groups.is_empty()).then(|| MetPolicy {
        object: object.clone(),
        target: PolicyTarget::Itself,
        groups,
    })
}

/// Whether rules leave every caller in.
#[must_use]
pub fn admits_all(authz: &PortAuthz) -> bool {
    authz.default_allow && authz.rules.iter().all(|rule| rule.audit)
}
