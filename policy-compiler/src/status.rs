//! The compiler's part of an object's `status`. `Programmed` for healthy objects is the operator's: it counts acknowledgments.

use heddle_crds::{ConditionStatus, ConditionType, LastGood, Verdict, WeightInForce};

/// The desired `status` of one object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ObjectStatus {
    /// The generation this status speaks of.
    pub observed_generation: i64,
    /// In the order of [`ConditionType::ALL`]. `Programmed` is only here when Envoy refused the generation.
    pub conditions: Vec<Verdict>,
    /// The spec that the compiled resources carry: the current one, or the last good. None: nothing of the object is in force.
    /// The operator writes it to `status.lastGood` once every proxy has acknowledged it (a spec that Envoy refuses must not become the last good).
    pub in_force: Option<LastGood>,
    /// TrafficSplit: the weights in force, for `status.weights`.
    pub weights: Vec<WeightInForce>,
}

impl ObjectStatus {
    pub(crate) fn set(
        &mut self,
        kind: ConditionType,
        holds: bool,
        reason: &str,
        message: impl Into<String>,
    ) {
        self.conditions.retain(|c| c.kind != kind);
        let verdict = Verdict {
            kind,
            status: ConditionStatus::from(holds),
            reason: reason.to_owned(),
            message: message.into(),
        };
        self.conditions.push(verdict);
        self.conditions
            .sort_by_key(|c| ConditionType::ALL.iter().position(|k| *k == c.kind));
    }

    /// The condition of that type.
    #[must_use]
    pub fn condition(&self, kind: ConditionType) -> Option<&Verdict> {
        self.conditions.iter().find(|c| c.kind == kind)
    }
}
