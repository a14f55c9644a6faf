//! The runtime values of a pod: the telemetry objects that select it, else the mesh, decide them.

use std::collections::{BTreeMap, BTreeSet};

use heddle_crds::{ConditionType, reason};

use super::report::PolicyFeedback;
use crate::envoy::{access_log, runtime};
use crate::finding::{Finding, ObjectRef};
use crate::kinds::mesh::Settings;
use crate::kinds::policies::telemetry::TelemetryPolicy;
use crate::kinds::policy::Selector;
use crate::resource::{Part, Resource, ResourceKind};
use crate::world::PodTemplate;

/// The runtime values of a pod by name, and the objects that decide them.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RuntimeInput {
    values: BTreeMap<&'static str, u32>,
    pub(crate) origins: BTreeSet<ObjectRef>,
}

impl RuntimeInput {
    /// The values for the pods of a template. Conflicts become feedback for the statuses of the objects.
    pub(crate) fn new(
        template: &PodTemplate,
        policies: &[&TelemetryPolicy],
        settings: &Settings,
        feedback: &mut PolicyFeedback,
    ) -> Self {
        let selecting = policies.iter().filter(|policy| policy.selects(template));
        let selecting: Vec<&TelemetryPolicy> = selecting.copied().collect();
        let mut input = Self::default();
        let with_logs = selecting
            .iter()
            .filter(|policy| policy.access_logs.is_some());
        let winner = winner(with_logs.copied(), "spec.accessLogs", template, feedback);
        let (logs, origin) = match winner {
            Some(policy) => (policy.access_logs, Some(&policy.object)),
            None => (settings.access_logs, settings.origin.as_ref()),
        };
        if let Some(logs) = logs {
            input.values.extend(access_log::runtime(logs));
            input.origins.extend(origin.cloned());
        }
        input
    }

    /// Whether an object sets a value. If not, the proxy has no layer.
    pub(crate) fn has_values(&self) -> bool {
        !self.values.is_empty()
    }
}

/// Makes the runtime layer of a pod.
pub(crate) fn runtime_layer(input: &RuntimeInput) -> Part {
    let values = input.values.iter().map(|(name, value)| (*name, *value));
    let resource = Resource::new(
        ResourceKind::Runtime,
        heddle_xds_types::bootstrap::RUNTIME_LAYER,
        runtime::layer(values),
        Vec::new(),
        input.origins.clone(),
    );
    Part {
        resources: vec![resource],
    }
}

/// The object that decides: one with a selector before one of the whole namespace, then the one with the smaller name.
fn winner<'a>(
    policies: impl Iterator<Item = &'a TelemetryPolicy>,
    field: &str,
    template: &PodTemplate,
    feedback: &mut PolicyFeedback,
) -> Option<&'a TelemetryPolicy> {
    let (of_all, of_some): (Vec<_>, Vec<_>) =
        policies.partition(|policy| policy.selector == Selector::All);
    for alike in [&of_some, &of_all] {
        if let Some((first, losers)) = alike.split_first() {
            for loser in losers {
                conflict(loser, first, field, template, feedback);
            }
        }
    }
    of_some.first().or(of_all.first()).copied()
}

fn conflict(
    loser: &TelemetryPolicy,
    winner: &TelemetryPolicy,
    field: &str,
    template: &PodTemplate,
    feedback: &mut PolicyFeedback,
) {
    let message = format!(
        "{} wins {field} for {}/{}, for its name is smaller",
        winner.object, template.namespace, template.owner
    );
    let (condition, reason) = (ConditionType::Conflicted, reason::CONFLICT);
    feedback.condition(&loser.object, condition, true, reason, &message);
    let finding = Finding::error(&loser.object, field, reason, message);
    feedback
        .findings
        .push(finding.fix("set it in one of the two, or select other pods"));
}
