//! Statuses and findings, merged from the results of the units.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Compiled;
use super::report::PolicyFeedback;
use crate::finding::{Finding, ObjectRef};
use crate::kind::ObjectKind;
use crate::status::ObjectStatus;
use crate::validation::ValidationReport;
use crate::world::{NamespacedName, WorkloadRef, in_namespace};

/// A unit that has findings for users.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    Mesh,
    Collector,
    Limiter,
    Namespaces,
    Policies(ObjectKind, Arc<str>),
    Reach(Arc<str>),
    Workload(WorkloadRef),
    Injection,
    Service(NamespacedName),
    Egress(Option<Arc<str>>),
}

impl Compiled {
    /// Puts the statuses and findings of a unit in the place of those of its `old` report.
    pub(super) fn set_report(
        &mut self,
        source: Source,
        old: &ValidationReport,
        new: &ValidationReport,
    ) {
        self.set_findings(source, &new.findings);
        self.set_statuses(old.statuses.keys(), new.statuses.clone());
    }

    /// Puts statuses in the place of those of the `old` objects.
    pub(super) fn set_statuses<'a>(
        &mut self,
        old: impl Iterator<Item = &'a ObjectRef>,
        new: BTreeMap<ObjectRef, ObjectStatus>,
    ) {
        for gone in old.filter(|object| !new.contains_key(*object)) {
            self.statuses.remove(gone);
        }
        for (object, status) in new {
            if self.statuses.get(&object).is_none_or(|old| **old != status) {
                self.statuses.insert(object, Arc::new(status));
            }
        }
    }

    /// Puts findings in the place of those of a unit.
    pub(super) fn set_findings(&mut self, source: Source, findings: &[Finding]) {
        if findings.is_empty() {
            if self.reported.contains_key(&source) {
                self.reported.remove(&source);
            }
        } else if self
            .reported
            .get(&source)
            .is_none_or(|old| **old != *findings)
        {
            self.reported.insert(source, findings.into());
        }
    }

    /// All findings, sorted and without repetition.
    pub(super) fn all_findings(&self) -> Arc<[Finding]> {
        let mut all: Vec<Finding> = self
            .reported
            .values()
            .flat_map(|findings| findings.iter().cloned())
            .collect();
        all.sort();
        all.dedup();
        if *all == *self.findings {
            Arc::clone(&self.findings)
        } else {
            all.into()
        }
    }

    /// Returns the statuses of a namespace's policies, with the feedback of the pods that they select, in the order of the pods' names, and of
    /// the policies of other namespaces.
    pub(super) fn policy_statuses(&self, namespace: &str) -> BTreeMap<ObjectRef, ObjectStatus> {
        let mut statuses = self.validated.before_feedback(namespace);
        if let Some(reached) = self.reached.get(namespace) {
            reached.apply(&mut statuses);
        }
        let mut feedback: Vec<(&Arc<str>, &PolicyFeedback)> = Vec::new();
        for (workload, templates) in in_namespace(&self.served, namespace) {
            for (template, served) in templates.iter().filter(|(_, s)| !s.feedback.is_empty()) {
                let pods = self.pods.get(workload);
                let first = pods.and_then(|pods| pods.get(template)?.get_min());
                feedback.extend(first.map(|first| (first, &served.feedback)));
            }
        }
        feedback.sort_by_key(|(first, _)| *first);
        for (_, feedback) in feedback {
            feedback.apply(&mut statuses);
        }
        self.lose_to_consumers(namespace, &mut statuses);
        statuses
    }
}
