//! The object that caused a rejection. A proxy rejects a resource; a resource may come from several policies.
//!
//! A proxy's rejection is a claim. It sets an object aside only if the control plane's own Envoy rejects the resource, too, and
//! not many more identities acknowledged it: so no client, honest or not, decides about an object by itself.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use heddle_policy_compiler::{ObjectRef, PodRef, Refusal, Resource, ResourceKey};
use serde_json::Value;

use super::observation::{ProxyObservations, RejectedResource};
use crate::rejections::RejectionStore;
use crate::snapshot::Snapshot;
use crate::trials::{Trial, Trials, version_of};

/// The longest text of Envoy's that a status repeats.
const MAX_TEXT: usize = 1024;

/// The cause of a confirmed rejection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Blame {
    /// This generation of this object is set aside.
    Object(Refusal),
    /// No policy's present spec had a part in it: a fault of ours.
    Nobody,
}

/// Starts a trial of every rejected resource that comes from a policy, and sets aside an object for each failed trial.
/// `last_good` returns the generation of an object that is known to be good.
pub fn blame_all(
    snapshot: &Snapshot,
    observations: &ProxyObservations,
    rejections: &RejectionStore,
    trials: &Trials,
    last_good: impl Fn(&ObjectRef) -> Option<i64>,
) {
    let proven = |object: &ObjectRef, generation| last_good(object) == Some(generation);
    let (mut rejected, mut failed) = (HashSet::new(), HashSet::new());
    for (pod, observation) in observations {
        let identity = identity_of(snapshot, pod);
        for refused in &observation.summary.rejected {
            let resource = &refused.resource;
            let version = version_of(resource);
            rejected.insert(version.clone());
            let (trial, new) = trial_of(trials, &identity, refused);
            if new {
                tracing::warn!(%pod, resource = %resource.key, text = shortened(&refused.text), "a proxy rejected a resource");
            }
            // Once for each version, however many proxies reject it.
            let Trial::Rejected(text) = trial else {
                continue;
            };
            if failed.insert(version) && !outvoted(&votes(snapshot, observations, resource)) {
                set_aside(snapshot, rejections, refused, &text, proven);
            }
        }
    }
    trials.retain(&rejected);
}

/// Returns the trial of a rejected resource. A client can ask for any number of resources without policies, and a trial of those sets no
/// object aside.
fn trial_of(trials: &Trials, identity: &str, refused: &RejectedResource) -> (Trial, bool) {
    match refused.origins.is_empty() {
        true => trials.needless(&refused.resource),
        false => trials.of(identity, &refused.resource),
    }
}

fn identity_of(snapshot: &Snapshot, pod: &PodRef) -> Arc<str> {
    let proxy = snapshot.compiled.proxies.get(pod);
    proxy.map_or_else(
        || pod.to_string().into(),
        |proxy| proxy.identity.as_str().into(),
    )
}

/// Identity and answer (`true`: acknowledged) of every connected proxy that answered for this version of a resource.
fn votes(
    snapshot: &Snapshot,
    observations: &ProxyObservations,
    resource: &Resource,
) -> BTreeSet<(Arc<str>, bool)> {
    observations
        .iter()
        .filter(|(_, observation)| observation.summary.connected)
        .filter_map(|(pod, observation)| {
            Some((
                identity_of(snapshot, pod),
                observation.acknowledged(resource)?,
            ))
        })
        .collect()
}

/// Whether the acknowledgements of others outweigh a failed trial: more identities acknowledged the resource than rejected it, the
/// control plane's own Envoy counted in. Many pods of one identity have one vote.
fn outvoted(votes: &BTreeSet<(Arc<str>, bool)>) -> bool {
    let count = |acknowledged| {
        votes
            .iter()
            .filter(|(_, vote)| *vote == acknowledged)
            .count()
    };
    count(true) > count(false) + 1
}

fn set_aside(
    snapshot: &Snapshot,
    rejections: &RejectionStore,
    refused: &RejectedResource,
    text: &str,
    proven: impl Fn(&ObjectRef, i64) -> bool,
) {
    let key: &ResourceKey = &refused.resource.key;
    match blame(snapshot, &refused.origins, text, proven) {
        Blame::Object(refusal) => {
            let object = refusal.object.clone();
            if rejections.reject(refusal) {
                tracing::error!(resource = %key, text, "Envoy rejects {object}: it is set aside");
            }
        }
        Blame::Nobody => {
            tracing::error!(resource = %key, text, "Envoy rejects a resource that no policy caused");
        }
    }
}

/// Finds the object to set aside. Candidates are ordered: first the object with the longest own value that Envoy's text
/// repeats; then objects not known to be good; of these the object changed last.
#[must_use]
pub fn blame(
    snapshot: &Snapshot,
    origins: &[ObjectRef],
    text: &str,
    proven: impl Fn(&ObjectRef, i64) -> bool,
) -> Blame {
    let mut suspects: Vec<Suspect<'_>> = origins
        .iter()
        .filter_map(|object| Suspect::of(snapshot, object, text))
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
            text: shortened(text),
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
    /// Returns an object with its present spec in force. An older spec in force was good before.
    fn of(snapshot: &Snapshot, object: &'a ObjectRef, text: &str) -> Option<Self> {
        let status = snapshot.compiled.statuses.get(object)?;
        let in_force = status
            .in_force
            .as_ref()
            .filter(|in_force| in_force.generation == status.observed_generation)?;
        Some(Self {
            object,
            generation: status.observed_generation,
            repeated: longest_repeated(&in_force.spec, text),
            unproven: true,
            changed_in: snapshot.changed_in.get(object).copied().unwrap_or_default(),
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
    use heddle_policy_compiler::{ObjectKind, ObjectStatus, ResourceKind};
    use serde_json::json;

    use super::*;

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

    fn blamed(snapshot: &Snapshot, text: &str, proven: &[&str]) -> Option<String> {
        match blame(snapshot, &[policy("a"), policy("b")], text, |object, _| {
            proven.contains(&&*object.name)
        }) {
            Blame::Object(refusal) => Some(refusal.object.name.to_string()),
            Blame::Nobody => None,
        }
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
    fn only_resources_of_policies_are_tried() {
        let envoy = std::env::current_exe().unwrap();
        let trials = Trials::new(Some(envoy), &std::env::temp_dir());
        for (name, origins, expected) in [
            ("dst|192.0.2.1:80", vec![], Trial::Needless),
            ("in|80", vec![policy("a")], Trial::Open),
        ] {
            let refused = RejectedResource {
                resource: Arc::new(Resource {
                    key: ResourceKey::new(ResourceKind::Cluster, name),
                    version: "1".into(),
                    body: bytes::Bytes::new(),
                    requires: Vec::new(),
                    origins: BTreeSet::new(),
                }),
                text: "no".into(),
                origins,
            };
            let trial = trial_of(&trials, "shop/web", &refused);
            assert_eq!(trial, (expected, true), "{name}");
        }
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

    #[test]
    fn acknowledgements_of_other_identities_outweigh_a_failed_trial_and_pods_of_one_identity_count_once()
     {
        let votes = |votes: &[(&str, bool)]| {
            let votes = votes
                .iter()
                .map(|(identity, vote)| ((*identity).into(), *vote));
            votes.collect::<BTreeSet<(Arc<str>, bool)>>()
        };
        for (given, expected) in [
            (&[("shop/web", false)][..], false),
            // An identity that acknowledges a broken resource keeps nothing in force.
            (&[("shop/web", false), ("evil/evil", true)], false),
            (
                &[
                    ("shop/web", false),
                    ("evil/evil", true),
                    ("evil/evil", true),
                    ("evil/evil", true),
                ],
                false,
            ),
            (
                &[
                    ("evil/evil", false),
                    ("shop/web", true),
                    ("shop/client", true),
                ],
                false,
            ),
            (
                &[
                    ("evil/evil", false),
                    ("shop/web", true),
                    ("shop/client", true),
                    ("shop/api", true),
                ],
                true,
            ),
            // An identity that says both counts on both sides.
            (
                &[
                    ("shop/web", false),
                    ("shop/web", true),
                    ("shop/client", true),
                ],
                false,
            ),
        ] {
            assert_eq!(outvoted(&votes(given)), expected, "{given:?}");
        }
    }
}
