//! The results of validation beside the resources: statuses and findings.

use std::collections::BTreeMap;

use heddle_crds::{ConditionStatus, ConditionType};

use crate::finding::{Finding, ObjectRef};
use crate::status::ObjectStatus;

/// The report of one unit about the objects that it validates.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ValidationReport {
    pub(crate) statuses: BTreeMap<ObjectRef, ObjectStatus>,
    pub(crate) findings: Vec<Finding>,
}

/// Feedback of a unit about objects that another unit validates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PolicyFeedback {
    conditions: Vec<Remark>,
    pub(crate) findings: Vec<Finding>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Remark {
    object: ObjectRef,
    kind: ConditionType,
    holds: bool,
    reason: &'static str,
    message: String,
}

impl PolicyFeedback {
    /// A condition as it is seen from here.
    pub(crate) fn condition(
        &mut self,
        object: &ObjectRef,
        kind: ConditionType,
        holds: bool,
        reason: &'static str,
        message: &str,
    ) {
        self.conditions.push(Remark {
            object: object.clone(),
            kind,
            holds,
            reason,
            message: message.to_owned(),
        });
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.conditions.is_empty() && self.findings.is_empty()
    }

    /// Sets each condition unless it already has this verdict: the first reason found stays, and audit outranks details.
    pub(crate) fn apply(&self, statuses: &mut BTreeMap<ObjectRef, ObjectStatus>) {
        for remark in &self.conditions {
            let Some(status) = statuses.get_mut(&remark.object) else {
                continue;
            };
            let present = status.condition(remark.kind).map(|c| c.status);
            if present != Some(ConditionStatus::from(remark.holds)) {
                status.set(remark.kind, remark.holds, remark.reason, &*remark.message);
            }
        }
    }
}
