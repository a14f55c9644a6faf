//! Faults of the rules of a route, collected while they are read.

use heddle_crds::reason;

use crate::finding::{Finding, ObjectRef};
use crate::kinds::ValidationError;

/// The faults of rules.
#[derive(Default)]
pub(in crate::kinds) struct Notes {
    /// The reasons for which the spec cannot be in force.
    pub(in crate::kinds) errors: Vec<ValidationError>,
    /// Fields that have no effect by the rules of Gateway API: field and message.
    ignored: Vec<(String, String)>,
}

impl Notes {
    pub(in crate::kinds) fn unsupported(
        &mut self,
        field: impl Into<String>,
        message: impl Into<String>,
        fix: &'static str,
    ) {
        self.errors
            .push(ValidationError::unsupported(field, message, fix));
    }

    pub(in crate::kinds) fn incompatible(
        &mut self,
        field: impl Into<String>,
        message: impl Into<String>,
        fix: &'static str,
    ) {
        let reason = reason::INCOMPATIBLE_FILTERS;
        self.errors
            .push(ValidationError::parent(reason, field, message, fix));
    }

    pub(in crate::kinds) fn ignored(&mut self, field: String, message: String) {
        self.ignored.push((field, message));
    }

    pub(in crate::kinds) fn report(self, object: &ObjectRef, findings: &mut Vec<Finding>) {
        let warnings = self.ignored.into_iter().map(|(field, message)| {
            Finding::warning(object, field, reason::NO_EFFECT, message).fix("remove it")
        });
        findings.extend(warnings);
    }
}
