//! The suspects of a rejected resource, their order, and the faulty objects among them.

use std::cmp::Ordering;

use heddle_policy_compiler::{ObjectRef, ObjectRejection};
use serde_json::Value;

use crate::snapshot::Snapshot;

/// The longest text of Envoy's that a status repeats.
const MAX_TEXT: usize = 1024;

/// An object that may have caused a rejection, with its present spec in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Suspect {
    pub(super) object: ObjectRef,
    pub(super) generation: i64,
    /// The length of the longest value of its spec that the text repeats.
    repeated: usize,
    pub(super) unproven: bool,
    changed_in: u64,
}

impl Suspect {
    /// Returns an object with its present spec in force. An older spec in force was good before.
    pub(super) fn of(snapshot: &Snapshot, object: &ObjectRef, text: &str) -> Option<Self> {
        let status = snapshot.compiled.statuses.get(object)?;
        let in_force = status
            .in_force
            .as_ref()
            .filter(|in_force| in_force.generation == status.observed_generation)?;
        Some(Self {
            object: object.clone(),
            generation: status.observed_generation,
            repeated: longest_repeated(&in_force.spec, text),
            unproven: true,
            changed_in: snapshot.changed_in.get(object).copied().unwrap_or_default(),
        })
    }

    pub(super) fn rejection(&self, text: &str) -> ObjectRejection {
        ObjectRejection {
            object: self.object.clone(),
            generation: self.generation,
            text: shortened(text),
        }
    }

    /// Orders suspects that no trial distinguishes: last the object with the longest own value that Envoy's text repeats; then
    /// objects not known to be good; of these the object changed last.
    pub(super) fn rank(&self, other: &Self) -> Ordering {
        let rank = |s: &Self| (s.repeated, s.unproven, s.changed_in);
        // Where all is equal the smallest name is last, so that every replica blames the same.
        rank(self)
            .cmp(&rank(other))
            .then_with(|| other.object.cmp(&self.object))
    }
}

fn longest_repeated(spec: &Value, text: &str) -> usize {
    match spec {
        // Short words are in every text.
        Value::String(value) if value.len() >= 4 && text.contains(value.as_str()) => value.len(),
        Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        Value::Array(items) => items
            .iter()
            .map(|item| longest_repeated(item, text))
            .max()
            .unwrap_or(0),
        Value::Object(fields) => fields
            .values()
            .map(|field| longest_repeated(field, text))
            .max()
            .unwrap_or(0),
    }
}

pub(super) fn shortened(text: &str) -> String {
    if text.len() <= MAX_TEXT {
        text.to_owned()
    } else {
        text.chars().take(MAX_TEXT).chain("...".chars()).collect()
    }
}

/// Finds the suspects that Envoy rejects: it halves the suspects, and asks about the resource with each half in force alone.
/// `rejects` returns whether Envoy rejects the resource with only these suspects in force, and `None` while that is not known;
/// then the result is `None`, too.
///
/// # Assumptions
/// Envoy rejects the resource with all suspects in force, and accepts it with none.
///
/// # Guarantees
/// Every suspect that Envoy rejects alone is found, by some `2 k log n` questions for `k` of `n`. Suspects that Envoy rejects only
/// together are not: where no half is rejected, nothing is found.
pub(super) fn faulty<'s, T>(
    suspects: &'s [T],
    rejects: &mut dyn FnMut(&[T]) -> Option<bool>,
) -> Option<Vec<&'s T>> {
    match suspects {
        [] => return Some(Vec::new()),
        [only] => return Some(vec![only]),
        _ => {}
    }
    let (first, second) = suspects.split_at(suspects.len() / 2);
    let (mut found, mut open) = (Vec::new(), false);
    for half in [first, second] {
        let of_half = match rejects(half) {
            Some(true) => faulty(half, rejects),
            Some(false) => Some(Vec::new()),
            None => None,
        };
        match of_half {
            Some(more) => found.extend(more),
            None => open = true,
        }
    }
    (!open).then_some(found)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use heddle_crds::LastGood;
    use heddle_policy_compiler::{ObjectKind, ObjectStatus};
    use serde_json::json;

    use super::*;

    const ALL: [u32; 20] = [
        0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19,
    ];

    fn found(bad: &[u32]) -> (Vec<u32>, usize) {
        let mut questions = 0;
        let found = faulty(&ALL, &mut |half| {
            questions += 1;
            Some(half.iter().any(|one| bad.contains(one)))
        });
        (found.unwrap().into_iter().copied().collect(), questions)
    }

    #[test]
    fn every_faulty_one_is_found_with_few_questions() {
        for one in ALL {
            let (found, questions) = found(&[one]);
            assert_eq!(found, [one]);
            assert!(questions <= 10, "{questions}");
        }
        assert_eq!(found(&[3, 4, 19]).0, [3, 4, 19]);
        assert_eq!(found(&ALL).0, ALL);
    }

    #[test]
    fn suspects_rejected_only_together_are_not_found() {
        let together = faulty(&ALL, &mut |half| {
            Some(half.contains(&3) && half.contains(&17))
        });
        assert_eq!(together, Some(vec![]));
    }

    #[test]
    fn the_search_goes_on_with_each_answer() {
        let mut known: BTreeMap<Vec<u32>, bool> = BTreeMap::new();
        for _ in 0..ALL.len() {
            let mut asked = Vec::new();
            let found = faulty(&ALL, &mut |half| {
                let answer = known.get(half).copied();
                if answer.is_none() {
                    asked.push(half.to_vec());
                }
                answer
            });
            if let Some(found) = found {
                assert_eq!(found, [&7]);
                return;
            }
            assert!(!asked.is_empty(), "the search waits for nothing");
            for half in asked {
                let answer = half.contains(&7);
                known.insert(half, answer);
            }
        }
        panic!("the search does not end");
    }

    fn policy(name: &str) -> ObjectRef {
        ObjectRef::new(ObjectKind::AuthPolicy, "shop", name)
    }

    fn snapshot(objects: &[(&str, i64, i64, u64, Value)]) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for (name, generation, in_force, changed_in, spec) in objects {
            let in_force = Some(LastGood {
                generation: *in_force,
                spec: spec.clone(),
                selected: None,
            });
            let status = ObjectStatus {
                observed_generation: *generation,
                in_force,
                ..ObjectStatus::default()
            };
            snapshot
                .compiled
                .statuses
                .insert(policy(name), status.into());
            snapshot.changed_in.insert(policy(name), *changed_in);
        }
        snapshot
    }

    /// The suspect that is set aside where no trial distinguishes two.
    fn blamed(snapshot: &Snapshot, text: &str, proven: &[&str]) -> Option<String> {
        let suspects = ["a", "b"].iter().filter_map(|name| {
            let mut suspect = Suspect::of(snapshot, &policy(name), text)?;
            suspect.unproven = !proven.contains(name);
            Some(suspect)
        });
        let worst = suspects.max_by(|a, b| a.rank(b))?;
        Some(worst.object.name.to_string())
    }

    #[test]
    fn the_object_with_the_repeated_value_is_set_aside() {
        let regex = json!({"rules": [{"to": {"headers": [{"regex": "(gold"}]}}]});
        let snapshot = snapshot(&[("a", 1, 1, 1, regex), ("b", 1, 1, 9, json!({}))]);
        assert_eq!(
            blamed(&snapshot, "missing ): (gold", &["a"]).as_deref(),
            Some("a")
        );
        assert_eq!(
            blamed(&snapshot, "something else", &[]).as_deref(),
            Some("b"),
            "changed last"
        );
        assert_eq!(
            blamed(&snapshot, "something else", &["b"]).as_deref(),
            Some("a"),
            "not known to be good"
        );
    }

    #[test]
    fn equal_suspects_are_ordered_by_name() {
        let snapshot = snapshot(&[("a", 1, 1, 3, json!({})), ("b", 1, 1, 3, json!({}))]);
        assert_eq!(blamed(&snapshot, "x", &[]).as_deref(), Some("a"));
    }

    #[test]
    fn an_object_not_in_force_is_not_set_aside() {
        let snapshot = snapshot(&[("a", 2, 1, 3, json!({})), ("b", 2, 1, 3, json!({}))]);
        assert_eq!(blamed(&snapshot, "x", &[]), None);
    }
}
