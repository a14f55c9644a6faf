//! `status.parents` and `status.ancestors` of the kinds of other projects: lists that controllers share. Each controller owns the entries
//! with its name.

use heddle_crds::{ConditionType, DesiredCondition, StatusEntries, set_condition};
use heddle_policy_compiler::{ObjectStatus, ParentRef};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The name under which this control plane writes its entries.
pub const CONTROLLER: &str = "heddle.dev/mesh";

/// One entry of such a list.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WrittenParent {
    /// The parent or ancestor.
    pub parent_ref: ParentRef,
    /// The controller that owns the entry.
    pub controller_name: String,
    /// The conditions of the object at this parent.
    #[serde(default)]
    pub conditions: Vec<Condition>,
}

impl WrittenParent {
    fn read(entry: &Value, of: &StatusEntries) -> Option<Self> {
        let parent_ref = ParentRef::deserialize(entry.get(of.reference)?).ok()?;
        let conditions = entry.get("conditions");
        Some(Self {
            parent_ref,
            controller_name: CONTROLLER.to_owned(),
            conditions: conditions.map_or(Some(Vec::new()), |of| Vec::deserialize(of).ok())?,
        })
    }

    fn as_entry(&self, of: &StatusEntries) -> Value {
        json!({of.reference: self.parent_ref, "controllerName": self.controller_name, "conditions": self.conditions})
    }
}

/// Returns the entries of this control plane in a `status`. An entry that cannot be read is not returned, and so it is written again.
#[must_use]
pub fn own_parents(status: &Value, of: &StatusEntries) -> Vec<WrittenParent> {
    let entries = status.get(of.list).and_then(Value::as_array);
    let own = entries.into_iter().flatten().filter(|entry| is_own(entry));
    own.filter_map(|entry| WrittenParent::read(entry, of))
        .collect()
}

/// Puts the entries of this control plane in the place of its old ones, as far as the list has room for them. The entries of others stay,
/// in their order. Returns whether the list changed.
pub fn replace_own_parents(status: &mut Value, own: &[WrittenParent], of: &StatusEntries) -> bool {
    let old = status.get(of.list).and_then(Value::as_array);
    let others = old.into_iter().flatten().filter(|entry| !is_own(entry));
    let mut all: Vec<Value> = others.cloned().collect();
    let room = of.most.saturating_sub(all.len());
    all.extend(own.iter().take(room).map(|entry| entry.as_entry(of)));
    if old.is_some_and(|old| *old == all) || (old.is_none() && all.is_empty()) {
        return false;
    }
    match status {
        Value::Object(fields) => _ = fields.insert(of.list.to_owned(), all.into()),
        // The definitions require the list in a status.
        other => *other = json!({of.list: all}),
    }
    true
}

fn is_own(entry: &Value) -> bool {
    entry.get("controllerName").and_then(Value::as_str) == Some(CONTROLLER)
}

/// Returns the entries that follow from a compile. Equal to those of before where nothing changed, times included.
pub(super) fn next_parents(
    before: &[WrittenParent],
    compiled: &ObjectStatus,
    desired: &[DesiredCondition],
    now: &Time,
) -> Vec<WrittenParent> {
    let parents = compiled.parents.iter().map(|parent| {
        let known = before
            .iter()
            .find(|known| known.parent_ref == parent.parent);
        let known = known.map_or(&[][..], |known| &known.conditions);
        let all: Vec<&DesiredCondition> = parent.conditions(desired).collect();
        WrittenParent {
            parent_ref: parent.parent.clone(),
            controller_name: CONTROLLER.to_owned(),
            conditions: next_conditions(known, &all, compiled.observed_generation, now),
        }
    });
    parents.collect()
}

/// Returns conditions with these desired. The time of a condition moves only with its status.
pub(super) fn next_conditions(
    before: &[Condition],
    desired: &[&DesiredCondition],
    generation: i64,
    now: &Time,
) -> Vec<Condition> {
    let stays = |condition: &&Condition| {
        let mut kinds = desired.iter().map(|condition| condition.kind.as_str());
        kinds.any(|kind| kind == condition.type_)
    };
    let mut conditions: Vec<Condition> = before.iter().filter(stays).cloned().collect();
    for condition in desired {
        set_condition(&mut conditions, condition, Some(generation), now);
    }
    conditions.sort_by_key(by_type);
    conditions
}

/// The place of a condition in a status: in the order of [`ConditionType::ALL`].
fn by_type(condition: &Condition) -> Option<usize> {
    let mut kinds = ConditionType::ALL.iter();
    kinds.position(|kind| kind.as_str() == condition.type_)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(controller: &str, name: &str) -> Value {
        json!({"parentRef": {"name": name}, "controllerName": controller, "conditions": []})
    }

    fn own(name: &str) -> WrittenParent {
        WrittenParent {
            parent_ref: ParentRef {
                name: name.to_owned(),
                ..ParentRef::default()
            },
            controller_name: CONTROLLER.to_owned(),
            conditions: Vec::new(),
        }
    }

    #[test]
    fn entries_of_other_controllers_survive() {
        let of = &StatusEntries::PARENTS;
        let others = [
            entry("example.com/gateway", "a"),
            entry("example.com/other", "b"),
        ];
        let mut status = json!({
            "parents": [others[0], entry(CONTROLLER, "old"), others[1]], "other": 1,
        });
        assert_eq!(own_parents(&status, of), [own("old")]);
        assert!(replace_own_parents(&mut status, &[own("reviews")], of));
        let expected = [&others[0], &others[1], &entry(CONTROLLER, "reviews")];
        assert_eq!(status, json!({"parents": expected, "other": 1}));
        assert!(!replace_own_parents(&mut status, &[own("reviews")], of));
        assert!(replace_own_parents(&mut status, &[], of));
        assert_eq!(status, json!({"parents": others, "other": 1}));
    }

    #[test]
    fn a_first_status_has_the_entries() {
        for of in [&StatusEntries::PARENTS, &StatusEntries::ANCESTORS] {
            let mut status = Value::Null;
            assert!(!replace_own_parents(&mut status, &[], of));
            assert!(replace_own_parents(&mut status, &[own("reviews")], of));
            assert_eq!(own_parents(&status, of), [own("reviews")]);
            assert_eq!(status[of.list][0][of.reference], json!({"name": "reviews"}));
        }
    }

    #[test]
    fn a_list_that_others_have_filled_gets_no_entries() {
        let of = &StatusEntries::ANCESTORS;
        let other = |index: usize| json!({"ancestorRef": {"name": index.to_string()}, "controllerName": "other", "conditions": []});
        let others: Vec<Value> = (1..of.most).map(other).collect();
        let mut status = json!({"ancestors": others});
        let both = [own("reviews"), own("ratings")];
        assert!(replace_own_parents(&mut status, &both, of));
        assert_eq!(status["ancestors"].as_array().map(Vec::len), Some(of.most));
        assert_eq!(own_parents(&status, of), [own("reviews")]);
        let full: Vec<Value> = (0..of.most).map(other).collect();
        let mut status = json!({"ancestors": full});
        assert!(!replace_own_parents(&mut status, &both, of));
    }
}
