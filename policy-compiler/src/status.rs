//! The compiler's part of an object's `status`. `Programmed` for healthy objects is the operator's: it counts acknowledgments.

use std::sync::Arc;

use heddle_crds::{ConditionStatus, ConditionType, DesiredCondition, LastGood, reason};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The desired `status` of one object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ObjectStatus {
    /// The uid of the object that was compiled; `None` for an object of a file.
    pub uid: Option<Arc<str>>,
    /// The generation this status speaks of.
    pub observed_generation: i64,
    /// In the order of [`ConditionType::ALL`]. `Programmed` is only here when Envoy rejected the generation.
    pub conditions: Vec<DesiredCondition>,
    /// The spec that the compiled resources carry: the current one, or the last good. None: nothing of the object is in force.
    /// The operator writes it to `status.lastGood` once every proxy has acknowledged it (a spec that Envoy rejects must not become the last good).
    pub in_force: Option<LastGood>,
    /// The places to which the object is attached, for kinds with `status.parents` or `status.ancestors`.
    pub parents: Vec<ParentStatus>,
    /// Fields of `status` that only objects of this kind have, by name.
    pub detail: Map<String, Value>,
}

/// The object that a route names as its parent, as the route's spec has it, or the target of a policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentRef {
    /// The API group; absent: that of Gateway API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// The kind; absent: `Gateway`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The namespace; absent: that of the route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The name.
    pub name: String,
    /// The name of a port or listener.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
    /// The number of a port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<i32>,
}

/// The status of an object at one of its parents.
#[derive(Clone, Debug, PartialEq)]
pub struct ParentStatus {
    /// The parent.
    pub parent: ParentRef,
    /// The conditions that differ from those of the object as a whole.
    pub conditions: Vec<DesiredCondition>,
}

impl ParentStatus {
    /// Returns all conditions at this parent: its own, and the others of the object. At a parent that does not accept the object, none of its
    /// generations is in force.
    pub fn conditions<'a>(
        &'a self,
        object: &'a [DesiredCondition],
    ) -> impl Iterator<Item = &'a DesiredCondition> {
        let own = |kind| self.conditions.iter().any(|own| own.kind == kind);
        let not_accepted = own(ConditionType::Accepted);
        let shared = object.iter().filter(move |condition| {
            let of_accepted = matches!(
                condition.kind,
                ConditionType::PartiallyInvalid | ConditionType::WeightsHeld
            );
            !(own(condition.kind) || not_accepted && of_accepted)
        });
        self.conditions.iter().chain(shared)
    }
}

/// The longest message of a condition in bytes. The API server refuses a status with one of more than 32,768 characters.
const LONGEST: usize = 8192;

/// Returns a message of a condition, cut if it is too long.
pub(crate) fn bounded(mut message: String) -> String {
    const END: &str = " ...";
    if message.len() > LONGEST {
        message.truncate(message.floor_char_boundary(LONGEST - END.len()));
        message.push_str(END);
    }
    message
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
        let verdict = DesiredCondition {
            kind,
            status: ConditionStatus::from(holds),
            reason: reason.to_owned(),
            message: bounded(message.into()),
            generation: None,
        };
        self.conditions.push(verdict);
        self.conditions
            .sort_by_key(|c| ConditionType::ALL.iter().position(|k| *k == c.kind));
    }

    /// Reports that some rules of a route are invalid, and that another generation is in force in their place. The form of both conditions
    /// is that of Gateway API.
    pub(crate) fn fall_back(&mut self, generation: i64, reason: &str, text: &str) {
        let message = format!("the spec of generation {generation} is valid");
        self.set(ConditionType::Accepted, true, reason::ACCEPTED, message);
        let accepted = self.conditions.iter_mut();
        for accepted in accepted.filter(|c| c.kind == ConditionType::Accepted) {
            accepted.generation = Some(generation);
        }
        let message = format!("Fall Back to generation {generation}: {text}");
        self.set(ConditionType::PartiallyInvalid, true, reason, message);
    }

    /// Removes the condition of a type.
    pub(crate) fn unset(&mut self, kind: ConditionType) {
        self.conditions.retain(|condition| condition.kind != kind);
    }

    /// The condition of that type.
    #[must_use]
    pub fn condition(&self, kind: ConditionType) -> Option<&DesiredCondition> {
        self.conditions.iter().find(|c| c.kind == kind)
    }
}
