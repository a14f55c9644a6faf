//! Exchanges reports between the replicas: each one writes its own ConfigMap, and reads those of the others.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use heddle_policy_compiler::{ObjectKind, ObjectRef, ObjectRejection};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch_objects};
use kube::{Client, ResourceExt};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::cache::Cache;
use super::{NAMESPACE, Options, call, encoded};
use crate::metrics::{Metrics, Watch};
use crate::rejections::RejectionStore;
use crate::status::ProxyCounts;
use crate::tasks::{Ended, chain};
use crate::withdrawals::{PeerReport, SharedCounts, Withdrawals};

const LABEL: &str = "heddle.dev/replica";
/// At most so often is a report written.
const PERIOD: Duration = Duration::from_secs(1);

/// The report of one replica: its counts and its rejections.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct ReplicaReport {
    pub(super) report: ProxyCounts,
    /// Rejections that an Envoy of the replica's own has verified. The field name differs from that of earlier versions,
    /// which did not verify rejections.
    #[serde(default, rename = "verified")]
    rejections: Vec<RejectionRecord>,
    /// The counts of the pods that end. `None`: a version without them wrote the report.
    #[serde(default)]
    withdrawals: Option<SharedCounts>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct RejectionRecord {
    kind: String,
    namespace: String,
    name: String,
    generation: i64,
    text: String,
}

impl ReplicaReport {
    pub(super) fn new(
        report: ProxyCounts,
        rejections: &RejectionStore,
        withdrawals: SharedCounts,
    ) -> Self {
        let rejections = rejections
            .all()
            .into_iter()
            .map(|rejection| RejectionRecord {
                kind: rejection.object.kind.as_str().to_owned(),
                namespace: rejection.object.namespace.to_string(),
                name: rejection.object.name.to_string(),
                generation: rejection.generation,
                text: rejection.text,
            });
        Self {
            report,
            rejections: rejections.collect(),
            withdrawals: Some(withdrawals),
        }
    }

    fn rejections(&self) -> impl Iterator<Item = ObjectRejection> {
        // A kind that is not known is that of a newer replica.
        let kind = |name: &str| ObjectKind::by_name(name).filter(|kind| kind.is_declared());
        self.rejections.iter().filter_map(move |rejection| {
            let object = ObjectRef::new(
                kind(&rejection.kind)?,
                &rejection.namespace,
                &rejection.name,
            );
            Some(ObjectRejection {
                object,
                generation: rejection.generation,
                text: rejection.text.clone(),
            })
        })
    }
}

/// The other replicas.
pub(super) struct Peers {
    me: String,
    reports: Mutex<BTreeMap<String, ReplicaReport>>,
    changed: watch::Sender<u64>,
}

impl Peers {
    pub(super) fn new(me: String) -> Self {
        Self {
            me,
            reports: Mutex::default(),
            changed: watch::Sender::new(0),
        }
    }

    /// Ticks with every change.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Returns the reports of the other replicas. The report of a replica does not count while its pod is not ready, as after
    /// the loss of its node: nothing renews the report, and the proxies have moved to other replicas.
    pub(super) fn reports(&self, cache: &Cache) -> Vec<ProxyCounts> {
        self.of_others(cache, |report| report.report.clone())
    }

    fn of_others<T>(&self, cache: &Cache, read: impl Fn(&ReplicaReport) -> T) -> Vec<T> {
        let reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        reports
            .iter()
            .filter(|(name, _)| **name != self.me && cache.is_ready(name))
            .map(|(_, report)| read(report))
            .collect()
    }

    /// Passes the progress of the other replicas to the withdrawals of pods.
    pub(super) async fn tell(
        self: Arc<Self>,
        cache: Arc<Cache>,
        withdrawals: Arc<Withdrawals>,
        stop: CancellationToken,
    ) -> Ended {
        let (mut changes, mut replicas) = (self.changes(), cache.replicas());
        loop {
            changes.mark_unchanged();
            withdrawals.hear(self.of_others(&cache, |report| PeerReport {
                connected: report.report.connected.clone(),
                counts: report.withdrawals.clone(),
            }));
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                changed = changes.changed() => changed.map_err(|_| "the reader of the other replicas' reports is gone")?,
                changed = replicas.changed() => {
                    changed.map_err(|_| "the reader of pods is gone")?;
                    self.tick();
                }
            }
        }
    }

    fn tick(&self) {
        self.changed.send_modify(|tick| *tick += 1);
    }

    /// Reads the reports of the other replicas. Takes over their rejections, so that all replicas compile the same.
    pub(super) async fn listen(
        self: Arc<Self>,
        client: Client,
        rejections: Arc<RejectionStore>,
        metrics: Arc<Metrics>,
        stop: CancellationToken,
    ) -> Ended {
        let api = Api::<ConfigMap>::namespaced(client, NAMESPACE);
        let config = watcher::Config::default().labels(LABEL);
        let mut events = std::pin::pin!(watch_objects(api, config).default_backoff());
        let mut listing = BTreeMap::new();
        loop {
            let event = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                event = events.next() => event.ok_or("the watch ended")?,
            };
            match event {
                Ok(event) => self.take(event, &mut listing, &rejections),
                Err(error) => {
                    metrics
                        .watch_errors
                        .get_or_create(&Watch { kind: "ConfigMap" })
                        .inc();
                    tracing::warn!(
                        error = chain(&error),
                        "the other replicas cannot be watched; trying again"
                    );
                }
            }
        }
    }

    fn take(
        &self,
        event: Event<ConfigMap>,
        listing: &mut BTreeMap<String, ReplicaReport>,
        rejections: &RejectionStore,
    ) {
        let mut reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Init => listing.clear(),
            Event::InitApply(map) => listing.extend(read(&map)),
            Event::InitDone => *reports = std::mem::take(listing),
            Event::Apply(map) => reports.extend(read(&map)),
            Event::Delete(map) => _ = reports.remove(&replica(&map)),
        }
        let received: Vec<ObjectRejection> = reports
            .iter()
            .filter(|(name, _)| **name != self.me)
            .flat_map(|(_, report)| report.rejections())
            .collect();
        drop(reports);
        for rejection in received {
            rejections.reject(rejection);
        }
        self.tick();
    }
}

fn replica(map: &ConfigMap) -> String {
    let name = map.name_any();
    name.strip_prefix("heddle-replica-")
        .unwrap_or(&name)
        .to_owned()
}

fn read(map: &ConfigMap) -> Option<(String, ReplicaReport)> {
    match encoded::decode(map) {
        Ok(report) => Some((replica(map), report?)),
        Err(error) => {
            tracing::warn!(
                error = chain(&error),
                map = map.name_any(),
                "another replica's report is not taken"
            );
            // That of before is no longer true.
            Some((replica(map), ReplicaReport::default()))
        }
    }
}

fn metadata(name: &str, pod: &str, uid: &str) -> ObjectMeta {
    let owner = OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        name: pod.to_owned(),
        uid: uid.to_owned(),
        ..OwnerReference::default()
    };
    ObjectMeta {
        name: Some(name.to_owned()),
        labels: Some([(LABEL.to_owned(), "true".to_owned())].into()),
        owner_references: Some(vec![owner]),
        ..ObjectMeta::default()
    }
}

/// The data of the ConfigMap. In place of a report that is too large an empty one is written: the one of before would let the leader believe
/// in acknowledgments that are over, while a sidecar that no report names has acknowledged nothing new.
fn data(report: &ReplicaReport) -> Result<ConfigMap, serde_json::Error> {
    if let Some(data) = encoded::encode(report)? {
        return Ok(data);
    }
    tracing::error!(
        sidecars = report.report.connected.len(),
        objects = report.report.objects.len(),
        "this replica's report is too large to be written: no status counts its sidecars; run more replicas"
    );
    Ok(encoded::encode(&ReplicaReport::default())?.unwrap_or_default())
}

/// Writes this replica's report whenever it changes, at most once a second.
pub(super) async fn publish(
    client: Client,
    options: Options,
    uid: String,
    mut reports: watch::Receiver<ReplicaReport>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) -> Ended {
    let api = Api::<ConfigMap>::namespaced(client, NAMESPACE);
    let name = format!("heddle-replica-{}", options.pod);
    let params = PatchParams::apply("heddle-operator").force();
    let mut written = None;
    loop {
        let report = reports.borrow_and_update().clone();
        if written.as_ref() != Some(&report) {
            let map = ConfigMap {
                metadata: metadata(&name, &options.pod, &uid),
                ..data(&report)?
            };
            match call(api.patch(&name, &params, &Patch::Apply(map))).await {
                Ok(_) => written = Some(report),
                Err(error) => {
                    metrics
                        .write_errors
                        .get_or_create(&Watch { kind: "ConfigMap" })
                        .inc();
                    tracing::warn!(
                        error = chain(&error),
                        "this replica's report could not be written; trying again"
                    );
                }
            }
        }
        let pending = written.as_ref() != Some(&*reports.borrow());
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(PERIOD) => {}
        }
        if !pending {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                changed = reports.changed() => changed.map_err(|_| "the counter of proxies is gone")?,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_survives_its_encoding() {
        let rejections = RejectionStore::default();
        let object = ObjectRef::new(ObjectKind::AuthPolicy, "shop", "cart");
        rejections.reject(ObjectRejection {
            object,
            generation: 3,
            text: "no".to_owned(),
        });
        let report = ReplicaReport::new(ProxyCounts::default(), &rejections, SharedCounts::new());
        let again: ReplicaReport =
            serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
        assert_eq!(again, report);
        assert_eq!(again.rejections().collect::<Vec<_>>(), rejections.all());
    }

    #[test]
    fn rejections_of_every_declared_kind_are_shared() {
        let rejections = RejectionStore::default();
        for kind in ObjectKind::ALL.iter().filter(|kind| kind.is_declared()) {
            rejections.reject(ObjectRejection {
                object: ObjectRef::new(*kind, kind.namespace_of(Some("shop")), "a"),
                generation: 3,
                text: "no".to_owned(),
            });
        }
        assert!(!rejections.all().is_empty());
        let report = ReplicaReport::new(ProxyCounts::default(), &rejections, SharedCounts::new());
        assert_eq!(report.rejections().collect::<Vec<_>>(), rejections.all());
    }
}
