//! The cluster by its watches: stripped objects by name. Ticks only for changes that the compiler would read.

use std::collections::{BTreeSet, HashSet};
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt;
use heddle_policy_compiler::{
    DeclaredObject, Finding, InputKind, KindResource, KubeObject, ObjectKind, ObjectRef, PodRef,
    Role,
};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::DynamicObject;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch_objects};
use kube::{Api, Client, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::cached::{CachedObject, Pending, State, key};
use super::declared::{all, api, declared};
use super::failures::{is_gone, is_unreadable, knows_no_streams, report};
use super::kept::Kept;
use super::last_good::LastGoods;
use super::listing::{Key, Listing};
use super::watching::{LOOK, Watching};
use super::{NAMESPACE, strip};
use crate::metrics::{Metrics, Watch};
use crate::objects::{Batch, ObjectSource};
use crate::tasks::{Ended, Tasks};

/// The wait before an incomplete list is read again.
const RELIST: Duration = Duration::from_secs(1);

/// All that is watched.
pub(super) struct Cache {
    state: Mutex<State>,
    changed: watch::Sender<u64>,
    metrics: Arc<Metrics>,
    /// The last good specs of the objects.
    pub(super) last_goods: LastGoods,
    /// The time between two looks whether an optional kind is installed by now.
    pub(super) look: Duration,
}

impl Cache {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            state: Mutex::default(),
            changed: watch::Sender::new(0),
            metrics,
            last_goods: LastGoods::default(),
            look: LOOK,
        }
    }

    /// Starts the watches of these kinds.
    pub(super) fn start(
        self: &Arc<Self>,
        client: &Client,
        kinds: impl IntoIterator<Item = (ObjectKind, KindResource)>,
        tasks: &mut Tasks,
    ) {
        let watched: Vec<Watching> = kinds
            .into_iter()
            .map(|(kind, resource)| Watching {
                kind,
                resource,
                client: client.clone(),
            })
            .collect();
        let kinds = watched.iter().map(|watching| watching.kind);
        self.lock().watch(kinds);
        for watching in watched {
            self.start_one(watching, tasks);
        }
    }

    fn start_one(self: &Arc<Self>, watching: Watching, tasks: &mut Tasks) {
        let one = |object: KubeObject| (vec![object], Vec::new());
        let (kind, resource, client) = (watching.kind, watching.resource, &watching.client);
        match kind.role() {
            Role::Settings | Role::Policy => {
                let client = client.clone();
                let api = move |resource: &KindResource| api(&client, kind, resource);
                self.follow::<DynamicObject>(tasks, watching, api, move |o| {
                    declared(o, kind, &resource)
                });
            }
            Role::Input(InputKind::Pod) => {
                let api = all(client.clone());
                self.follow::<core::Pod>(tasks, watching, api, move |o| {
                    one(KubeObject::Pod(Arc::new(strip::pod(o))))
                });
            }
            Role::Input(InputKind::Service) => {
                let api = all(client.clone());
                self.follow::<core::Service>(tasks, watching, api, move |o| {
                    one(KubeObject::Service(Arc::new(strip::service(o))))
                });
            }
            Role::Input(InputKind::EndpointSlice) => {
                let api = all(client.clone());
                self.follow::<EndpointSlice>(tasks, watching, api, move |o| {
                    one(KubeObject::EndpointSlice(Arc::new(strip::slice(o))))
                });
            }
            Role::Input(InputKind::Namespace) => {
                let api = all(client.clone());
                self.follow::<core::Namespace>(tasks, watching, api, move |o| {
                    one(KubeObject::Namespace(Arc::new(strip::namespace(o))))
                });
            }
            // They have no resource.
            Role::Input(InputKind::Document | InputKind::Workload) => {}
        }
    }

    /// A pod's uid and service account, if the pod exists.
    pub(super) fn pod(&self, pod: &PodRef) -> Option<(String, String)> {
        let key = ((*pod.namespace).into(), (*pod.name).into());
        match &self
            .lock()
            .kinds
            .get(&ObjectKind::Pod)?
            .objects
            .get(&key)?
            .kept
        {
            Kept::Pod { uid, account, .. } => Some((uid.to_string(), account.to_string())),
            Kept::Nothing | Kept::Declared(_) => None,
        }
    }

    /// Whether a pod of the control plane runs and is ready.
    pub(super) fn is_ready(&self, replica: &str) -> bool {
        let state = self.lock();
        let pods = state.kinds.get(&ObjectKind::Pod);
        let pod = pods.and_then(|pods| pods.objects.get(&(NAMESPACE.into(), replica.into())));
        pod.is_some_and(CachedObject::is_ready)
    }

    /// Ticks when a pod of the control plane becomes ready, or ends to be.
    pub(super) fn replicas(&self) -> watch::Receiver<u64> {
        self.lock().replicas.subscribe()
    }

    /// Takes the newest past of these objects over.
    pub(super) fn remember_again(&self, objects: BTreeSet<ObjectRef>) {
        let mut changed = false;
        for object in objects {
            let Some(declared) = self.declared(&object) else {
                continue;
            };
            let declared = self.last_goods.attach(KubeObject::Declared(declared));
            let mut state = self.lock();
            let findings = state.findings.get(&object).cloned().unwrap_or_default();
            changed |= state.apply(object, declared, &findings);
        }
        if changed {
            self.tick();
        }
    }

    /// Whether all objects were read once.
    pub(super) fn is_complete(&self) -> bool {
        self.lock().complete()
    }

    /// Ticks the reader of changes.
    pub(super) fn tick(&self) {
        self.changed.send_modify(|tick| *tick += 1);
    }

    /// Takes the findings about the definitions of kinds.
    pub(super) fn set_definitions(&self, findings: Vec<Finding>) {
        let before = std::mem::replace(&mut self.lock().definitions, findings.clone());
        if before != findings {
            self.tick();
        }
    }

    /// The uid of a declared object.
    pub(super) fn uid(&self, object: &ObjectRef) -> Option<String> {
        self.declared(object)?.uid.clone()
    }

    pub(super) fn declared(&self, object: &ObjectRef) -> Option<Arc<DeclaredObject>> {
        let state = self.lock();
        let watched = state.kinds.get(&object.kind)?;
        match &watched.objects.get(&key(object))?.kept {
            Kept::Declared(object) => Some(Arc::clone(object)),
            Kept::Nothing | Kept::Pod { .. } => None,
        }
    }

    /// Returns whether a watch has failed within this time: later changes may be missing.
    pub(super) fn failed_within(&self, time: Duration) -> bool {
        let failed = self.lock().failed;
        failed.is_some_and(|failed| failed.elapsed() < time)
    }

    fn follow<K>(
        self: &Arc<Self>,
        tasks: &mut Tasks,
        watching: Watching,
        api: impl Fn(&KindResource) -> Api<K> + Send + Sync + 'static,
        convert: impl Fn(K) -> (Vec<KubeObject>, Vec<Finding>) + Send + Sync + 'static,
    ) where
        K: kube::Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    {
        let (this, stop) = (Arc::clone(self), tasks.stop());
        tasks.spawn(watching.kind.as_str(), async move {
            this.watch(watching, api, convert, stop).await
        });
    }

    async fn watch<K>(
        self: Arc<Self>,
        watching: Watching,
        api: impl Fn(&KindResource) -> Api<K> + Send,
        convert: impl Fn(K) -> (Vec<KubeObject>, Vec<Finding>) + Send,
        stop: CancellationToken,
    ) -> Ended
    where
        K: kube::Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    {
        let (kind, name) = (watching.kind, watching.kind.as_str());
        // One by one from the API server's own cache: pages would be read from etcd, one after the other.
        let mut config = watcher::Config::default().streaming_lists();
        let follow = |config: &watcher::Config, resource: &KindResource| {
            let events = watch_objects(api(resource), config.clone());
            events.default_backoff().boxed()
        };
        let mut resource = watching.resource;
        let mut events = follow(&config, &resource);
        let (mut listing, mut failing) = (Listing::default(), false);
        loop {
            let event = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                event = events.next() => event.ok_or("the watch ended")?,
            };
            match event {
                Ok(event) => {
                    goes_on(name, &mut failing);
                    if !self.take(kind, event, &convert, &mut listing) {
                        self.relisted(name, "interrupted");
                        tokio::time::sleep(RELIST).await;
                        events = follow(&config, &resource);
                    }
                }
                Err(error) if knows_no_streams(&error) => {
                    self.relisted(name, "not_streamed");
                    config = watcher::Config::default().page_size(500);
                    events = follow(&config, &resource);
                }
                Err(_) if watching.is_absent().await => {
                    self.absent(kind);
                    watching.installed(self.look, &stop).await;
                    let events_again = follow(&config, &resource);
                    (events, listing, failing) = (events_again, Listing::default(), false);
                }
                Err(error) => {
                    if let Some(other) = watching.other_version(&resource).await {
                        resource = other;
                        (events, listing) = (follow(&config, &resource), Listing::default());
                        continue;
                    }
                    if !is_unreadable(&error) {
                        listing.broken();
                    }
                    self.failed(name, &error, &mut failing);
                }
            }
        }
    }

    /// Reports that a list is read again: the watch was `interrupted`, or the API server has `not_streamed` the list.
    fn relisted(&self, kind: &'static str, reason: &'static str) {
        self.metrics.relisted(kind, reason);
        tracing::info!(kind, reason, "reading a list again");
    }

    /// An optional kind is not installed: there are no objects of it.
    fn absent(&self, kind: ObjectKind) {
        let name = kind.as_str();
        tracing::info!(kind = name, "optional kind not installed");
        if self.listed(kind, &HashSet::new()) {
            self.tick();
        }
    }

    fn failed(&self, kind: &'static str, error: &watcher::Error, failing: &mut bool) {
        self.lock().failed = Some(Instant::now());
        self.metrics
            .watch_errors
            .get_or_create(&Watch { kind })
            .inc();
        if is_gone(error) {
            self.metrics.relisted(kind, "gone");
            tracing::info!(
                kind,
                "410 Gone: the API server no longer has the changes since the last event; listing all objects again"
            );
        } else if !std::mem::replace(failing, true) {
            // Said once: a backoff repeats it for as long as it lasts.
            report(kind, error);
        }
    }

    /// Takes an event. Returns whether it can go on: a list that was not whole has to be read once more.
    fn take<K>(
        &self,
        kind: ObjectKind,
        event: Event<K>,
        convert: &impl Fn(K) -> (Vec<KubeObject>, Vec<Finding>),
        listing: &mut Listing,
    ) -> bool
    where
        K: kube::Resource,
    {
        let named = |(objects, findings): (Vec<KubeObject>, Vec<Finding>)| {
            let all = objects.into_iter();
            let all: Vec<_> = all
                .filter_map(|object| Some((object.reference()?, object)))
                .collect();
            (all, findings)
        };
        let changed = match event {
            Event::Init => {
                listing.begin();
                false
            }
            Event::InitApply(object) => {
                let version = object.resource_version().unwrap_or_default();
                let (objects, findings) = named(convert(object));
                for (reference, _) in &objects {
                    listing.name(key(reference), &version);
                }
                self.apply(objects, &findings)
            }
            Event::InitDone => match listing.end() {
                Some(listed) => self.listed(kind, &listed),
                None => return false,
            },
            Event::Apply(object) => {
                let (objects, findings) = named(convert(object));
                self.apply(objects, &findings)
            }
            Event::Delete(object) => {
                let mut state = self.lock();
                for (reference, _) in named(convert(object)).0 {
                    state.remove(reference);
                }
                true
            }
        };
        if changed {
            self.tick();
        }
        true
    }

    fn apply(&self, objects: Vec<(ObjectRef, KubeObject)>, findings: &[Finding]) -> bool {
        let mut state = self.lock();
        let mut changed = false;
        for (reference, object) in objects {
            let object = self.last_goods.attach(object);
            changed |= state.apply(reference, object, findings);
        }
        changed
    }

    /// Ends a listing: objects that are not in it are gone.
    fn listed(&self, kind: ObjectKind, listing: &HashSet<Key>) -> bool {
        let mut state = self.lock();
        let watched = state.kinds.entry(kind).or_default();
        let first = !std::mem::replace(&mut watched.synced, true);
        let known = watched.objects.keys();
        let gone: Vec<Key> = known
            .filter(|key| !listing.contains(*key))
            .cloned()
            .collect();
        for (namespace, name) in &gone {
            state.remove(ObjectRef::new(kind, namespace, name));
        }
        // The last listing completes the input even if it was empty.
        first || !gone.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves the maps whole: every change is a plain insert or remove.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ObjectSource for Cache {
    fn take(&self) -> Batch {
        let read = self.last_goods.is_read();
        let mut state = self.lock();
        let Pending { changes, since } = std::mem::take(&mut state.pending);
        let findings = state.findings.values().flatten();
        let findings = findings.chain(&state.definitions).cloned();
        Batch {
            findings: findings.collect(),
            changes: changes.into_iter().collect(),
            since,
            complete: state.complete() && read,
        }
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

fn goes_on(kind: &str, failing: &mut bool) {
    if std::mem::take(failing) {
        tracing::info!(kind, "watch recovered");
    }
}
