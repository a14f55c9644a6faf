//! Counts the acknowledgments of proxies, on every replica, and writes statuses, on the leader.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use heddle_policy_compiler::ObjectRef;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::cache::Cache;
use super::declared::api_resource;
use super::events::Announcer;
use super::peers::{Peers, ReplicaReport};
use super::{CallError, call, parents};
use crate::metrics::{Metrics, Watch};
use crate::plane::PlaneHandles;
use crate::rejections::RejectionStore;
use crate::serving::MeshSource;
use crate::snapshot::{Snapshot, Snapshots};
use crate::status::{
    AbsentPolicies, Blamer, Evidence, ProxyCounts, ProxyObservations, ProxyObserver, Rejected,
    Shown, WrittenStatus, in_force, object_key,
};
use crate::tasks::{Ended, chain};
use crate::trials::Trials;

/// Acknowledgements that come together are one look.
const PAUSE: Duration = Duration::from_millis(50);
/// Statuses are written at most so often.
const WRITE_PAUSE: Duration = Duration::from_millis(250);
/// The interval at which changes of a status by others are overwritten.
const RESYNC: Duration = Duration::from_secs(60);
const WRITERS: usize = 8;

/// The newest count.
#[derive(Default)]
pub(super) struct Count {
    snapshot: Arc<Snapshot>,
    /// The proxies that have, or had, a stream here.
    observations: ProxyObservations,
    /// Of those connected here.
    own: ProxyCounts,
}

/// Counts proxies for the statuses and for the other replicas.
pub(super) struct Counter {
    pub(super) snapshots: Snapshots,
    pub(super) handles: PlaneHandles,
    pub(super) rejections: Arc<RejectionStore>,
    pub(super) trials: Arc<Trials>,
    pub(super) cache: Arc<Cache>,
    pub(super) counts: watch::Sender<Arc<Count>>,
    pub(super) reports: watch::Sender<ReplicaReport>,
    pub(super) shown: Arc<Shown>,
}

impl Counter {
    /// Counts whenever something changed.
    pub(super) async fn run(mut self, stop: CancellationToken) -> Ended {
        let (mut observer, mut blamer) = (ProxyObserver::default(), Blamer::default());
        let (mut acks, mut tried) = (self.handles.registry.changes(), self.trials.changes());
        let mut heard = self.handles.mesh.withdrawals().heard();
        let mut counted = None;
        loop {
            acks.mark_unchanged();
            heard.mark_unchanged();
            // A wait below has seen the tick that ended it, so only the number shows a new result.
            let tick = *tried.borrow_and_update();
            let results = counted.replace(tick) != Some(tick);
            let newest = self.snapshots.borrow_and_update().clone();
            if let Some(snapshot) = newest {
                self.count((&mut observer, &mut blamer), snapshot, results);
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                changed = self.snapshots.changed() => changed.map_err(|_| "the compile loop is gone")?,
                changed = acks.changed() => changed.map_err(|_| "the discovery server is gone")?,
                changed = tried.changed() => changed.map_err(|_| "no trials are held any more")?,
                changed = heard.changed() => changed.map_err(|_| "no withdrawals are followed any more")?,
            }
            // The streams come first.
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn count(
        &self,
        (observer, blamer): (&mut ProxyObserver, &mut Blamer),
        snapshot: Arc<Snapshot>,
        results: bool,
    ) {
        let (mesh, registry) = (&self.handles.mesh, &self.handles.registry);
        let withdrawals = mesh.withdrawals();
        let withdrawn = withdrawals.look(&snapshot, &**mesh, registry);
        let (observations, changed) = observer.observe(&snapshot, mesh, registry);
        self.shown.show(&snapshot, &observations);
        let before = Arc::clone(&self.counts.borrow());
        let (old, new) = (&before.snapshot.compiled, &snapshot.compiled);
        let changed = changed || results || withdrawn;
        if !changed && old.proxies.ptr_eq(&new.proxies) && old.statuses.ptr_eq(&new.statuses) {
            return;
        }
        let good = |object: &ObjectRef| Some(self.cache.status(object)?.last_good?.generation);
        let rejected = Rejected {
            snapshot: &snapshot,
            observations: &observations,
            mesh,
            trials: &self.trials,
        };
        blamer.set_aside(&rejected, &self.rejections, good);
        let connected = observations
            .iter()
            .filter(|(_, observation)| observation.summary.connected);
        let evidence = Evidence {
            trials: &self.trials,
            was_programmed: &|object| was_programmed(&snapshot, &self.cache, object),
        };
        let own = ProxyCounts::of(
            &snapshot,
            &evidence,
            connected.map(|(pod, observation)| (pod, &*observation.summary)),
        );
        let report = ReplicaReport::new(own.clone(), &self.rejections, withdrawals.shared());
        self.reports.send_if_modified(|now| {
            let changed = *now != report;
            *now = report;
            changed
        });
        self.counts.send_replace(Arc::new(Count {
            snapshot,
            observations,
            own,
        }));
    }
}

/// Writes statuses while this replica leads.
pub(super) struct Writer {
    pub(super) client: Client,
    /// This replica's pod.
    pub(super) pod: String,
    pub(super) cache: Arc<Cache>,
    pub(super) peers: Arc<Peers>,
    pub(super) leads: watch::Receiver<bool>,
    pub(super) counts: watch::Receiver<Arc<Count>>,
    pub(super) trials: Arc<Trials>,
    pub(super) mesh: Arc<MeshSource>,
    /// Whether the scopes that the workloads learned before this start are read.
    pub(super) scopes: watch::Receiver<bool>,
    pub(super) metrics: Arc<Metrics>,
}

/// The state of the writer between two writes.
struct Memory {
    /// The statuses that were written, as far as they may not have come back by the watch yet.
    sent: BTreeMap<ObjectRef, WrittenStatus>,
    absent: AbsentPolicies,
    events: Announcer,
}

impl Memory {
    fn new(writer: &Writer) -> Self {
        Self {
            sent: BTreeMap::new(),
            absent: AbsentPolicies::default(),
            events: Announcer::new(writer.client.clone(), &writer.pod),
        }
    }
}

impl Writer {
    pub(super) async fn run(mut self, stop: CancellationToken) -> Ended {
        let mut memory = Memory::new(&self);
        // The stored scopes determine the proxies that need an object.
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            read = self.scopes.wait_for(|read| *read) => {
                read.map_err(|_| "the reader of the learned scopes is gone")?;
            }
        }
        let mut peers = self.peers.changes();
        let mut unkept = self.cache.unkept();
        let mut resync = tokio::time::interval(RESYNC);
        let mut retry = false;
        loop {
            let leads = *self.leads.borrow_and_update();
            self.cache.set_leads(leads);
            if leads {
                unkept.mark_unchanged();
                let count = self.counts.borrow_and_update().clone();
                peers.mark_unchanged();
                retry = !self.write(&count, &mut memory).await;
            } else {
                memory.sent.clear();
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
                changed = self.counts.changed() => changed.map_err(|_| "the counter of proxies is gone")?,
                changed = self.leads.changed() => changed.map_err(|_| "the election is over")?,
                changed = peers.changed() => changed.map_err(|_| "the reader of the other replicas' reports is gone")?,
                changed = unkept.changed() => changed.map_err(|_| "the last good specs are gone")?,
                _ = resync.tick() => {
                    memory.sent.clear();
                    self.cache.forget_gone();
                }
            }
        }
    }

    /// Writes changed statuses. Returns whether all of them were written.
    async fn write(&self, count: &Count, memory: &mut Memory) -> bool {
        let snapshot = &count.snapshot;
        let report = self.sum(count, &mut memory.absent);
        let sent = &mut memory.sent;
        sent.retain(|object, _| snapshot.compiled.statuses.contains_key(object));
        let now = Time(Timestamp::now());
        let mut due = Vec::new();
        for (object, compiled) in &snapshot.compiled.statuses {
            let there = self.cache.status(object).unwrap_or_default();
            // The watch may not have returned the status that was written last.
            let before = sent.get(object).unwrap_or(&there);
            let mut after = before.next(object.kind, compiled, report.tally(object), &now);
            self.cache
                .keep_last_good(object, compiled, before, &mut after);
            if after != *before {
                due.push((object.clone(), before.clone(), after));
            }
        }
        let results: Vec<_> = futures::stream::iter(due)
            .map(|(object, before, after)| async {
                let uid = snapshot
                    .compiled
                    .statuses
                    .get(&object)
                    .and_then(|s| s.uid.clone());
                let result = self.apply(&object, uid.as_deref(), &before, &after).await;
                (result, object, before, after)
            })
            .buffer_unordered(WRITERS)
            .collect()
            .await;
        let mut all = true;
        for (result, object, before, after) in results {
            match result {
                Ok(()) => {
                    self.mesh.written([&object]);
                    let uid = self.cache.uid(&object);
                    memory.events.announce(&object, uid, &before, &after).await;
                    sent.insert(object, after);
                }
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

    /// Adds up the counts of all replicas. A ready proxy without a stream to any replica counts as not connected for the
    /// policies in its view.
    fn sum(&self, count: &Count, absent: &mut AbsentPolicies) -> ProxyCounts {
        let snapshot = &count.snapshot;
        let statuses = snapshot.compiled.statuses.iter();
        let generations = statuses
            .map(|(object, status)| (object_key(object), in_force(status)))
            .collect();
        let evidence = Evidence {
            trials: &self.trials,
            was_programmed: &|object| was_programmed(snapshot, &self.cache, object),
        };
        let mut report = count.own.clone();
        for other in self.peers.reports(&self.cache) {
            report.add(&other, &generations);
        }
        let nowhere = count.observations.iter().filter(|(pod, observation)| {
            !observation.summary.connected && !report.connected.contains(&pod.to_string())
        });
        let nowhere = nowhere.map(|(pod, observation)| (pod, &*observation.summary));
        let nowhere = ProxyCounts::of(snapshot, &evidence, nowhere);
        report.add(&nowhere, &generations);
        report.add_absent(snapshot, &evidence, &count.observations, |proxy| {
            absent.of(snapshot, &self.mesh, proxy)
        });
        report
    }

    /// Writes a status. `uid` is that of the compiled object.
    async fn apply(
        &self,
        object: &ObjectRef,
        uid: Option<&str>,
        before: &WrittenStatus,
        after: &WrittenStatus,
    ) -> Result<(), CallError> {
        let Some(resource) = object.kind.resource() else {
            return Ok(());
        };
        let (kind, api_version) = (object.kind.api_kind(), resource.api_version());
        let resource = api_resource(object.kind, &resource);
        let api: Api<DynamicObject> = if object.namespace.is_empty() {
            Api::all_with(self.client.clone(), &resource)
        } else {
            Api::namespaced_with(self.client.clone(), &object.namespace, &resource)
        };
        if object.kind.is_foreign() {
            let entries = object.kind.status_entries();
            let (Some(uid), Some(entries)) = (uid, entries) else {
                return Ok(());
            };
            if before.parents == after.parents {
                return Ok(());
            }
            return parents::write(&api, &object.name, uid, &after.parents, entries).await;
        }
        let body = json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": &*object.name}, "status": after.body()});
        let params = PatchParams::apply("heddle-operator").force();
        call(api.patch_status(&object.name, &params, &Patch::Apply(body))).await?;
        Ok(())
    }
}

/// Whether by the last written status every proxy runs the generation that is in force.
fn was_programmed(snapshot: &Snapshot, cache: &Cache, object: &ObjectRef) -> bool {
    let generation = snapshot
        .compiled
        .statuses
        .get(object)
        .map(|now| in_force(now));
    let written = cache.status(object);
    written
        .zip(generation)
        .is_some_and(|(written, generation)| written.is_programmed(generation))
}

#[cfg(test)]
#[path = "statuses_tests.rs"]
mod writer_tests;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use heddle_policy_compiler::{Resource, ResourceKey, ResourceKind};
    use heddle_xds_server::{Options, Server};

    use super::*;
    use crate::snapshot::SnapshotConsumer;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn resource(name: &str) -> Arc<Resource> {
        Arc::new(Resource {
            key: ResourceKey::new(ResourceKind::Route, name),
            version: "1".into(),
            body: bytes::Bytes::new(),
            requires: Vec::new(),
            empty: false,
            origins: BTreeSet::new(),
            rules: Vec::new(),
        })
    }

    fn handles() -> PlaneHandles {
        let trust_domain = "cluster.local".parse().unwrap();
        let interval = Duration::from_secs(10);
        let mesh = MeshSource::new(trust_domain, Arc::default(), interval, Arc::default());
        mesh.on_snapshot(&Arc::default());
        let mesh = Arc::new(mesh);
        let server = Arc::new(Server::new(Arc::clone(&mesh), Options::default()));
        PlaneHandles {
            mesh,
            registry: server.registry(),
            server,
        }
    }

    #[tokio::test]
    async fn the_result_of_a_trial_is_counted_though_no_proxy_says_anything() {
        let (handles, directory) = (handles(), tempfile::tempdir().unwrap());
        // An Envoy that accepts everything.
        let trials = Arc::new(Trials::new(Some("/bin/true".into()), directory.path()));
        let (counts, mut counted) = watch::channel(Arc::default());
        let counter = Counter {
            snapshots: handles.mesh.snapshots(),
            handles,
            rejections: Arc::default(),
            trials: Arc::clone(&trials),
            cache: Arc::new(Cache::new(Arc::default())),
            counts,
            reports: watch::Sender::new(ReplicaReport::default()),
            shown: Arc::default(),
        };
        let stop = CancellationToken::new();
        let counting = tokio::spawn(counter.run(stop.clone()));
        let trying = tokio::spawn(Arc::clone(&trials).run(stop.clone()));
        let mut count = async || tokio::time::timeout(PATIENCE, counted.changed()).await;
        count().await.expect("the first count").unwrap();
        for name in ["in|80", "in|81"] {
            trials.of("shop/web", &resource(name));
            count().await.expect("a count after the trial").unwrap();
        }
        stop.cancel();
        counting.await.unwrap().unwrap();
        trying.await.unwrap().unwrap();
    }
}
