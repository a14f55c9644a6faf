//! The policies of the routes of a port.

use std::collections::BTreeMap;

use super::attached::TargetPolicies;
use super::port_policy::{PortPolicy, Resent};
use crate::finding::ObjectRef;
use crate::traffic::{Backend, Retries, RouteEntry, RuleId};

/// The policies of the routes of a port, by route. Most ports have none.
#[derive(Debug, Default)]
pub(crate) struct RulePolicies<'a>(BTreeMap<&'a ObjectRef, &'a TargetPolicies>);

impl<'a> RulePolicies<'a> {
    /// The policies of the routes of these rules, as `attached` finds them for a route.
    pub(crate) fn of(
        rules: &[&'a RouteEntry],
        attached: impl Fn(&'a ObjectRef) -> Option<&'a TargetPolicies>,
    ) -> Self {
        let mut all = BTreeMap::new();
        let mut last = None;
        for object in rules.iter().filter_map(|entry| entry.rule.id.object()) {
            // The entries of a route follow each other.
            if last.replace(object) != Some(object) {
                all.extend(attached(object).map(|policies| (object, policies)));
            }
        }
        Self(all)
    }

    /// The policy of the requests of a rule, given that of its port. None: no policy names the route or the rule.
    pub(crate) fn policy(&self, rule: &RuleId, port: &PortPolicy<'a>) -> Option<PortPolicy<'a>> {
        let closer = self.0.get(rule.object()?)?.of_rule(rule);
        (!closer.is_empty()).then(|| port.of_rule(closer))
    }

    /// The backends to which rules, or the policies of their routes, have requests sent again that an application may have received.
    pub(crate) fn resent(
        &self,
        rules: &[&'a RouteEntry],
        of_port: &PortPolicy<'a>,
    ) -> BTreeMap<&'a Backend, Resent<'a>> {
        let mut all: BTreeMap<&Backend, Resent<'_>> = BTreeMap::new();
        for rule in rules.iter().map(|entry| &*entry.rule) {
            let by_rule = rule.policy.retries.resends();
            // The retries of a rule itself are those in force.
            let unsaid = rule.policy.retries == Retries::default();
            let by_policy = self.policy(&rule.id, of_port).filter(|_| unsaid);
            let by_policy = by_policy.and_then(|of| of.resending());
            if !by_rule && by_policy.is_none() {
                continue;
            }
            for backend in rule.backends() {
                let resent = all.entry(backend).or_default();
                resent.by_rule |= by_rule;
                resent.policies.extend(by_policy);
            }
        }
        all
    }
}
