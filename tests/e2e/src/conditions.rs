//! Waits for conditions in a status with several places, as routes and policies of Gateway API have it.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{Kubectl, eventually};

/// The conditions of a route at its first parent.
pub const PARENT: &str = "/status/parents/0/conditions";
/// The conditions of a policy at the first object that it applies to.
pub const ANCESTOR: &str = "/status/ancestors/0/conditions";

/// A condition that is waited for.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    kind: &'static str,
    status: &'static str,
    reason: Option<&'static str>,
    behind: i64,
}

impl Expected {
    /// Sidecars have the present generation.
    pub const PROGRAMMED: Self = Self::new("Programmed", "True");

    /// A condition of the present generation, for any reason.
    pub const fn new(kind: &'static str, status: &'static str) -> Self {
        Self {
            kind,
            status,
            reason: None,
            behind: 0,
        }
    }

    /// For this reason alone.
    pub const fn for_reason(mut self, reason: &'static str) -> Self {
        self.reason = Some(reason);
        self
    }

    /// Of the generation so many before the present one.
    pub const fn behind(mut self, generations: i64) -> Self {
        self.behind = generations;
        self
    }

    fn is(&self, condition: &Value, generation: Option<i64>) -> bool {
        let observed = condition["observedGeneration"].as_i64();
        condition["type"] == self.kind
            && condition["status"] == self.status
            && self.reason.is_none_or(|of| condition["reason"] == of)
            && observed.map(|of| of + self.behind) == generation
    }
}

impl Kubectl {
    /// Waits until an object has all these conditions at a place of its status.
    ///
    /// # Errors
    /// It does not have them in time; the error has the conditions of then.
    pub fn conditions(&self, object: &str, at: &str, expected: &[Expected]) -> Result<()> {
        let mut last = String::new();
        let found = eventually("the conditions", Duration::from_secs(90), || {
            let object = self.get(object)?;
            let generation = object.pointer("/metadata/generation");
            let generation = generation.and_then(Value::as_i64);
            let conditions = object.pointer(at).cloned().unwrap_or_default();
            last = format!("{generation:?} {conditions}");
            let all = conditions.as_array().map(Vec::as_slice).unwrap_or_default();
            let holds = |of: &Expected| all.iter().any(|found| of.is(found, generation));
            Ok(expected.iter().all(holds).then_some(()))
        });
        found.with_context(|| last)
    }
}
