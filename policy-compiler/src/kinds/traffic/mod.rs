//! The groups of fields of a `TrafficPolicy`: their checks, and their meaning in the traffic model. One file for each group.

mod faults;
mod retries;
mod timeouts;

use heddle_crds::TrafficPolicySpec;

use super::ValidationError;
use crate::traffic::{Fault, Retries, RetryBudget, RoutePolicy, Timeouts, UpstreamPolicy};

/// The groups that a policy sets. Of two policies for a port one wins a group as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PolicyGroups {
    timeouts: Option<Timeouts>,
    retries: Option<(Retries, Option<RetryBudget>)>,
    faults: Option<Vec<Fault>>,
}

impl PolicyGroups {
    /// The groups of a spec.
    pub(super) fn of(spec: &TrafficPolicySpec) -> Self {
        Self {
            timeouts: spec.timeouts.as_ref().map(timeouts::timeouts),
            retries: spec
                .retries
                .as_ref()
                .map(|of| (retries::retries(of), retries::budget(of))),
            faults: Some(faults::faults(&spec.faults)).filter(|of| !of.is_empty()),
        }
    }

    /// Returns the names of the groups that are set.
    pub(super) fn names(&self) -> Vec<&'static str> {
        let Self {
            timeouts,
            retries,
            faults,
        } = self;
        let all = [
            ("timeouts", timeouts.is_some()),
            ("retries", retries.is_some()),
            ("faults", faults.is_some()),
        ];
        let set = all.into_iter().filter(|(_, set)| *set);
        set.map(|(name, _)| name).collect()
    }

    /// Returns these groups, and those of `other` that are not among them.
    pub(super) fn or(&self, other: &Self) -> Self {
        Self {
            timeouts: self.timeouts.clone().or_else(|| other.timeouts.clone()),
            retries: self.retries.clone().or_else(|| other.retries.clone()),
            faults: self.faults.clone().or_else(|| other.faults.clone()),
        }
    }

    /// Sets the groups in a rule.
    pub(crate) fn set_in(&self, rule: &mut RoutePolicy) {
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

    /// The same for an upstream.
    pub(crate) fn set_in_upstream(&self, upstream: &mut UpstreamPolicy) {
        if let Some((_, Some(budget))) = &self.retries {
            upstream.retry_budget = Some(*budget);
        }
    }

    /// Whether they say anything of upstreams.
    pub(crate) fn governs_upstreams(&self) -> bool {
        let mut upstream = UpstreamPolicy::default();
        self.set_in_upstream(&mut upstream);
        upstream != UpstreamPolicy::default()
    }
}

/// Returns the faults of the groups of a spec.
pub(super) fn check(spec: &TrafficPolicySpec) -> Vec<ValidationError> {
    let timeouts = spec.timeouts.iter().flat_map(timeouts::check);
    let retries = spec.retries.iter().flat_map(retries::check);
    let faults = faults::check(&spec.faults);
    timeouts.chain(retries).chain(faults).collect()
}
