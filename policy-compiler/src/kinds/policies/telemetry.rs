//! `Telemetry`: the reports of the sidecars of a namespace or a workload.

use std::sync::Arc;

use heddle_crds::{ConditionType, TelemetrySpec, reason};

use crate::finding::{Finding, ObjectRef};
use crate::kinds::ValidationError;
use crate::kinds::policy::{Attachments, Candidate, ObjectReport, PolicyKind, Selector};
use crate::kinds::service_rules::Rules;
use crate::kinds::telemetry::access_logs;
use crate::telemetry::AccessLogs;
use crate::validation::inputs::Target;
use crate::world::{PodTemplate, to_labels};

/// An object that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TelemetryPolicy {
    pub(crate) object: ObjectRef,
    pub(crate) selector: Selector,
    pub(crate) access_logs: Option<AccessLogs>,
    /// The share of requests that begin a trace, in parts of 10,000.
    pub(crate) traced: Option<u16>,
}

impl TelemetryPolicy {
    pub(crate) fn selects(&self, template: &PodTemplate) -> bool {
        *template.namespace == *self.object.namespace && self.selector.selects(&template.labels)
    }
}

impl PolicyKind for TelemetrySpec {
    /// The objects of the namespace that count, in the order of names.
    type Attachment = Vec<TelemetryPolicy>;

    const RULES: Option<Rules<Self::Attachment>> = None;

    const IN_CLUSTERS: bool = false;

    const IN_BYPASS: Option<&'static str> = None;

    const NO_CONFLICT: Option<&'static str> =
        Some("no other Telemetry sets the same for a pod of this one");

    const FEEDBACK: bool = true;

    fn check(_: &Candidate<'_, Self>, spec: &Self) -> Vec<ValidationError> {
        let mut problems = Vec::new();
        if spec.access_logs.is_none() && spec.tracing.is_none() {
            problems.push(ValidationError::invalid(
                "spec",
                "an object that sets nothing does nothing",
                "add accessLogs or tracing",
            ));
        }
        problems
    }

    fn attach(
        policy: &Candidate<'_, Self>,
        spec: &Self,
        attachments: &mut Attachments<Self>,
        report: &mut ObjectReport<'_>,
    ) {
        let target = Target::Pods(Arc::clone(policy.namespace()));
        let selector = spec.selector.as_ref();
        let mut read = TelemetryPolicy {
            object: policy.declared.object.clone(),
            selector: selector.map_or(Selector::All, |selector| {
                Selector::Labels(to_labels(&selector.match_labels))
            }),
            access_logs: spec.access_logs.as_ref().map(access_logs),
            traced: spec.tracing.as_ref().map(|of| of.percent.of_ten_thousand()),
        };
        if read.traced.is_some() && policy.settings.collector.is_none() {
            without_collector(&read.object, report);
        }
        let others = attachments.entry(target).or_default();
        let alike: Vec<&TelemetryPolicy> = others
            .iter()
            .filter(|other| other.selector == read.selector)
            .collect();
        if let Some(winner) = alike.iter().find(|other| other.access_logs.is_some())
            && read.access_logs.is_some()
        {
            yields(&read.object, &winner.object, "spec.accessLogs", report);
            read.access_logs = None;
        }
        if let Some(winner) = alike.iter().find(|other| other.traced.is_some())
            && read.traced.is_some()
        {
            yields(&read.object, &winner.object, "spec.tracing", report);
            read.traced = None;
        }
        others.push(read);
    }

    fn differing_pods(
        old: Option<&Self::Attachment>,
        new: Option<&Self::Attachment>,
    ) -> Vec<Selector> {
        let all = |attachment: Option<&Self::Attachment>| attachment.cloned().unwrap_or_default();
        let (old, new) = (all(old), all(new));
        let gone = old.iter().filter(|policy| !new.contains(policy));
        let come = new.iter().filter(|policy| !old.contains(policy));
        let differing = gone.chain(come);
        differing.map(|policy| policy.selector.clone()).collect()
    }
}

/// Reports that traces have nowhere to go. The rest of the object is in force.
fn without_collector(object: &ObjectRef, report: &mut ObjectReport<'_>) {
    let message = "the Mesh names no collector, so no sidecar traces";
    let fix = "set spec.telemetry.collector of the Mesh default";
    let (condition, reason) = (ConditionType::ResolvedRefs, reason::COLLECTOR_NOT_FOUND);
    report.status.set(
        condition,
        false,
        reason,
        format!("spec.tracing: {message}; {fix}"),
    );
    let finding = Finding::error(object, "spec.tracing", reason, message.to_owned());
    report.findings.push(finding.fix(fix));
}

/// Reports that another object for the same pods has the place of a section of this one.
fn yields(object: &ObjectRef, winner: &ObjectRef, section: &str, report: &mut ObjectReport<'_>) {
    let message = format!("{winner} wins {section} for the same pods, for its name is smaller");
    let (condition, reason) = (ConditionType::Conflicted, reason::CONFLICT);
    report.status.set(condition, true, reason, message.clone());
    let finding = Finding::error(object, section, reason, message);
    report
        .findings
        .push(finding.fix("set it in one of the two"));
}
