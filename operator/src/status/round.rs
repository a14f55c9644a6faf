//! One look at all proxies against one picture. What did not change since the last look is not looked at again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use heddle_policy_compiler::{ObjectRef, PodRef};
use heddle_xds_server::{Name, Progress, Registry, SubscriberId, View};
use serde::Serialize;

use super::report::is_policy;
use crate::metrics::Metrics;
use crate::picture::Picture;
use crate::serving::{MeshSource, Seen, pod_of, wire_key};

/// How a proxy stands to an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It has acknowledged all that comes of it.
    Runs,
    /// Not yet.
    Waits,
    /// It refused something that comes of it.
    Refuses {
        /// The refused resource.
        resource: String,
        /// Envoy's own words.
        text: Arc<str>,
    },
}

/// One refused resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedResource {
    /// Its kind and name.
    pub resource: String,
    /// Envoy's own words.
    pub text: Arc<str>,
    /// The policies it comes from.
    pub origins: Vec<ObjectRef>,
}

/// How one proxy stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Whether it has a stream here.
    pub connected: bool,
    /// Resources that it should have and has not acknowledged.
    pub behind: usize,
    /// Resources that it should have.
    pub resources: usize,
    /// What it refused.
    pub refused: Vec<RefusedResource>,
    /// By the objects that its view contains.
    pub objects: BTreeMap<ObjectRef, State>,
}

/// What is told of one proxy to people.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProxyState {
    /// `<namespace>/<pod>`.
    pub proxy: String,
    /// Whether it has a stream here.
    pub connected: bool,
    /// Since when it has, or has not; seconds since 1970. None: never seen here.
    pub since: Option<u64>,
    /// Whether the pod is ready.
    pub ready: bool,
    /// Whether it runs all that it should.
    pub in_sync: bool,
    /// Resources that it should have and has not acknowledged.
    pub behind: usize,
    /// Since when it is behind; seconds since 1970.
    pub behind_since: Option<u64>,
    /// Resources that it should have.
    pub resources: usize,
    /// Destinations that it asked for on demand.
    pub on_demand: usize,
    /// What it refused.
    pub refused: Vec<String>,
    /// Bytes of discovery responses to it.
    pub bytes: u64,
    /// Discovery responses to it.
    pub responses: u64,
    /// What the proxy says it is, such as `envoy 1.40.0`.
    pub version: String,
    /// The identity that its certificate shows.
    pub identity: String,
}

struct Looked {
    seen: Arc<Seen>,
    progress: Option<Arc<Progress>>,
    summary: Arc<Summary>,
    behind_since: Option<SystemTime>,
    /// The last view that was acknowledged in full.
    synced: Option<Arc<View>>,
}

/// One look.
#[derive(Debug, Default)]
pub struct Round {
    /// All meshed pods.
    pub summaries: BTreeMap<PodRef, Arc<Summary>>,
    /// The same for people.
    pub proxies: Vec<ProxyState>,
}

/// Looks again and again.
#[derive(Default)]
pub struct Rounds {
    looked: BTreeMap<PodRef, Looked>,
}

impl std::fmt::Debug for Rounds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rounds")
            .field("proxies", &self.looked.len())
            .finish()
    }
}

impl Rounds {
    /// Looks at every meshed pod of the picture.
    pub fn look(
        &mut self,
        picture: &Picture,
        source: &MeshSource,
        registry: &Registry,
        metrics: &Metrics,
    ) -> Round {
        let progresses = registry.snapshot();
        self.looked
            .retain(|pod, _| picture.compiled.proxies.contains_key(pod));
        let mut round = Round::default();
        let nothing = std::collections::BTreeSet::<Name>::new();
        for (pod, proxy) in &picture.compiled.proxies {
            let progress = progresses.get(&SubscriberId::from(pod.to_string().as_str()));
            let wanted = progress.map_or(&nothing, |progress| &progress.wanted);
            let Some(seen) = source.seen(picture, pod, wanted) else {
                continue;
            };
            let looked = self.looked.remove(pod);
            let looked = look_at(looked, seen, progress.cloned(), picture, metrics);
            round
                .summaries
                .insert(pod.clone(), Arc::clone(&looked.summary));
            round.proxies.push(state(pod, proxy, &looked));
            self.looked.insert(pod.clone(), looked);
        }
        for who in progresses.keys() {
            // What is known of a pod that is over helps nobody.
            if pod_of(who.as_str()).is_none_or(|pod| !picture.compiled.proxies.contains_key(&pod)) {
                registry.forget(who);
            }
        }
        round
    }
}

fn look_at(
    before: Option<Looked>,
    seen: Arc<Seen>,
    progress: Option<Arc<Progress>>,
    picture: &Picture,
    metrics: &Metrics,
) -> Looked {
    let revision =
        |progress: &Option<Arc<Progress>>| progress.as_ref().map(|progress| progress.revision);
    if let Some(before) = &before
        && Arc::ptr_eq(&before.seen, &seen)
        && revision(&before.progress) == revision(&progress)
    {
        return Looked {
            seen,
            progress,
            summary: Arc::clone(&before.summary),
            behind_since: before.behind_since,
            synced: before.synced.clone(),
        };
    }
    let summary = Arc::new(summarise(&seen, progress.as_deref()));
    let (behind_since, mut synced) =
        before.map_or((None, None), |before| (before.behind_since, before.synced));
    let behind_since = (summary.behind > 0).then(|| behind_since.unwrap_or_else(SystemTime::now));
    if summary.behind == 0 && summary.connected {
        if let (Some(old), Some(since)) = (&synced, picture.seen)
            && !Arc::ptr_eq(old, &seen.wire)
        {
            metrics.convergence.observe(since.elapsed().as_secs_f64());
        }
        synced = Some(Arc::clone(&seen.wire));
    }
    Looked {
        seen,
        progress,
        summary,
        behind_since,
        synced,
    }
}

fn summarise(seen: &Seen, progress: Option<&Progress>) -> Summary {
    let connected = progress.is_some_and(|progress| progress.connected);
    let mut summary = Summary {
        connected,
        resources: seen.policy.resources.len(),
        ..Summary::default()
    };
    for (key, resource) in &seen.policy.resources {
        let key = wire_key(key);
        let acked =
            progress.is_some_and(|progress| progress.acked.get(&key) == Some(&resource.version));
        let refused = progress
            .and_then(|progress| progress.rejected.get(&key))
            .filter(|refused| refused.version == resource.version);
        let policies = resource
            .origins
            .iter()
            .filter(|object| is_policy(object.kind));
        let state = match refused {
            Some(refused) => {
                let origins = policies.clone().cloned().collect();
                summary.refused.push(RefusedResource {
                    resource: key.to_string(),
                    text: Arc::clone(&refused.text),
                    origins,
                });
                State::Refuses {
                    resource: key.to_string(),
                    text: Arc::clone(&refused.text),
                }
            }
            None if acked => State::Runs,
            None => State::Waits,
        };
        summary.behind += usize::from(state != State::Runs);
        for object in policies {
            let known = summary.objects.entry(object.clone()).or_insert(State::Runs);
            // The worst of all its resources counts.
            *known = match (&*known, &state) {
                (State::Refuses { .. }, _) | (State::Waits, State::Runs) => continue,
                (State::Runs | State::Waits, _) => state.clone(),
            };
        }
    }
    summary
}

fn state(pod: &PodRef, proxy: &heddle_policy_compiler::Proxy, looked: &Looked) -> ProxyState {
    let progress = looked.progress.as_deref();
    let unix = |time: SystemTime| {
        time.duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs()
    };
    ProxyState {
        proxy: pod.to_string(),
        connected: looked.summary.connected,
        since: progress.map(|progress| unix(progress.since)),
        ready: proxy.ready,
        in_sync: looked.summary.connected && looked.summary.behind == 0,
        behind: looked.summary.behind,
        behind_since: looked.behind_since.map(unix),
        resources: looked.summary.resources,
        on_demand: progress.map_or(0, |progress| progress.wanted.len()),
        refused: looked
            .summary
            .refused
            .iter()
            .map(|refused| format!("{}: {}", refused.resource, refused.text))
            .collect(),
        bytes: progress.map_or(0, |progress| progress.bytes),
        responses: progress.map_or(0, |progress| progress.responses),
        version: progress
            .map(|progress| progress.node.user_agent.clone())
            .unwrap_or_default(),
        identity: proxy.identity.to_string(),
    }
}
