//! Counting what the proxies run, on every replica; writing it into statuses, on the leader.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt;
use heddle_crds::{API_VERSION, ConditionStatus, ConditionType, Kind, condition, reason};
use heddle_policy_compiler::ObjectRef;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams};
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::cache::Cache;
use super::peers::{Peers, Word};
use super::{CallError, call};
use crate::learned::Learned;
use crate::metrics::{Metrics, Watch};
use crate::picture::{Picture, Pictures};
use crate::plane::Served;
use crate::status::{
    ProxyState, Report, Round, Rounds, WrittenStatus, blame_all, in_force, object_key, states,
};
use crate::tasks::{Ended, chain};

/// Acknowledgements that come together are one look.
const PAUSE: Duration = Duration::from_millis(50);
/// Statuses are written at most so often.
const WRITE_PAUSE: Duration = Duration::from_millis(250);
/// So long after a start proxies may still be on their way back: what they ran, they run.
const GRACE: Duration = Duration::from_secs(30);
/// What somebody else wrote into a status is mended this often.
const RESYNC: Duration = Duration::from_secs(60);
const WRITERS: usize = 8;

/// The newest count.
#[derive(Default)]
pub(super) struct Count {
    picture: Arc<Picture>,
    /// The proxies that have, or had, a stream here.
    round: Round,
    /// Of those connected here.
    own: Report,
}

/// What is counted, and for whom.
pub(super) struct Counter {
    pub(super) pictures: Pictures,
    pub(super) served: Served,
    pub(super) learned: Arc<Learned>,
    pub(super) cache: Arc<Cache>,
    pub(super) counts: watch::Sender<Arc<Count>>,
    pub(super) words: watch::Sender<Word>,
    pub(super) shown: Arc<Shown>,
}

impl Counter {
    /// Counts whenever something changed.
    pub(super) async fn run(mut self, stop: CancellationToken) -> Ended {
        let mut rounds = Rounds::default();
        let mut acks = self.served.registry.changes();
        loop {
            acks.mark_unchanged();
            let newest = self.pictures.borrow_and_update().clone();
            if let Some(picture) = newest {
                self.count(&mut rounds, picture);
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                changed = self.pictures.changed() => changed.map_err(|_| "the compiling loop is gone")?,
                changed = acks.changed() => changed.map_err(|_| "the discovery server is gone")?,
            }
            // The streams come first.
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn count(&self, rounds: &mut Rounds, picture: Arc<Picture>) {
        let (round, changed) = rounds.look(&picture, &self.served.mesh, &self.served.registry);
        self.shown.show(&picture, &round);
        let before = Arc::clone(&self.counts.borrow());
        let (old, new) = (&before.picture.compiled, &picture.compiled);
        if !changed && old.proxies.ptr_eq(&new.proxies) && old.statuses.ptr_eq(&new.statuses) {
            return;
        }
        let good = |object: &ObjectRef| Some(self.cache.status(object)?.last_good?.generation);
        blame_all(&picture, &round, &self.learned, good);
        let connected = round.iter().filter(|(_, looked)| looked.summary.connected);
        let own = Report::of(
            &picture,
            connected.map(|(pod, looked)| (pod, &*looked.summary)),
        );
        let word = Word::new(own.clone(), &self.learned);
        self.words.send_if_modified(|now| {
            let changed = *now != word;
            *now = word;
            changed
        });
        self.counts.send_replace(Arc::new(Count {
            picture,
            round,
            own,
        }));
    }
}

/// What people who ask are shown: put into words only when they ask.
#[derive(Default)]
pub(super) struct Shown(Mutex<(Arc<Picture>, Round)>);

impl Shown {
    fn show(&self, picture: &Arc<Picture>, round: &Round) {
        *self.lock() = (Arc::clone(picture), round.clone());
    }

    /// How every meshed pod stands.
    pub(super) fn states(&self) -> Vec<ProxyState> {
        let (picture, round) = self.lock().clone();
        states(&picture, &round)
    }

    fn lock(&self) -> MutexGuard<'_, (Arc<Picture>, Round)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes statuses while this replica leads.
pub(super) struct Writer {
    pub(super) client: Client,
    pub(super) cache: Arc<Cache>,
    pub(super) peers: Arc<Peers>,
    pub(super) leads: watch::Receiver<bool>,
    pub(super) counts: watch::Receiver<Arc<Count>>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) started: Instant,
}

impl Writer {
    pub(super) async fn run(mut self, stop: CancellationToken) -> Ended {
        let mut sent: BTreeMap<ObjectRef, WrittenStatus> = BTreeMap::new();
        let mut peers = self.peers.changes();
        let mut resync = tokio::time::interval(RESYNC);
        let mut retry = false;
        loop {
            if *self.leads.borrow_and_update() {
                let count = self.counts.borrow_and_update().clone();
                peers.mark_unchanged();
                retry = !self.write(&count, &mut sent).await;
            } else {
                sent.clear();
            }
            let pause = if retry {
                Duration::from_secs(1)
            } else {
                WRITE_PAUSE
            };
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(pause) => {}
            }
            if retry {
                continue;
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                changed = self.counts.changed() => changed.map_err(|_| "nobody counts any more")?,
                changed = self.leads.changed() => changed.map_err(|_| "the election is over")?,
                changed = peers.changed() => changed.map_err(|_| "nobody listens any more")?,
                _ = resync.tick() => sent.clear(),
            }
        }
    }

    /// Writes what changed; returns whether all of it was written.
    async fn write(&self, count: &Count, sent: &mut BTreeMap<ObjectRef, WrittenStatus>) -> bool {
        let picture = &count.picture;
        let report = sum(count, &self.peers.reports(&self.cache));
        sent.retain(|object, _| picture.compiled.statuses.contains_key(object));
        let now = Time(Timestamp::now());
        let mut due = Vec::new();
        for (object, compiled) in &picture.compiled.statuses {
            let there = self.cache.status(object).unwrap_or_default();
            // What was sent may not have come back by the watch yet.
            let before = sent.get(object).unwrap_or(&there);
            let mut after = before.next(object.kind, compiled, report.tally(object), &now);
            if self.started.elapsed() < GRACE {
                hold_back(&mut after, before);
            }
            if after != *before {
                due.push((object.clone(), after));
            }
        }
        let results: Vec<_> = futures::stream::iter(due)
            .map(|(object, status)| async { (self.apply(&object, &status).await, object, status) })
            .buffer_unordered(WRITERS)
            .collect()
            .await;
        let mut all = true;
        for (result, object, status) in results {
            match result {
                Ok(()) => _ = sent.insert(object, status),
                // It was deleted in this moment.
                Err(error) if error.code() == Some(404) => {}
                Err(error) => {
                    all = false;
                    self.metrics
                        .write_errors
                        .get_or_create(&Watch { kind: "status" })
                        .inc();
                    tracing::warn!(
                        error = chain(&error),
                        "the status of {object} could not be written; trying again"
                    );
                }
            }
        }
        all
    }

    async fn apply(&self, object: &ObjectRef, status: &WrittenStatus) -> Result<(), CallError> {
        let kind = object.kind.as_str();
        let Some(resource) = Kind::by_name(kind).map(|kind| {
            let gvk = GroupVersionKind::gvk(heddle_crds::GROUP, heddle_crds::VERSION, kind.name());
            ApiResource::from_gvk_with_plural(&gvk, &kind.plural())
        }) else {
            return Ok(());
        };
        let api: Api<DynamicObject> = if object.namespace.is_empty() {
            Api::all_with(self.client.clone(), &resource)
        } else {
            Api::namespaced_with(self.client.clone(), &object.namespace, &resource)
        };
        let body = json!({"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": &*object.name}, "status": status});
        let params = PatchParams::apply("heddle-operator").force();
        call(api.patch_status(&object.name, &params, &Patch::Apply(body))).await?;
        Ok(())
    }
}

/// All replicas together. A ready proxy that hangs on none of them counts as not connected, by what it should have.
fn sum(count: &Count, others: &[Report]) -> Report {
    let picture = &count.picture;
    let generations = picture
        .compiled
        .statuses
        .iter()
        .map(|(object, status)| (object_key(object), in_force(status)))
        .collect();
    let mut report = count.own.clone();
    for other in others {
        report.add(other, &generations);
    }
    let nowhere = count.round.iter().filter(|(pod, looked)| {
        !looked.summary.connected && !report.connected.contains(&pod.to_string())
    });
    let nowhere = Report::of(
        picture,
        nowhere.map(|(pod, looked)| (pod, &*looked.summary)),
    );
    report.add(&nowhere, &generations);
    report.add_absent(picture, &count.round);
    report
}

/// Right after a start nothing is known of the proxies: that they have not been heard is no news.
fn hold_back(after: &mut WrittenStatus, before: &WrittenStatus) {
    let kind = ConditionType::Programmed;
    let Some(old) = condition(&before.conditions, kind) else {
        return;
    };
    let good = old.status == ConditionStatus::True.as_str()
        && old.observed_generation == after.observed_generation;
    let Some(new) = after
        .conditions
        .iter_mut()
        .find(|condition| condition.type_ == kind.as_str())
    else {
        return;
    };
    if good && new.reason == reason::PENDING {
        *new = old.clone();
        after.proxies.clone_from(&before.proxies);
    }
}
