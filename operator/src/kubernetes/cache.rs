//! The cluster as the watches tell it: stripped objects by name, and a tick only for what the compiler would read.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Debug;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt;
use heddle_crds::Kind;
use heddle_policy_compiler::{Finding, KubeObject, ObjectKind, ObjectRef, PodRef};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::DynamicObject;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch_objects};
use kube::{Api, Client, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::failures::{is_gone, is_unreadable, knows_no_streams, report};
use super::listing::{Key, Listing};
use super::ours::{Ours, ours, status_of, uid_of};
use super::strip;
use crate::metrics::{Metrics, Watch};
use crate::objects::{Batch, ObjectSource, is_ours, reference};
use crate::status::WrittenStatus;
use crate::tasks::{Ended, Tasks};

/// What is kept of an object, so that a change of what nobody reads is no change.
struct Known {
    print: u64,
    kept: Kept,
}

enum Kept {
    Nothing,
    /// For tokens.
    Pod {
        uid: Box<str>,
        account: Box<str>,
    },
    /// One of ours, for its status.
    Ours(KubeObject),
}

#[derive(Default)]
struct Watched {
    synced: bool,
    objects: HashMap<Key, Known>,
}

fn key(object: &ObjectRef) -> Key {
    ((*object.namespace).into(), (*object.name).into())
}

/// What the compiling thread has not taken yet.
#[derive(Default)]
struct Pending {
    changes: BTreeMap<ObjectRef, Option<KubeObject>>,
    since: Option<Instant>,
}

#[derive(Default)]
struct State {
    kinds: HashMap<&'static str, Watched>,
    pending: Pending,
    findings: BTreeMap<ObjectRef, Vec<Finding>>,
    /// When a watch last failed.
    failed: Option<Instant>,
}

impl State {
    fn complete(&self) -> bool {
        self.kinds.len() == WATCHED && self.kinds.values().all(|watched| watched.synced)
    }

    /// Takes an object as it is now. Returns whether the compiler would read anything new.
    fn apply(
        &mut self,
        kind: &'static str,
        reference: ObjectRef,
        object: KubeObject,
        findings: &[Finding],
    ) -> bool {
        let known = Known {
            print: print(&object),
            kept: kept(&object),
        };
        let fresh = known.print;
        let before = self
            .kinds
            .entry(kind)
            .or_default()
            .objects
            .insert(key(&reference), known);
        if before.is_some_and(|before| before.print == fresh) {
            return false;
        }
        if findings.is_empty() {
            self.findings.remove(&reference);
        } else {
            self.findings.insert(reference.clone(), findings.to_vec());
        }
        self.change(reference, Some(object));
        true
    }

    fn remove(&mut self, kind: &'static str, reference: ObjectRef) {
        self.kinds
            .entry(kind)
            .or_default()
            .objects
            .remove(&key(&reference));
        self.findings.remove(&reference);
        self.change(reference, None);
    }

    fn change(&mut self, reference: ObjectRef, object: Option<KubeObject>) {
        self.pending.since.get_or_insert_with(Instant::now);
        self.pending.changes.insert(reference, object);
    }
}

/// Before a list is begun anew that was not whole.
const RELIST: Duration = Duration::from_secs(1);

/// The kinds watched, in all.
const WATCHED: usize = 4 + Kind::ALL.len();

/// All that is watched.
pub(super) struct Cache {
    state: Mutex<State>,
    changed: watch::Sender<u64>,
    metrics: Arc<Metrics>,
}

impl Cache {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            state: Mutex::default(),
            changed: watch::Sender::new(0),
            metrics,
        }
    }

    /// Starts the watches.
    pub(super) fn start(self: &Arc<Self>, client: &Client, tasks: &mut Tasks) {
        let one = |object: KubeObject| (vec![object], Vec::new());
        self.follow::<core::Pod>(tasks, "Pod", Api::all(client.clone()), move |o| {
            one(KubeObject::Pod(Arc::new(strip::pod(o))))
        });
        self.follow::<core::Service>(tasks, "Service", Api::all(client.clone()), move |o| {
            one(KubeObject::Service(Arc::new(strip::service(o))))
        });
        self.follow::<EndpointSlice>(tasks, "EndpointSlice", Api::all(client.clone()), move |o| {
            one(KubeObject::EndpointSlice(Arc::new(strip::slice(o))))
        });
        self.follow::<core::Namespace>(tasks, "Namespace", Api::all(client.clone()), move |o| {
            one(KubeObject::Namespace(Arc::new(strip::namespace(o))))
        });
        for kind in Kind::ALL {
            let Ours { resource, types } = Ours::of(*kind);
            self.follow::<DynamicObject>(
                tasks,
                kind.name(),
                Api::all_with(client.clone(), &resource),
                move |object| ours(object, &types),
            );
        }
    }

    /// A pod's uid and service account, if the pod is alive.
    pub(super) fn pod(&self, pod: &PodRef) -> Option<(String, String)> {
        let key = ((*pod.namespace).into(), (*pod.name).into());
        match &self.lock().kinds.get("Pod")?.objects.get(&key)?.kept {
            Kept::Pod { uid, account } => Some((uid.to_string(), account.to_string())),
            Kept::Nothing | Kept::Ours(_) => None,
        }
    }

    /// The status of an object as the API server has it.
    pub(super) fn status(&self, object: &ObjectRef) -> Option<WrittenStatus> {
        let state = self.lock();
        let watched = state.kinds.get(object.kind.as_str())?;
        let Kept::Ours(object) = &watched.objects.get(&key(object))?.kept else {
            return None;
        };
        serde_json::from_value(status_of(object)?).ok()
    }

    /// The uid of one of our objects.
    pub(super) fn uid(&self, object: &ObjectRef) -> Option<String> {
        let state = self.lock();
        let watched = state.kinds.get(object.kind.as_str())?;
        match &watched.objects.get(&key(object))?.kept {
            Kept::Ours(object) => uid_of(object),
            _ => None,
        }
    }

    /// Whether a watch has failed in this time: what has changed since may not be known yet.
    pub(super) fn failed_within(&self, time: Duration) -> bool {
        let failed = self.lock().failed;
        failed.is_some_and(|failed| failed.elapsed() < time)
    }

    fn follow<K>(
        self: &Arc<Self>,
        tasks: &mut Tasks,
        kind: &'static str,
        api: Api<K>,
        convert: impl Fn(K) -> (Vec<KubeObject>, Vec<Finding>) + Send + Sync + 'static,
    ) where
        K: kube::Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    {
        let (this, stop) = (Arc::clone(self), tasks.stop());
        tasks.spawn(
            kind,
            async move { this.watch(kind, api, convert, stop).await },
        );
    }

    async fn watch<K>(
        self: Arc<Self>,
        kind: &'static str,
        api: Api<K>,
        convert: impl Fn(K) -> (Vec<KubeObject>, Vec<Finding>) + Send,
        stop: CancellationToken,
    ) -> Ended
    where
        K: kube::Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    {
        // One by one from the API server's own cache: pages would be read from etcd, one after the other.
        let mut config = watcher::Config::default().streaming_lists();
        let follow = |config: &watcher::Config| {
            let events = watch_objects(api.clone(), config.clone());
            events.default_backoff().boxed()
        };
        let mut events = follow(&config);
        let mut listing = Listing::default();
        let mut failing = false;
        loop {
            let event = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                event = events.next() => event.ok_or("the watch ended")?,
            };
            match event {
                Ok(event) => {
                    if std::mem::take(&mut failing) {
                        tracing::info!(kind, "the watch goes on");
                    }
                    if !self.take(kind, event, &convert, &mut listing) {
                        tracing::info!(
                            kind,
                            "a list broke off and began anew; it is read once more"
                        );
                        tokio::time::sleep(RELIST).await;
                        events = follow(&config);
                    }
                }
                Err(error) if knows_no_streams(&error) => {
                    tracing::info!(
                        kind,
                        "the API server streams no lists; they are read in pages"
                    );
                    config = watcher::Config::default().page_size(500);
                    events = follow(&config);
                }
                Err(error) => {
                    if !is_unreadable(&error) {
                        listing.broken();
                    }
                    self.failed(kind, &error, &mut failing);
                }
            }
        }
    }

    fn failed(&self, kind: &'static str, error: &watcher::Error, failing: &mut bool) {
        self.lock().failed = Some(Instant::now());
        self.metrics
            .watch_errors
            .get_or_create(&Watch { kind })
            .inc();
        if is_gone(error) {
            tracing::info!(
                kind,
                "410 Gone: the API server no longer knows what happened since; all is listed anew"
            );
        } else if !std::mem::replace(failing, true) {
            // Said once: a backoff repeats it for as long as it lasts.
            report(kind, error);
        }
    }

    /// Takes an event. Returns whether it can go on: a list that was not whole has to be read once more.
    fn take<K>(
        &self,
        kind: &'static str,
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
                .filter_map(|object| Some((reference(&object)?, object)))
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
                self.apply(kind, objects, &findings)
            }
            Event::InitDone => match listing.end() {
                Some(listed) => self.listed(kind, &listed),
                None => return false,
            },
            Event::Apply(object) => {
                let (objects, findings) = named(convert(object));
                self.apply(kind, objects, &findings)
            }
            Event::Delete(object) => {
                let mut state = self.lock();
                for (reference, _) in named(convert(object)).0 {
                    state.remove(kind, reference);
                }
                true
            }
        };
        if changed {
            self.changed.send_modify(|tick| *tick += 1);
        }
        true
    }

    fn apply(
        &self,
        kind: &'static str,
        objects: Vec<(ObjectRef, KubeObject)>,
        findings: &[Finding],
    ) -> bool {
        let mut state = self.lock();
        let mut changed = false;
        for (reference, object) in objects {
            changed |= state.apply(kind, reference, object, findings);
        }
        changed
    }

    /// A listing is over: what is not in it is gone.
    fn listed(&self, kind: &'static str, listing: &HashSet<Key>) -> bool {
        let mut state = self.lock();
        let watched = state.kinds.entry(kind).or_default();
        let first = !std::mem::replace(&mut watched.synced, true);
        let known = watched.objects.keys();
        let gone: Vec<Key> = known
            .filter(|key| !listing.contains(*key))
            .cloned()
            .collect();
        for (namespace, name) in &gone {
            if let Some(kind_of) = object_kind(kind) {
                state.remove(kind, ObjectRef::new(kind_of, namespace, name));
            }
        }
        // The last listing completes the picture even if it was empty.
        first || !gone.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves the maps whole: every change is a plain insert or remove.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ObjectSource for Cache {
    fn take(&self) -> Batch {
        let mut state = self.lock();
        let Pending { changes, since } = std::mem::take(&mut state.pending);
        Batch {
            changes: changes.into_iter().collect(),
            findings: state.findings.values().flatten().cloned().collect(),
            since,
            complete: state.complete(),
        }
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

fn object_kind(name: &str) -> Option<ObjectKind> {
    use ObjectKind::{AuthPolicy, EndpointSlice, Mesh, Namespace, Pod, Service, TrafficSplit};
    let watched = [
        Pod,
        Service,
        EndpointSlice,
        Namespace,
        Mesh,
        TrafficSplit,
        AuthPolicy,
    ];
    watched.into_iter().find(|kind| kind.as_str() == name)
}

fn kept(object: &KubeObject) -> Kept {
    match object {
        KubeObject::Pod(pod) => {
            let account = pod
                .spec
                .as_ref()
                .and_then(|spec| spec.service_account_name.as_deref());
            let account = account.filter(|name| !name.is_empty()).unwrap_or("default");
            match &pod.metadata.uid {
                Some(uid) => Kept::Pod {
                    uid: uid.as_str().into(),
                    account: account.into(),
                },
                None => Kept::Nothing,
            }
        }
        KubeObject::Mesh(_) | KubeObject::TrafficSplit(_) | KubeObject::AuthPolicy(_) => {
            Kept::Ours(object.clone())
        }
        KubeObject::Unreadable(unreadable) if is_ours(unreadable.object.kind) => {
            Kept::Ours(object.clone())
        }
        KubeObject::Unreadable(_)
        | KubeObject::Namespace(_)
        | KubeObject::Service(_)
        | KubeObject::EndpointSlice(_)
        | KubeObject::Template(_) => Kept::Nothing,
    }
}

/// A hash of what the compiler reads. Of our own objects that is the generation, and of the status what is an input.
fn print(object: &KubeObject) -> u64 {
    let text = match object {
        KubeObject::Namespace(o) => serde_json::to_string(&**o),
        KubeObject::Service(o) => serde_json::to_string(&**o),
        KubeObject::EndpointSlice(o) => serde_json::to_string(&**o),
        KubeObject::Pod(o) => serde_json::to_string(&**o),
        KubeObject::Template(_) => Ok(String::new()),
        KubeObject::Mesh(o) => {
            let last_good = o.status.as_ref().map(|status| &status.last_good);
            serde_json::to_string(&(&o.metadata.uid, o.metadata.generation, &o.spec, last_good))
        }
        KubeObject::TrafficSplit(o) => {
            let status = o
                .status
                .as_ref()
                .map(|status| (&status.last_good, &status.weights));
            serde_json::to_string(&(&o.metadata.uid, o.metadata.generation, &o.spec, status))
        }
        KubeObject::AuthPolicy(o) => {
            let last_good = o.status.as_ref().map(|status| &status.last_good);
            serde_json::to_string(&(&o.metadata.uid, o.metadata.generation, &o.spec, last_good))
        }
        KubeObject::Unreadable(o) => serde_json::to_string(&(
            o.generation,
            o.value.get("spec"),
            o.value.pointer("/status/lastGood"),
        )),
    };
    let mut hasher = DefaultHasher::new();
    text.unwrap_or_default().hash(&mut hasher);
    hasher.finish()
}
