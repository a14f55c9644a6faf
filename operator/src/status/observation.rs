//! Observes the proxies: compares the progress of each with its view. Only proxies with a change are compared again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;

use heddle_policy_compiler::{ObjectRef, PodRef, Proxy, Resource};
use heddle_xds_server::{Name, Progress, Registry, SubscriberId};
pub use heddle_xds_types::ProxyState;
use imbl::OrdMap;

use crate::certificates::Certificates;
use crate::serving::{MeshSource, ServedView, pod_of};
use crate::snapshot::Snapshot;

/// The state of an object at a proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObjectState {
    /// The proxy has acknowledged all resources that come of it.
    Acknowledged,
    /// The proxy has not answered yet.
    Pending,
    /// It rejected a resource that comes of it.
    Rejected {
        /// The rejected resource.
        resource: Arc<Resource>,
        /// Envoy's text.
        text: Arc<str>,
    },
}

/// A rejected resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedResource {
    /// The resource.
    pub resource: Arc<Resource>,
    /// Envoy's text.
    pub text: Arc<str>,
    /// The policies it comes from.
    pub origins: Vec<ObjectRef>,
}

/// How one proxy stands, as far as statuses go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Whether it has a stream here.
    pub connected: bool,
    /// Whether its pod is ready, so that it counts.
    pub ready: bool,
    /// Whether its stream has reported the resources of the proxy. Before, `objects` has no meaning.
    pub has_reported: bool,
    /// The rejected resources.
    pub rejected: Vec<RejectedResource>,
    /// By the objects that its view contains.
    pub objects: BTreeMap<ObjectRef, ObjectState>,
}

/// The observation of one proxy.
#[derive(Debug)]
pub struct ProxyObservation {
    /// As far as statuses go.
    pub summary: Arc<Summary>,
    /// The view that the proxy should have.
    expected: Arc<ServedView>,
    progress: Arc<Progress>,
    /// Resources that it should have and has not acknowledged.
    unacknowledged: usize,
    behind_since: Option<SystemTime>,
}

impl ProxyObservation {
    /// The time since which the proxy lacks a resource, or has rejected one.
    #[must_use]
    pub const fn behind_since(&self) -> Option<SystemTime> {
        self.behind_since
    }

    /// Whether the proxy has acknowledged a version of a resource (`Some(false)`: rejected it); `None` if it has not answered or
    /// should not have it.
    pub(super) fn acknowledged(&self, resource: &Resource) -> Option<bool> {
        let key = &resource.key;
        let view = self.progress.view.as_ref()?;
        let present = view
            .iter()
            .any(|sent| sent.key == *key && sent.version == resource.version);
        match (present, self.progress.unacknowledged.get(key)) {
            (true, None) => Some(true),
            (true, Some(Some(rejection))) => {
                (rejection.version == resource.version).then_some(false)
            }
            (true, Some(None)) | (false, _) => None,
        }
    }
}

/// All proxies that have, or had, a stream here.
pub type ProxyObservations = OrdMap<PodRef, Arc<ProxyObservation>>;

/// Observes the proxies again and again.
#[derive(Debug, Default)]
pub struct ProxyObserver {
    observations: ProxyObservations,
    heard: u64,
}

impl ProxyObserver {
    /// Observes the proxies with a change since the last call. Returns all observations, and whether any summary changed.
    pub fn observe(
        &mut self,
        snapshot: &Snapshot,
        source: &MeshSource,
        registry: &Registry,
    ) -> (ProxyObservations, bool) {
        let mut due: BTreeSet<Name> = source.take_changed();
        for (who, progress) in registry.changed_since(self.heard) {
            self.heard = self.heard.max(progress.revision);
            due.insert(who.0);
        }
        let mut changed = false;
        for who in due {
            changed |= self.observe_one(&who, snapshot, source, registry);
        }
        (self.observations.clone(), changed)
    }

    fn observe_one(
        &mut self,
        who: &Name,
        snapshot: &Snapshot,
        source: &MeshSource,
        registry: &Registry,
    ) -> bool {
        let id = SubscriberId(Name::clone(who));
        let (Some(pod), Some(progress)) = (pod_of(who), registry.get(&id)) else {
            return false;
        };
        let Some(proxy) = snapshot.compiled.proxies.get(&pod) else {
            // The pod is gone, and its state with it.
            registry.forget(&id);
            source.forget(who);
            return self.observations.remove(&pod).is_some();
        };
        let Some(expected) = source.expected(who, &progress.on_demand) else {
            return false;
        };
        let before = self.observations.get(&pod);
        let (summary, unacknowledged) = summarize(proxy, &expected, &progress);
        let known = before
            .map(|before| &before.summary)
            .filter(|known| ***known == summary);
        let changed = known.is_none();
        let summary = known.map_or_else(|| Arc::new(summary), Arc::clone);
        let since = before.and_then(|before| before.behind_since);
        let observation = ProxyObservation {
            summary,
            expected,
            progress,
            unacknowledged,
            behind_since: (unacknowledged > 0).then(|| since.unwrap_or_else(SystemTime::now)),
        };
        self.observations.insert(pod, Arc::new(observation));
        changed
    }
}

fn summarize(proxy: &Proxy, expected: &ServedView, progress: &Progress) -> (Summary, usize) {
    let mut summary = Summary {
        connected: progress.connected,
        // A terminating pod takes calls by its own address for as long as it runs, even if its condition is not ready.
        ready: proxy.ready || (proxy.terminating && progress.connected),
        has_reported: progress.view.is_some(),
        ..Summary::default()
    };
    for object in expected.parts.iter().flat_map(|part| &part.objects) {
        if !summary.objects.contains_key(object) {
            let acknowledged = ObjectState::Acknowledged;
            summary.objects.insert(object.clone(), acknowledged);
        }
    }
    let mut open = progress.unacknowledged_of(&expected.wire);
    let unacknowledged = open.len();
    if unacknowledged == 0 {
        return (summary, 0);
    }
    for part in &expected.parts {
        for (wire, resource) in part.wire.resources.iter().zip(&part.policy.resources) {
            // Each once, for it may stand in several parts.
            if !open.remove(&wire.key) {
                continue;
            }
            let policies = || {
                resource
                    .origins
                    .iter()
                    .filter(|object| object.kind.is_policy())
            };
            let rejection = progress
                .unacknowledged
                .get(&wire.key)
                .and_then(Option::as_ref);
            let state = match rejection.filter(|of| of.version == wire.version) {
                Some(rejection) => {
                    summary.rejected.push(RejectedResource {
                        resource: Arc::clone(resource),
                        text: Arc::clone(&rejection.text),
                        origins: policies().cloned().collect(),
                    });
                    ObjectState::Rejected {
                        resource: Arc::clone(resource),
                        text: Arc::clone(&rejection.text),
                    }
                }
                None => ObjectState::Pending,
            };
            for object in policies() {
                // The worst of all its resources counts.
                match summary.objects.get_mut(object) {
                    Some(ObjectState::Rejected { .. }) | None => {}
                    Some(known) => *known = state.clone(),
                }
            }
        }
    }
    (summary, unacknowledged)
}

/// Returns the states of all pods with a sidecar, also of those that never had a stream here, for people.
#[must_use]
pub fn states(
    snapshot: &Snapshot,
    observations: &ProxyObservations,
    certificates: &Certificates,
) -> Vec<ProxyState> {
    let proxies = snapshot.compiled.proxies.iter();
    let mesh_generation = snapshot.compiled.mesh_generation();
    proxies
        .map(|(pod, proxy)| {
            let observation = observations.get(pod).map(|observation| &**observation);
            ProxyState {
                certificate: certificates.of(pod),
                bypassed: Some(snapshot.compiled.bypasses(&pod.namespace)),
                mesh_generation,
                ..state(pod, proxy, observation)
            }
        })
        .collect()
}

fn state(pod: &PodRef, proxy: &Proxy, observation: Option<&ProxyObservation>) -> ProxyState {
    let unix = |time: SystemTime| {
        time.duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs()
    };
    let progress = observation.map(|observation| &*observation.progress);
    let connected = progress.is_some_and(|progress| progress.connected);
    let behind = observation.map_or(0, |observation| observation.unacknowledged);
    let rejected = observation
        .into_iter()
        .flat_map(|observation| &observation.summary.rejected);
    ProxyState {
        proxy: pod.to_string(),
        connected,
        since: progress.map(|progress| unix(progress.since)),
        ready: proxy.ready,
        in_sync: connected && behind == 0,
        bypassed: None,
        mesh_generation: None,
        behind,
        behind_since: observation
            .and_then(|observation| observation.behind_since)
            .map(unix),
        resources: observation.map_or(0, |observation| observation.expected.resources()),
        scope: Some(observation.map_or(0, |observation| observation.expected.scope)),
        on_demand: progress.map_or(0, |progress| progress.on_demand.clusters.len()),
        rejected: rejected
            .map(|one| format!("{}: {}", one.resource.key, one.text))
            .collect(),
        bytes: progress.map_or(0, |progress| progress.bytes),
        responses: progress.map_or(0, |progress| progress.responses),
        version: progress
            .map(|progress| progress.node.user_agent.to_string())
            .unwrap_or_default(),
        bootstrap: progress.map(|progress| progress.node.bootstrap),
        identity: proxy.identity.to_string(),
        certificate: None,
    }
}
