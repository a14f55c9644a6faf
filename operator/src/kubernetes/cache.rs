//! The cluster as the watches tell it: stripped objects by name, and a tick only for what the compiler would read.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::StreamExt;
use heddle_crds::Kind;
use heddle_policy_compiler::{
    Finding, KubeObject, ObjectKind, ObjectRef, PodRef, ingest::parse_json,
};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, TypeMeta};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch_objects};
use kube::{Api, Client};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::strip;
use crate::metrics::{Metrics, Watch};
use crate::objects::{ObjectSource, Objects, is_ours, reference};
use crate::status::WrittenStatus;
use crate::tasks::{Ended, Tasks, chain};

#[derive(Clone)]
struct Held {
    object: KubeObject,
    findings: Vec<Finding>,
    print: u64,
}

#[derive(Default)]
struct Kept {
    synced: bool,
    objects: BTreeMap<ObjectRef, Held>,
}

/// All that is watched.
pub(super) struct Cache {
    kinds: Mutex<HashMap<&'static str, Kept>>,
    changed: watch::Sender<u64>,
    synced: watch::Sender<bool>,
    metrics: Arc<Metrics>,
}

/// The kinds watched, in all.
const WATCHED: usize = 4 + Kind::ALL.len();

impl Cache {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            kinds: Mutex::default(),
            changed: watch::Sender::new(0),
            synced: watch::Sender::new(false),
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
            let gvk = GroupVersionKind::gvk(heddle_crds::GROUP, heddle_crds::VERSION, kind.name());
            let resource = ApiResource::from_gvk_with_plural(&gvk, &kind.plural());
            // Untyped, for one object that today's types cannot read must not hide all others.
            let types = TypeMeta {
                api_version: heddle_crds::API_VERSION.to_owned(),
                kind: kind.name().to_owned(),
            };
            self.follow::<DynamicObject>(
                tasks,
                kind.name(),
                Api::all_with(client.clone(), &resource),
                move |object| ours(object, &types),
            );
        }
    }

    /// Whether every kind has been listed once; stays true.
    pub(super) fn synced(&self) -> watch::Receiver<bool> {
        self.synced.subscribe()
    }

    /// A pod's uid and service account, if the pod is alive.
    pub(super) fn pod(&self, pod: &PodRef) -> Option<(String, String)> {
        let object = ObjectRef::new(ObjectKind::Pod, &pod.namespace, &pod.name);
        let kinds = self.lock();
        let KubeObject::Pod(pod) = &kinds.get("Pod")?.objects.get(&object)?.object else {
            return None;
        };
        let account = pod
            .spec
            .as_ref()?
            .service_account_name
            .clone()
            .filter(|name| !name.is_empty());
        Some((
            pod.metadata.uid.clone()?,
            account.unwrap_or_else(|| "default".to_owned()),
        ))
    }

    /// The status of an object as the API server has it.
    pub(super) fn status(&self, object: &ObjectRef) -> Option<WrittenStatus> {
        let kinds = self.lock();
        let status = status_of(&kinds.get(object.kind.as_str())?.objects.get(object)?.object)?;
        serde_json::from_value(status).ok()
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
        let config = watcher::Config::default().page_size(500);
        let mut events = std::pin::pin!(watch_objects(api, config).default_backoff());
        let mut listing = BTreeMap::new();
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
                    self.take(kind, event, &convert, &mut listing);
                }
                Err(error) => {
                    self.metrics
                        .watch_errors
                        .get_or_create(&Watch { kind })
                        .inc();
                    // Said once: a backoff repeats it for as long as it lasts.
                    if !std::mem::replace(&mut failing, true) {
                        report(kind, &error);
                    }
                }
            }
        }
    }

    fn take<K>(
        &self,
        kind: &'static str,
        event: Event<K>,
        convert: &impl Fn(K) -> (Vec<KubeObject>, Vec<Finding>),
        listing: &mut BTreeMap<ObjectRef, Held>,
    ) {
        match event {
            Event::Init => listing.clear(),
            Event::InitApply(object) => listing.extend(held(convert(object))),
            Event::InitDone => {
                let mut kinds = self.lock();
                let kept = kinds.entry(kind).or_default();
                let fresh = std::mem::take(listing);
                let same = kept.synced && prints(&kept.objects) == prints(&fresh);
                *kept = Kept {
                    synced: true,
                    objects: fresh,
                };
                let all = kinds.len() == WATCHED && kinds.values().all(|kept| kept.synced);
                drop(kinds);
                if all {
                    self.synced
                        .send_if_modified(|synced| !std::mem::replace(synced, true));
                }
                if !same {
                    self.tick();
                }
            }
            Event::Apply(object) => {
                let mut changed = false;
                for (reference, fresh) in held(convert(object)) {
                    let before = self
                        .lock()
                        .entry(kind)
                        .or_default()
                        .objects
                        .insert(reference, fresh.clone());
                    changed |= before.is_none_or(|before| before.print != fresh.print);
                }
                if changed {
                    self.tick();
                }
            }
            Event::Delete(object) => {
                for (reference, _) in held(convert(object)) {
                    self.lock()
                        .entry(kind)
                        .or_default()
                        .objects
                        .remove(&reference);
                }
                self.tick();
            }
        }
    }

    fn tick(&self) {
        // Nothing is compiled from half a cluster: what is not listed yet would look deleted.
        if *self.synced.borrow() {
            self.changed.send_modify(|tick| *tick += 1);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<&'static str, Kept>> {
        self.kinds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ObjectSource for Cache {
    fn objects(&self) -> Objects {
        let mut all = Objects::default();
        for held in self.lock().values().flat_map(|kept| kept.objects.values()) {
            all.objects.push(held.object.clone());
            all.findings.extend(held.findings.iter().cloned());
        }
        all
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

/// One of our own objects, perhaps unreadable.
fn ours(mut object: DynamicObject, types: &TypeMeta) -> (Vec<KubeObject>, Vec<Finding>) {
    // The items of a list need not say what they are.
    object.types = Some(types.clone());
    object.metadata.managed_fields = None;
    object.metadata.annotations = None;
    match serde_json::to_value(&object) {
        Ok(value) => parse_json("the API server", value),
        Err(error) => {
            tracing::error!(%error, name = object.metadata.name, "an object is no JSON");
            (Vec::new(), Vec::new())
        }
    }
}

fn held(
    (objects, findings): (Vec<KubeObject>, Vec<Finding>),
) -> impl Iterator<Item = (ObjectRef, Held)> {
    objects.into_iter().filter_map(move |object| {
        let print = print(&object);
        Some((
            reference(&object)?,
            Held {
                print,
                findings: findings.clone(),
                object,
            },
        ))
    })
}

fn prints(objects: &BTreeMap<ObjectRef, Held>) -> Vec<(&ObjectRef, u64)> {
    objects
        .iter()
        .map(|(reference, held)| (reference, held.print))
        .collect()
}

/// A hash of what the compiler reads. Of our own objects that is the generation, and of the status what is an input.
fn print(object: &KubeObject) -> u64 {
    let text = match object {
        KubeObject::Namespace(o) => serde_json::to_string(&**o),
        KubeObject::Service(o) => serde_json::to_string(&**o),
        KubeObject::EndpointSlice(o) => serde_json::to_string(&**o),
        KubeObject::Pod(o) => serde_json::to_string(&**o),
        KubeObject::Template(_) => Ok(String::new()),
        KubeObject::Mesh(o) => serde_json::to_string(&(&o.metadata.uid, &o.spec)),
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

fn status_of(object: &KubeObject) -> Option<Value> {
    match object {
        KubeObject::Mesh(o) => serde_json::to_value(o.status.as_ref()?).ok(),
        KubeObject::TrafficSplit(o) => serde_json::to_value(o.status.as_ref()?).ok(),
        KubeObject::AuthPolicy(o) => serde_json::to_value(o.status.as_ref()?).ok(),
        KubeObject::Unreadable(o) if is_ours(o.object.kind) => o.value.get("status").cloned(),
        KubeObject::Unreadable(_)
        | KubeObject::Namespace(_)
        | KubeObject::Service(_)
        | KubeObject::EndpointSlice(_)
        | KubeObject::Pod(_)
        | KubeObject::Template(_) => None,
    }
}

fn report(kind: &'static str, error: &watcher::Error) {
    let text = chain(error);
    if text.contains("404")
        || text.contains("NotFound")
        || text.contains("could not find the requested resource")
    {
        tracing::error!(
            kind,
            "the API server does not know this kind: install the CRDs (config/crd); trying again until it does"
        );
    } else {
        tracing::warn!(kind, error = text, "the watch failed; trying again");
    }
}
