//! Sums over proxies, object by object: what a replica publishes, and what the leader adds up.

use std::collections::{BTreeMap, BTreeSet};

use heddle_policy_compiler::{ObjectKind, ObjectRef, ObjectStatus, PodRef};
use serde::{Deserialize, Serialize};

use super::{Round, State, Summary};
use crate::picture::Picture;

/// So many proxies are named in a message; the others are counted.
pub const NAMED: usize = 5;

/// A proxy's refusal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Refused {
    /// Which proxy.
    pub proxy: String,
    /// Which resource.
    pub resource: String,
    /// Envoy's own words.
    pub text: String,
}

/// How far one generation of one object is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// The generation that is in force, by which proxies were counted; 0 if none is. While a refused generation is set
    /// aside this is an older one, so nobody takes its proxies for runners of the refused one.
    pub generation: i64,
    /// Proxies that run it.
    pub programmed: u32,
    /// Proxies that should.
    pub total: u32,
    /// Some of those that do not yet, with what is the matter with them.
    pub waiting: Vec<String>,
    /// Some of those that refuse.
    pub refused: Vec<Refused>,
}

/// What is known of some proxies: those of one replica, or all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The proxies with a stream here, `<namespace>/<pod>`.
    pub connected: BTreeSet<String>,
    /// By [`object_key`].
    pub objects: BTreeMap<String, Tally>,
}

/// An object as the key of a map: `<kind>/<namespace>/<name>`.
#[must_use]
pub fn object_key(object: &ObjectRef) -> String {
    format!(
        "{}/{}/{}",
        object.kind.as_str(),
        object.namespace,
        object.name
    )
}

/// The generation of what the compiled resources carry; 0 for none.
#[must_use]
pub fn in_force(status: &ObjectStatus) -> i64 {
    status
        .in_force
        .as_ref()
        .map_or(0, |in_force| in_force.generation)
}

/// The kinds that reach proxies and have `Programmed`.
pub(crate) const fn is_policy(kind: ObjectKind) -> bool {
    match kind {
        ObjectKind::TrafficSplit | ObjectKind::AuthPolicy => true,
        ObjectKind::Document
        | ObjectKind::Mesh
        | ObjectKind::Namespace
        | ObjectKind::Service
        | ObjectKind::EndpointSlice
        | ObjectKind::Pod
        | ObjectKind::Workload => false,
    }
}

impl Report {
    /// Sums up proxies. Only those whose pod is ready count.
    #[must_use]
    pub fn of<'a>(
        picture: &Picture,
        proxies: impl Iterator<Item = (&'a PodRef, &'a Summary)>,
    ) -> Self {
        let mut report = Self::default();
        for (pod, summary) in proxies {
            if summary.connected {
                report.connected.insert(pod.to_string());
            }
            for (object, state) in summary.objects.iter().filter(|_| summary.ready) {
                if let Some(tally) = report.tally_of(picture, object) {
                    tally.add(pod, summary.connected, state);
                }
            }
        }
        report
    }

    /// Adds the ready pods that have a stream nowhere and never had one here. They wait for what decides their own side;
    /// what they would call is not known.
    pub fn add_absent(&mut self, picture: &Picture, known: &Round) {
        let absent = picture
            .compiled
            .proxies
            .iter()
            .filter(|(pod, proxy)| proxy.ready && !known.contains_key(*pod));
        for (pod, _) in absent {
            let origins = picture.compiled.origins(pod).into_iter().flatten();
            let mut policies = origins.filter(|object| is_policy(object.kind)).peekable();
            if policies.peek().is_none() || self.connected.contains(&pod.to_string()) {
                continue;
            }
            for object in policies {
                if let Some(tally) = self.tally_of(picture, object) {
                    tally.add(pod, false, &State::Waits);
                }
            }
        }
    }

    fn tally_of(&mut self, picture: &Picture, object: &ObjectRef) -> Option<&mut Tally> {
        let status = picture.compiled.statuses.get(object)?;
        let tally = self.objects.entry(object_key(object)).or_default();
        tally.generation = in_force(status);
        Some(tally)
    }

    /// Adds the report of others. A tally of another generation counts its proxies as waiting: that replica is behind.
    pub fn add(&mut self, other: &Self, generations: &BTreeMap<String, i64>) {
        self.connected.extend(other.connected.iter().cloned());
        for (key, theirs) in &other.objects {
            let Some(generation) = generations.get(key) else {
                continue;
            };
            let ours = self.objects.entry(key.clone()).or_default();
            ours.generation = *generation;
            ours.total += theirs.total;
            if theirs.generation == *generation {
                ours.programmed += theirs.programmed;
                ours.waiting.extend(theirs.waiting.iter().cloned());
                ours.refused.extend(theirs.refused.iter().cloned());
            }
            ours.waiting.truncate(NAMED);
            ours.refused.truncate(NAMED);
        }
    }

    /// How far an object is; `None` if no proxy needs it.
    #[must_use]
    pub fn tally(&self, object: &ObjectRef) -> Option<&Tally> {
        self.objects.get(&object_key(object))
    }
}

impl Tally {
    fn add(&mut self, pod: &PodRef, connected: bool, state: &State) {
        self.total += 1;
        match state {
            State::Runs => self.programmed += 1,
            State::Waits => {
                if self.waiting.len() < NAMED {
                    let why = if connected { "" } else { " (not connected)" };
                    self.waiting.push(format!("{pod}{why}"));
                }
            }
            State::Refuses { resource, text } => {
                if self.refused.len() < NAMED {
                    self.refused.push(Refused {
                        proxy: pod.to_string(),
                        resource: resource.clone(),
                        text: text.to_string(),
                    });
                }
            }
        }
    }

    /// Of all that should run a generation those that do, as `n/m`.
    #[must_use]
    pub fn ratio(&self, generation: i64) -> String {
        let runs = if self.generation == generation {
            self.programmed
        } else {
            0
        };
        format!("{runs}/{}", self.total)
    }

    /// Those who do not run it yet, for a message.
    #[must_use]
    pub fn laggards(&self) -> String {
        let behind =
            usize::try_from(self.total.saturating_sub(self.programmed)).unwrap_or(usize::MAX);
        let refusing = self
            .refused
            .iter()
            .map(|refused| format!("{} (refuses)", refused.proxy));
        let mut names: Vec<String> = self
            .waiting
            .iter()
            .cloned()
            .chain(refusing)
            .take(NAMED)
            .collect();
        if behind > names.len() {
            names.push(format!("{} more", behind - names.len()));
        }
        names.join(", ")
    }
}
