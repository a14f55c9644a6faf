//! A store that all replicas share, and that outlives them: texts by key, spread over a fixed number of ConfigMaps.
//!
//! A replica writes only the keys that it changed, so that two replicas do not undo each other's writes. A map that cannot be written blocks
//! no other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::join_all;
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
use crate::tasks::{Ended, chain};

/// The number of maps of a store; each may have 1 MiB. The number cannot change without moving all keys.
pub(super) const SHARDS: u8 = 32;
/// Changes that come together are one write.
const PERIOD: Duration = Duration::from_secs(1);
/// The time for which a map that could not be written is left alone.
pub(super) const RETRY: Duration = Duration::from_secs(5);

/// One text to write.
pub(super) struct Unsaved<O> {
    /// The thing that the text is about.
    pub(super) owner: O,
    pub(super) key: String,
    /// `None`: the key is to be removed.
    pub(super) text: Option<String>,
}

/// The content of a store.
pub(super) trait Content: Send + Sync + 'static {
    /// The label of the ConfigMaps.
    const LABEL: &str;
    /// The names of the ConfigMaps without their numbers.
    const PREFIX: &str;
    /// The content, for log lines.
    const NAME: &str;
    /// The thing that a text is about.
    type Owner: Clone + Send + Sync;
    /// Whether a text that has no room must not take others with it: they are written in halves then.
    const HALVED: bool;

    /// Ticks when there is something unsaved.
    fn changes(&self) -> watch::Receiver<u64>;

    /// Takes the texts of one map as they are stored.
    fn take(&self, map: &str, data: &BTreeMap<String, String>);

    /// A map is gone, if it ever was there.
    fn lost(&self, _map: &str) {}

    /// All maps were read once.
    fn complete(&self) {}

    /// Returns the texts that changed since the last call.
    fn unsaved(&self) -> Vec<Unsaved<Self::Owner>>;

    /// Marks owners of [`Content::unsaved`] as unsaved again.
    fn not_saved(&self, owners: Vec<Self::Owner>);

    /// A map has no room for the texts of these owners: forgets some of its texts. Returns how many.
    fn make_room(&self, map: &str, owners: &[Self::Owner]) -> usize;
}

/// The ConfigMap that contains a key.
pub(super) fn map_of<C: Content>(key: &str) -> String {
    let digest = Sha256::digest(key.as_bytes());
    let number = digest.first().copied().unwrap_or_default() % SHARDS;
    format!("{}-{number}", C::PREFIX)
}

/// The texts of a map that belong there. A copy of a map, such as a backup, may have its label, and must not compete with it.
pub(super) fn own_texts<C: Content>(map: ConfigMap) -> BTreeMap<String, String> {
    let name = map.name_any();
    let mut data = map.data.unwrap_or_default();
    let all = data.len();
    data.retain(|key, _| map_of::<C>(key) == name);
    if data.len() < all {
        let (foreign, what) = (all - data.len(), C::NAME);
        tracing::warn!(
            map = name,
            foreign,
            "a ConfigMap has {what} of another one; they are ignored"
        );
    }
    data
}

/// Maps that could not be written, and until when they are left alone.
pub(super) type Blocked = BTreeMap<String, Instant>;

/// The texts to write into one map.
type Texts<O> = Vec<Unsaved<O>>;

/// Whether a map has no room. 413: the request is too large; 422: the map would be.
fn is_too_large(error: &CallError) -> bool {
    matches!(error.code(), Some(413 | 422))
}

/// Reads and writes the maps of a content.
pub(super) struct Store<C> {
    api: Api<ConfigMap>,
    content: Arc<C>,
    metrics: Arc<Metrics>,
    read: watch::Sender<bool>,
}

impl<C: Content> Store<C> {
    pub(super) fn new(client: Client, content: Arc<C>, metrics: Arc<Metrics>) -> Self {
        Self {
            api: Api::namespaced(client, NAMESPACE),
            content,
            metrics,
            read: watch::Sender::new(false),
        }
    }

    /// Whether all that is stored has been read once.
    pub(super) fn is_read(&self) -> watch::Receiver<bool> {
        self.read.subscribe()
    }

    /// Reads the maps, and the changes by other replicas.
    pub(super) async fn listen(self: Arc<Self>, stop: CancellationToken) -> Ended {
        let config = watcher::Config::default().labels(C::LABEL);
        let mut events = std::pin::pin!(watch_objects(self.api.clone(), config).default_backoff());
        let mut listed = BTreeSet::new();
        loop {
            let event = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                event = events.next() => event.ok_or("the watch ended")?,
            };
            match event {
                Ok(Event::Init) => listed.clear(),
                Ok(Event::InitApply(map) | Event::Apply(map)) => {
                    let (name, data) = (map.name_any(), own_texts::<C>(map));
                    self.content.take(&name, &data);
                    listed.insert(name);
                }
                // Every replica keeps the content of a deleted map.
                Ok(Event::Delete(map)) => self.content.lost(&map.name_any()),
                Ok(Event::InitDone) => {
                    let maps = (0..SHARDS).map(|number| format!("{}-{number}", C::PREFIX));
                    for map in maps.filter(|map| !listed.contains(map)) {
                        self.content.lost(&map);
                    }
                    self.content.complete();
                    self.read.send_replace(true);
                }
                Err(error) => {
                    self.metrics
                        .watch_errors
                        .get_or_create(&Watch { kind: "ConfigMap" })
                        .inc();
                    let (error, what) = (chain(&error), C::NAME);
                    tracing::warn!(error, "{what} cannot be watched; trying again");
                }
            }
        }
    }

    /// Writes changed texts, at most once a second.
    pub(super) async fn keep(self: Arc<Self>, stop: CancellationToken) -> Ended {
        let mut changes = self.content.changes();
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
                changed = changes.changed() => changed.map_err(|_| "the content of a store is gone")?,
                () = retry => {}
            }
        }
    }

    /// Writes all maps side by side. A map that cannot be written is blocked for a while, and blocks no other.
    pub(super) async fn save(&self, blocked: &mut Blocked) {
        let now = Instant::now();
        let mut shards = BTreeMap::<String, Texts<C::Owner>>::new();
        for unsaved in self.content.unsaved() {
            let name = map_of::<C>(&unsaved.key);
            if blocked.get(&name).is_some_and(|until| *until > now) {
                self.content.not_saved(vec![unsaved.owner]);
                continue;
            }
            shards.entry(name).or_default().push(unsaved);
        }
        blocked.retain(|_, until| *until > now);
        let writes = shards.into_iter().map(|(name, texts)| async move {
            let failed = self.write(&name, texts).await;
            (name, failed)
        });
        for (name, failed) in join_all(writes).await {
            for (texts, error) in failed {
                self.failed(&name, &error, texts);
                blocked.insert(name.clone(), Instant::now() + RETRY);
            }
        }
    }

    /// Writes texts into one map. Returns those that could not be written.
    async fn write(&self, name: &str, texts: Texts<C::Owner>) -> Vec<(Texts<C::Owner>, CallError)> {
        let (mut left, mut failed) = (vec![texts], Vec::new());
        while let Some(mut texts) = left.pop() {
            let Err(error) = self.patch(name, &texts).await else {
                continue;
            };
            if C::HALVED && is_too_large(&error) && texts.len() > 1 {
                left.push(texts.split_off(texts.len() / 2));
                left.push(texts);
            } else {
                failed.push((texts, error));
            }
        }
        failed
    }

    fn failed(&self, map: &str, error: &CallError, texts: Texts<C::Owner>) {
        let owners: Vec<_> = texts.into_iter().map(|unsaved| unsaved.owner).collect();
        self.content.not_saved(owners.clone());
        self.metrics
            .write_errors
            .get_or_create(&Watch { kind: "ConfigMap" })
            .inc();
        let forgotten = match is_too_large(error) {
            true => self.content.make_room(map, &owners),
            false => 0,
        };
        let (error, what) = (chain(error), C::NAME);
        tracing::warn!(
            error,
            map,
            forgotten,
            "{what} could not be written; trying again"
        );
    }

    async fn patch(&self, name: &str, texts: &Texts<C::Owner>) -> Result<(), CallError> {
        let value = |text: &Option<String>| text.clone().map_or(Value::Null, Value::from);
        let data = texts.iter().map(|of| (of.key.clone(), value(&of.text)));
        let data: BTreeMap<String, Value> = data.collect();
        // Without its label, the watch would never return the map.
        let labels = json!({"labels": {C::LABEL: "true"}});
        let patch = Patch::Merge(json!({"metadata": labels, "data": data}));
        let params = PatchParams::default();
        let write = || call(self.api.patch(name, &params, &patch));
        match write().await {
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
        map.metadata.labels = Some(BTreeMap::from([(C::LABEL.to_owned(), "true".to_owned())]));
        match call(self.api.create(&PostParams::default(), &map)).await {
            // Another replica has created it in this moment.
            Err(error) if error.code() == Some(409) => write().await.map(|_| ()),
            result => result.map(|_| ()),
        }
    }
}
