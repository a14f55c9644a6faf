//! Which object caused a refusal. A proxy refuses a resource; a resource may come from several policies.

use heddle_policy_compiler::{ObjectRef, Refusal};
use serde_json::Value;

use super::round::{RefusedResource, Round};
use crate::learned::Learned;
use crate::picture::Picture;

/// The longest text of Envoy's that a status repeats.
const MAX_TEXT: usize = 1024;

/// What a refusal comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Blame {
    /// This generation of this object is set aside.
    Object(Refusal),
    /// No policy's present spec had a part in it: a fault of ours.
    Nobody,
}

/// Judges every refusal of a round, and keeps what comes of it. `last_good` says which generation of an object is known
/// to be good.
pub fn blame_all(
    picture: &Picture,
    round: &Round,
    learned: &Learned,
    last_good: impl Fn(&ObjectRef) -> Option<i64>,
) {
    let proven = |object: &ObjectRef, generation| last_good(object) == Some(generation);
    for (pod, looked) in round {
        for refused in &looked.summary.refused {
            match blame(picture, refused, proven) {
                Blame::Object(refusal) => {
                    let (object, text) = (refusal.object.clone(), refusal.text.clone());
                    if learned.refuse(refusal) {
                        tracing::error!(%pod, resource = refused.resource, text, "the proxy refuses {object}: it is set aside");
                    }
                }
                Blame::Nobody => {
                    tracing::error!(%pod, resource = refused.resource, text = &*refused.text, "the proxy refuses what no policy caused");
                }
            }
        }
    }
}

/// Finds the object to set aside. Of several that it may have been, in this order: the one whose own values Envoy's text
/// repeats; else those not known to be good; of these the one changed last.
#[must_use]
pub fn blame(
    picture: &Picture,
    refused: &RefusedResource,
    proven: impl Fn(&ObjectRef, i64) -> bool,
) -> Blame {
    let mut suspects: Vec<Suspect<'_>> = refused
        .origins
        .iter()
        .filter_map(|object| Suspect::of(picture, object, refused))
        .collect();
    for suspect in &mut suspects {
        suspect.unproven = !proven(suspect.object, suspect.generation);
    }
    let worst = suspects.into_iter().max_by(|a, b| {
        let rank = |s: &Suspect<'_>| (s.repeated, s.unproven, s.changed_in);
        // Where all is equal the smallest name, so that every replica blames the same.
        rank(a).cmp(&rank(b)).then_with(|| b.object.cmp(a.object))
    });
    worst.map_or(Blame::Nobody, |suspect| {
        Blame::Object(Refusal {
            object: suspect.object.clone(),
            generation: suspect.generation,
            text: shortened(&refused.text),
        })
    })
}

struct Suspect<'a> {
    object: &'a ObjectRef,
    generation: i64,
    /// The length of the longest value of its spec that the text repeats.
    repeated: usize,
    unproven: bool,
    changed_in: u64,
}

impl<'a> Suspect<'a> {
    /// An object whose present spec is in force; what is in force of an older one was good before.
    fn of(picture: &Picture, object: &'a ObjectRef, refused: &RefusedResource) -> Option<Self> {
        let status = picture.compiled.statuses.get(object)?;
        let in_force = status
            .in_force
            .as_ref()
            .filter(|in_force| in_force.generation == status.observed_generation)?;
        Some(Self {
            object,
            generation: status.observed_generation,
            repeated: longest_repeated(&in_force.spec, &refused.text),
            unproven: true,
            changed_in: picture.changed_in.get(object).copied().unwrap_or_default(),
        })
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

fn shortened(text: &str) -> String {
    if text.len() <= MAX_TEXT {
        text.to_owned()
    } else {
        text.chars().take(MAX_TEXT).chain("...".chars()).collect()
    }
}

#[cfg(test)]
mod tests {
    use heddle_crds::LastGood;
    use heddle_policy_compiler::{ObjectKind, ObjectStatus};
    use serde_json::json;

    use super::*;

    fn policy(name: &str) -> ObjectRef {
        ObjectRef::new(ObjectKind::AuthPolicy, "shop", name)
    }

    fn picture(objects: &[(&str, i64, i64, u64, Value)]) -> Picture {
        let mut picture = Picture::default();
        for (name, generation, in_force, changed_in, spec) in objects {
            let in_force = Some(LastGood {
                generation: *in_force,
                spec: spec.clone(),
            });
            let status = ObjectStatus {
                observed_generation: *generation,
                in_force,
                ..ObjectStatus::default()
            };
            picture
                .compiled
                .statuses
                .insert(policy(name), status.into());
            picture.changed_in.insert(policy(name), *changed_in);
        }
        picture
    }

    fn refused(text: &str) -> RefusedResource {
        RefusedResource {
            resource: "rds:in|80".into(),
            text: text.into(),
            origins: vec![policy("a"), policy("b")],
        }
    }

    fn blamed(picture: &Picture, text: &str, proven: &[&str]) -> Option<String> {
        match blame(picture, &refused(text), |object, _| {
            proven.contains(&&*object.name)
        }) {
            Blame::Object(refusal) => Some(refusal.object.name.to_string()),
            Blame::Nobody => None,
        }
    }

    #[test]
    fn the_object_whose_value_is_repeated_is_to_blame() {
        let regex = json!({"rules": [{"to": {"headers": [{"regex": "(gold"}]}}]});
        let picture = picture(&[("a", 1, 1, 1, regex), ("b", 1, 1, 9, json!({}))]);
        assert_eq!(
            blamed(&picture, "missing ): (gold", &["a"]).as_deref(),
            Some("a")
        );
        assert_eq!(
            blamed(&picture, "something else", &[]).as_deref(),
            Some("b"),
            "changed last"
        );
        assert_eq!(
            blamed(&picture, "something else", &["b"]).as_deref(),
            Some("a"),
            "not known to be good"
        );
    }

    #[test]
    fn equals_are_told_apart_by_name() {
        let picture = picture(&[("a", 1, 1, 3, json!({})), ("b", 1, 1, 3, json!({}))]);
        assert_eq!(blamed(&picture, "x", &[]).as_deref(), Some("a"));
    }

    #[test]
    fn what_is_not_in_force_is_not_to_blame() {
        let picture = picture(&[("a", 2, 1, 3, json!({})), ("b", 2, 1, 3, json!({}))]);
        assert_eq!(blamed(&picture, "x", &[]), None);
    }
}
