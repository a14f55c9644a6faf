//! What each workload calls, kept in ConfigMaps that all replicas share: it outlives them, and the last pod of a workload.
//!
//! Workloads are spread over a fixed number of ConfigMaps by name. A replica writes only the keys of workloads that learned
//! something, so that two replicas do not undo each other's work; what another one writes is added to what is known here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use heddle_policy_compiler::WorkloadRef;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch_objects};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{CallError, NAMESPACE, call};
use crate::metrics::{Metrics, Watch};
use crate::scope::{self, Scopes};
use crate::serving::MeshSource;
use crate::tasks::{Ended, chain};

const LABEL: &str = "heddle.dev/scope";
/// A ConfigMap may have 1 MiB, and a workload of 20 destinations takes 1 kB. The number can't change without moving all keys.
const SHARDS: u8 = 32;
/// Lessons that come together are one write.
const PERIOD: Duration = Duration::from_secs(1);
const RETRY: Duration = Duration::from_secs(5);

pub(super) struct ScopeStore {
    api: Api<ConfigMap>,
    scopes: Arc<Scopes>,
    mesh: Arc<MeshSource>,
    metrics: Arc<Metrics>,
    read: watch::Sender<bool>,
}

impl ScopeStore {
    pub(super) fn new(
        client: Client,
        scopes: Arc<Scopes>,
        mesh: Arc<MeshSource>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            api: Api::namespaced(client, NAMESPACE),
            scopes,
            mesh,
            metrics,
            read: watch::Sender::new(false),
        }
    }

    /// Whether all that is stored has been read once.
    pub(super) fn is_read(&self) -> watch::Receiver<bool> {
        self.read.subscribe()
    }

    /// Reads what is there, and what the other replicas add.
    pub(super) async fn listen(self: Arc<Self>, stop: CancellationToken) -> Ended {
        let config = watcher::Config::default().labels(LABEL);
        let mut events = std::pin::pin!(watch_objects(self.api.clone(), config).default_backoff());
        loop {
            let event = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                event = events.next() => event.ok_or("the watch ended")?,
            };
            match event {
                Ok(Event::InitApply(map) | Event::Apply(map)) => self.take(&map),
                // Without a ConfigMap everybody keeps what they know, and writes it anew when it changes.
                Ok(Event::Init | Event::Delete(_)) => {}
                Ok(Event::InitDone) => _ = self.read.send_replace(true),
                Err(error) => {
                    self.metrics
                        .watch_errors
                        .get_or_create(&Watch { kind: "ConfigMap" })
                        .inc();
                    tracing::warn!(
                        error = chain(&error),
                        "learned scopes cannot be watched; trying again"
                    );
                }
            }
        }
    }

    fn take(&self, map: &ConfigMap) {
        let nothing = BTreeMap::new();
        let data = map.data.as_ref().unwrap_or(&nothing);
        let name = map.name_any();
        let mut gone: BTreeSet<WorkloadRef> = self
            .scopes
            .workloads()
            .into_iter()
            .filter(|workload| shard(workload) == name)
            .collect();
        for (key, text) in data {
            if let Some(workload) = scope::parse(key) {
                gone.remove(&workload);
                self.remember(&workload, &scope::read(text));
            }
        }
        for workload in gone {
            self.remember(&workload, &BTreeMap::new());
        }
    }

    fn remember(
        &self,
        workload: &WorkloadRef,
        stored: &BTreeMap<heddle_policy_compiler::Destination, scope::Seconds>,
    ) {
        // Whoever serves its pods knows best what they use.
        let last_word = !self.mesh.serves(workload);
        if self.scopes.remember(workload, stored, last_word) {
            self.mesh.relearned(workload);
        }
    }

    /// Writes what is learned here, at most once a second.
    pub(super) async fn keep(self: Arc<Self>, stop: CancellationToken) -> Ended {
        let mut changes = self.scopes.changes();
        loop {
            changes.mark_unchanged();
            let all = self.save().await;
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(if all { PERIOD } else { RETRY }) => {}
            }
            if all {
                tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    changed = changes.changed() => changed.map_err(|_| "nobody learns any more")?,
                }
            }
        }
    }

    async fn save(&self) -> bool {
        let mut shards: BTreeMap<String, (Vec<WorkloadRef>, BTreeMap<String, Value>)> =
            BTreeMap::new();
        for (workload, held) in self.scopes.unsaved() {
            let (workloads, data) = shards.entry(shard(&workload)).or_default();
            let text = if held.is_empty() {
                Value::Null
            } else {
                Value::from(scope::write(&held))
            };
            data.insert(scope::key(&workload), text);
            workloads.push(workload);
        }
        let mut all = true;
        for (name, (workloads, data)) in shards {
            if let Err(error) = self.patch(&name, &data).await {
                all = false;
                self.scopes.not_saved(workloads);
                self.metrics
                    .write_errors
                    .get_or_create(&Watch { kind: "ConfigMap" })
                    .inc();
                tracing::warn!(
                    error = chain(&error),
                    map = name,
                    "learned scopes could not be written; trying again"
                );
            }
        }
        all
    }

    async fn patch(&self, name: &str, data: &BTreeMap<String, Value>) -> Result<(), CallError> {
        let patch = Patch::Merge(json!({"data": data}));
        match call(self.api.patch(name, &PatchParams::default(), &patch)).await {
            Err(error) if error.code() == Some(404) => {}
            result => return result.map(|_| ()),
        }
        let text =
            |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_owned()));
        let mut map = ConfigMap {
            data: Some(data.iter().filter_map(text).collect()),
            ..ConfigMap::default()
        };
        map.metadata.name = Some(name.to_owned());
        map.metadata.labels = Some(BTreeMap::from([(LABEL.to_owned(), "true".to_owned())]));
        call(self.api.create(&PostParams::default(), &map)).await?;
        Ok(())
    }
}

/// The ConfigMap that a workload's scope is in.
fn shard(workload: &WorkloadRef) -> String {
    let digest = Sha256::digest(scope::key(workload).as_bytes());
    let number = digest.first().copied().unwrap_or_default() % SHARDS;
    format!("heddle-scope-{number}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_is_always_in_the_same_map() {
        let shards: BTreeSet<String> = (0..1000)
            .map(|n| shard(&WorkloadRef::new("shop", &format!("w{n}"))))
            .collect();
        assert_eq!(shards.len(), usize::from(SHARDS));
        assert_eq!(
            shard(&WorkloadRef::new("shop", "cart")),
            shard(&WorkloadRef::new("shop", "cart"))
        );
    }
}
