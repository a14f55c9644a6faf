//! The store of the learned scopes: ConfigMaps that all replicas share. It outlives the replicas, and the last pod of a
//! workload.
//!
//! Workloads are spread over a fixed number of ConfigMaps by name. A replica writes only the keys of workloads with a
//! changed scope, so that two replicas do not undo each other's writes. Destinations that another replica writes are added
//! to the scope here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::join_all;
use heddle_policy_compiler::WorkloadRef;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch_objects};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio::time::Instant;
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

/// Maps that could not be written, and until when they are left alone.
type Blocked = BTreeMap<String, Instant>;

/// The data to write into one map.
#[derive(Default)]
struct Shard {
    workloads: Vec<WorkloadRef>,
    data: BTreeMap<String, Value>,
}

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

    /// Reads the stored scopes, and the changes by other replicas.
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
                // If a ConfigMap is deleted, every replica keeps its scopes, and writes them again when they change.
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
            if let Some((workload, held)) = scope::read(key, text) {
                gone.remove(&workload);
                self.remember(&workload, &held);
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
        // The replica that serves the pods of a workload has the newest times of use.
        let last_word = !self.mesh.serves(workload);
        if self.scopes.remember(workload, stored, last_word) {
            self.mesh.relearned(workload);
        }
    }

    /// Writes changed scopes, at most once a second.
    pub(super) async fn keep(self: Arc<Self>, stop: CancellationToken) -> Ended {
        let mut changes = self.scopes.changes();
        let mut blocked = Blocked::new();
        loop {
            changes.mark_unchanged();
            self.save(&mut blocked).await;
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(PERIOD) => {}
            }
            let retry = blocked.values().min().copied();
            let retry = async {
                match retry {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                changed = changes.changed() => changed.map_err(|_| "the scopes are gone")?,
                () = retry => {}
            }
        }
    }

    /// Writes all maps side by side. A map that cannot be written is blocked for a while, and blocks no other.
    async fn save(&self, blocked: &mut Blocked) {
        let now = Instant::now();
        let mut shards = BTreeMap::<String, Shard>::new();
        for (workload, held) in self.scopes.unsaved() {
            let name = shard(&workload);
            if blocked.get(&name).is_some_and(|until| *until > now) {
                self.scopes.not_saved([workload]);
                continue;
            }
            let shard = shards.entry(name).or_default();
            let text = if held.is_empty() {
                Value::Null
            } else {
                Value::from(scope::write(&workload, &held))
            };
            shard.data.insert(scope::key(&workload), text);
            shard.workloads.push(workload);
        }
        blocked.retain(|_, until| *until > now);
        let writes = shards.into_iter().map(|(name, shard)| async move {
            let outcome = self.patch(&name, &shard.data).await;
            (name, shard, outcome)
        });
        for (name, shard, outcome) in join_all(writes).await {
            if let Err(error) = outcome {
                self.scopes.not_saved(shard.workloads);
                self.failed(&name, &error);
                blocked.insert(name, Instant::now() + RETRY);
            }
        }
    }

    fn failed(&self, name: &str, error: &CallError) {
        self.metrics
            .write_errors
            .get_or_create(&Watch { kind: "ConfigMap" })
            .inc();
        // 413: the request is too large; 422: the map would be.
        let forgotten = match error.code() {
            Some(413 | 422) => {
                let present = self.mesh.present();
                self.scopes
                    .forget_some(&present, |workload| shard(workload) == name)
            }
            _ => 0,
        };
        tracing::warn!(
            error = chain(error),
            map = name,
            forgotten,
            "learned scopes could not be written; trying again"
        );
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
    use std::sync::Mutex;

    use kube::client::Body;

    use super::*;

    /// Returns a store with an API server that refuses one map as too large if a write has more than `room` new scopes.
    fn store(full: String, room: usize, writes: Arc<Mutex<Vec<(String, Value)>>>) -> ScopeStore {
        let answer = move |request: http::Request<Body>| {
            let (full, writes) = (full.clone(), Arc::clone(&writes));
            async move {
                let name = request.uri().path().rsplit('/').next().unwrap().to_owned();
                let body = request.into_body().collect_bytes().await.unwrap();
                let patch: Value = serde_json::from_slice(&body).unwrap();
                let new = patch["data"].as_object().unwrap().values();
                let refused = name == full && new.filter(|text| text.is_string()).count() > room;
                let (code, answer) = if refused {
                    let text = "data: Too long: must have at most 1048576 bytes";
                    (
                        422,
                        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 422, "message": text, "reason": "Invalid"}),
                    )
                } else {
                    writes.lock().unwrap().push((name, patch));
                    (
                        200,
                        json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {}}),
                    )
                };
                let response = http::Response::builder().status(code);
                Ok::<_, std::io::Error>(
                    response
                        .body(Body::from(answer.to_string().into_bytes()))
                        .unwrap(),
                )
            }
        };
        let client = Client::new(tower::service_fn(answer), NAMESPACE);
        let (scopes, metrics) = (Arc::<Scopes>::default(), Arc::<Metrics>::default());
        let domain = "cluster.local".parse().unwrap();
        let mesh = MeshSource::new(domain, Arc::clone(&scopes), RETRY, Arc::clone(&metrics));
        ScopeStore::new(client, scopes, Arc::new(mesh), metrics)
    }

    #[tokio::test]
    async fn a_full_map_blocks_no_other_and_makes_room() {
        let writes = Arc::default();
        let names = (0..400).map(|n| WorkloadRef::new("ci", &format!("job:{n}")));
        let names: Vec<WorkloadRef> = names.collect();
        let full = shard(&names[0]);
        let in_full = names.iter().filter(|name| shard(name) == full).count();
        let store = store(full.clone(), in_full - 1, Arc::clone(&writes));
        for (age, name) in (1u64..).zip(&names) {
            let db = "service/shop/db:80".parse().unwrap();
            store.scopes.learn(name, &db, None, age);
        }
        let mut blocked = Blocked::new();
        store.save(&mut blocked).await;
        let written: BTreeSet<String> = writes
            .lock()
            .unwrap()
            .drain(..)
            .map(|(name, _)| name)
            .collect();
        assert_eq!(written.len(), usize::from(SHARDS) - 1);
        assert_eq!(blocked.keys().collect::<Vec<_>>(), [&full]);
        // Blocked, it is left alone; then the oldest scopes have made room for the rest.
        store.save(&mut blocked).await;
        assert!(writes.lock().unwrap().is_empty());
        blocked.clear();
        store.save(&mut blocked).await;
        let writes = writes.lock().unwrap();
        let [(name, patch)] = &writes[..] else {
            panic!("{writes:?}");
        };
        let data = patch["data"].as_object().unwrap();
        let forgotten = data.values().filter(|text| text.is_null()).count();
        assert_eq!(
            (name, data.len(), forgotten),
            (&full, in_full, in_full.div_ceil(4))
        );
        assert!(blocked.is_empty());
        assert_eq!(store.scopes.workloads().len(), 400 - forgotten);
    }

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
