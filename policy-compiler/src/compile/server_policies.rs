//! The traffic policies of a pod's ports that its own sidecar keeps, by the services that lead to the ports.

use std::collections::{BTreeMap, BTreeSet};

use heddle_crds::reason;

use super::report::PolicyFeedback;
use super::service_targets::PortReference;
use super::validated::OfKind;
use crate::finding::{Finding, ObjectRef};
use crate::kinds::policies::traffic_policy::TargetPolicies;
use crate::settings::Settings;
use crate::traffic::{RateLimit, ServerPolicy};
use crate::validation::inputs::Target;
use crate::world::{Port, Protocol};

/// The policy of a port of a pod.
#[derive(Debug, Default)]
pub(crate) struct PortServerPolicy {
    /// Each limit and each protection once.
    pub(crate) policy: ServerPolicy,
    limiting: BTreeSet<ObjectRef>,
    protecting: BTreeSet<ObjectRef>,
}

impl PortServerPolicy {
    /// The policies that set it.
    pub(crate) fn origins(&self) -> impl Iterator<Item = &ObjectRef> {
        self.limiting.union(&self.protecting)
    }
}

/// Returns the policies of the ports that services lead to. A sidecar does not know by which service a request came, so those of all
/// services of a port hold for each request.
pub(crate) fn server_policies(
    targets: &BTreeMap<Port, Vec<PortReference<'_>>>,
    policies: &OfKind<TargetPolicies>,
    settings: &Settings,
    feedback: &mut PolicyFeedback,
) -> BTreeMap<Port, PortServerPolicy> {
    let mut ports: BTreeMap<Port, PortServerPolicy> = BTreeMap::new();
    for (port, references) in targets {
        let counts = settings.limiter.as_ref().filter(|server| {
            let mut references = references.iter();
            !references.any(|of| server.is(&of.service.name, of.port))
        });
        for reference in references.iter().filter(|of| of.protocol == Protocol::Http) {
            let target = Target::Service(reference.service.name.clone());
            // Never a policy of another namespace: that one is for its own callers.
            let own = &*reference.service.name.namespace;
            let attached = || policies.of_namespace(&target, own).into_iter();
            if let Some((object, limits)) = attached().find_map(|of| of.rate_limits(reference.port))
            {
                let kept = |of: &&RateLimit| of.shared.is_none() || counts.is_some();
                let kept: Vec<&RateLimit> = limits.iter().filter(kept).collect();
                if kept.len() < limits.len() {
                    report_own_limits(object, reference, feedback);
                }
                if !kept.is_empty() {
                    let port = ports.entry(*port).or_default();
                    if port.limiting.insert(object.clone()) {
                        let asks = kept.iter().any(|of| of.shared.is_some());
                        port.policy.limits.extend(kept.into_iter().cloned());
                        port.policy.objects.insert(object.clone());
                        let questions = asks.then_some(settings.questions);
                        port.policy.questions = port.policy.questions.or(questions);
                    }
                }
            }
            if let Some((object, overload)) = attached().find_map(|of| of.overload(reference.port))
            {
                let port = ports.entry(*port).or_default();
                if port.protecting.insert(object.clone()) {
                    port.policy.overload.push(overload.clone());
                    port.policy.objects.insert(object.clone());
                }
            }
        }
    }
    ports
}

/// Reports shared limits of a port that is the rate limit service's own, by another service that leads there.
fn report_own_limits(
    object: &ObjectRef,
    reference: &PortReference<'_>,
    feedback: &mut PolicyFeedback,
) {
    let message = format!(
        "port {} of service {} leads to the rate limit service, which cannot count calls to itself: its shared limits are not kept",
        reference.port, reference.service.name
    );
    let finding = Finding::warning(object, "spec.rateLimits", reason::INVALID, message);
    let fix = "leave shared out: then each pod counts for itself";
    feedback.findings.push(finding.fix(fix));
}
