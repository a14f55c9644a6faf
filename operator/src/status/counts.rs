//! Counts of proxies by object: a replica publishes its counts, and the leader adds those of all replicas.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use heddle_policy_compiler::{ObjectRef, ObjectStatus, PodRef, Proxy, WorkloadRef};
use serde::{Deserialize, Serialize};

use super::{ObjectState, ProxyObservations, Summary};
use crate::serving::MeshSource;
use crate::snapshot::Snapshot;
use crate::trials::{Trial, Trials};

/// So many proxies are named in a message; the others are counted.
pub const NAMED: usize = 5;

/// A proxy's rejection that could not be verified.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProxyRejection {
    /// Which proxy.
    pub proxy: String,
    /// Which resource.
    pub resource: String,
    /// Envoy's text.
    pub text: String,
}

/// How far one generation of one object is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// The generation in force when the proxies were counted; 0 if none is. While a rejected generation is set aside, this
    /// is an older one, so that acknowledgments of the older generation do not count for the rejected one.
    pub generation: i64,
    /// Proxies that have acknowledged it. Replicas of other versions read reports, so its name there stays.
    #[serde(rename = "programmed")]
    pub acknowledged: u32,
    /// Proxies that should.
    pub total: u32,
    /// Some of the proxies that have not acknowledged it yet, with the reason.
    pub waiting: Vec<String>,
    /// Some of the rejections that could not be verified, because there is no Envoy to try the resource with.
    #[serde(default)]
    pub rejections: Vec<ProxyRejection>,
    /// Proxies that reject a resource which the control plane's own Envoy accepts.
    #[serde(default)]
    pub unfounded: u32,
    /// Proxies with a rejection that is not verified, or not yet.
    #[serde(default)]
    pub unverified: u32,
}

/// The counts of some proxies: those of one replica, or all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyCounts {
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

/// Returns the generation in the compiled resources; 0 for none.
#[must_use]
pub fn in_force(status: &ObjectStatus) -> i64 {
    status
        .in_force
        .as_ref()
        .map_or(0, |in_force| in_force.generation)
}

/// Facts for the counts beside the acknowledgments themselves.
pub struct Evidence<'a> {
    /// The trials of rejected resources.
    pub trials: &'a Trials,
    /// Whether by the last written status every proxy runs the generation that is in force now.
    pub was_programmed: &'a dyn Fn(&ObjectRef) -> bool,
}

impl Evidence<'_> {
    /// Returns the state of a ready proxy that has not reported its resources since the start. A ready proxy has its
    /// configuration, and keeps it while no control plane answers: it runs the generation that all proxies ran by the last
    /// status, and nothing newer.
    fn of_silent(&self, object: &ObjectRef) -> &'static ObjectState {
        match (self.was_programmed)(object) {
            true => &ObjectState::Acknowledged,
            false => &ObjectState::Pending,
        }
    }
}

impl std::fmt::Debug for Evidence<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Evidence").finish_non_exhaustive()
    }
}

/// The policies in the views of pods that have no stream, by workload: the pods of a workload call the same.
#[derive(Debug, Default)]
pub struct AbsentPolicies {
    revision: u64,
    by_workload: HashMap<WorkloadRef, Arc<BTreeSet<ObjectRef>>>,
}

impl AbsentPolicies {
    /// The policies of a pod by this snapshot, with those of its own side.
    pub fn of(
        &mut self,
        snapshot: &Snapshot,
        mesh: &MeshSource,
        proxy: &Proxy,
    ) -> Arc<BTreeSet<ObjectRef>> {
        if self.revision != snapshot.revision {
            self.by_workload.clear();
            self.revision = snapshot.revision;
        }
        let own = snapshot.compiled.origins(&proxy.pod);
        let own: BTreeSet<&ObjectRef> = own.filter(|object| object.kind.is_policy()).collect();
        let shared = self
            .by_workload
            .entry(proxy.workload())
            .or_insert_with(|| Arc::new(mesh.policies_of(snapshot, proxy)));
        match own.iter().all(|object| shared.contains(*object)) {
            true => Arc::clone(shared),
            false => Arc::new(own.into_iter().chain(&**shared).cloned().collect()),
        }
    }
}

impl ProxyCounts {
    /// Counts proxies. Only proxies with a ready pod count.
    #[must_use]
    pub fn of<'a>(
        snapshot: &Snapshot,
        evidence: &Evidence<'_>,
        proxies: impl Iterator<Item = (&'a PodRef, &'a Summary)>,
    ) -> Self {
        let mut report = Self::default();
        for (pod, summary) in proxies {
            if summary.connected {
                report.connected.insert(pod.to_string());
            }
            for (object, state) in summary.objects.iter().filter(|_| summary.ready) {
                let state = match summary.has_reported {
                    true => state,
                    false => evidence.of_silent(object),
                };
                if let Some(tally) = report.tally_of(snapshot, object) {
                    tally.add(pod, summary.connected, state, evidence.trials);
                }
            }
        }
        report
    }

    /// Adds the ready pods that have a stream nowhere and never had one here, with all policies in their views: `policies_of` a
    /// pod returns them.
    pub fn add_absent(
        &mut self,
        snapshot: &Snapshot,
        evidence: &Evidence<'_>,
        known: &ProxyObservations,
        mut policies_of: impl FnMut(&Proxy) -> Arc<BTreeSet<ObjectRef>>,
    ) {
        let absent = snapshot
            .compiled
            .proxies
            .iter()
            .filter(|(pod, proxy)| proxy.ready && !known.contains_key(*pod));
        for (pod, proxy) in absent {
            if self.connected.contains(&pod.to_string()) {
                continue;
            }
            for object in &*policies_of(proxy) {
                if let Some(tally) = self.tally_of(snapshot, object) {
                    tally.add(pod, false, evidence.of_silent(object), evidence.trials);
                }
            }
        }
    }

    fn tally_of(&mut self, snapshot: &Snapshot, object: &ObjectRef) -> Option<&mut Tally> {
        let status = snapshot.compiled.statuses.get(object)?;
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
                ours.acknowledged += theirs.acknowledged;
                ours.waiting.extend(theirs.waiting.iter().cloned());
                ours.rejections.extend(theirs.rejections.iter().cloned());
                ours.unfounded += theirs.unfounded;
                ours.unverified += theirs.unverified;
            }
            ours.waiting.truncate(NAMED);
            ours.rejections.truncate(NAMED);
        }
    }

    /// How far an object is; `None` if no proxy needs it.
    #[must_use]
    pub fn tally(&self, object: &ObjectRef) -> Option<&Tally> {
        self.objects.get(&object_key(object))
    }
}

impl Tally {
    fn add(&mut self, pod: &PodRef, connected: bool, state: &ObjectState, trials: &Trials) {
        self.total += 1;
        let mut wait = |why: &str| {
            if self.waiting.len() < NAMED {
                self.waiting.push(format!("{pod}{why}"));
            }
        };
        match state {
            ObjectState::Acknowledged => self.acknowledged += 1,
            ObjectState::Pending => wait(if connected { "" } else { " (not connected)" }),
            ObjectState::Rejected { resource, text } => match trials.result(resource) {
                Trial::Accepted => {
                    wait(" (rejects it; the control plane's own Envoy accepts it)");
                    self.unfounded += 1;
                }
                // One that failed its trial is set aside by the next compile.
                Trial::Open | Trial::Rejected(_) | Trial::Needless => {
                    wait(" (rejects it)");
                    self.unverified += 1;
                }
                Trial::Unavailable => {
                    self.unverified += 1;
                    if self.rejections.len() < NAMED {
                        self.rejections.push(ProxyRejection {
                            proxy: pod.to_string(),
                            resource: resource.key.to_string(),
                            text: text.to_string(),
                        });
                    }
                }
            },
        }
    }

    /// Of all that should run a generation those that do, as `n/m`.
    #[must_use]
    pub fn ratio(&self, generation: i64) -> String {
        let runs = if self.generation == generation {
            self.acknowledged
        } else {
            0
        };
        format!("{runs}/{}", self.total)
    }

    /// Returns the proxies that have not acknowledged it yet, for a message.
    #[must_use]
    pub fn laggards(&self) -> String {
        let behind =
            usize::try_from(self.total.saturating_sub(self.acknowledged)).unwrap_or(usize::MAX);
        let rejecting = self
            .rejections
            .iter()
            .map(|rejection| format!("{} (rejects it)", rejection.proxy));
        let mut names: Vec<String> = self
            .waiting
            .iter()
            .cloned()
            .chain(rejecting)
            .take(NAMED)
            .collect();
        if behind > names.len() {
            names.push(format!("{} more", behind - names.len()));
        }
        names.join(", ")
    }
}
