//! The ends of pods: how far the removal of each terminating pod from the configurations of its callers is, and receipts of
//! the last quarter of an hour.
//!
//! Each replica counts the callers with a stream to it. A withdrawal is complete when every replica has reported that all
//! its callers have acknowledged. Everything is in memory and bounded.

mod look;
mod receipts;
mod tally;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use heddle_policy_compiler::{Exposure, PodRef, Proxy, WorkloadRef};
use heddle_xds_server::{SubscriberId, Withdrawal};
use heddle_xds_types::rollout::{EndReport, Receipt};
use imbl::OrdMap;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::rate::RateLimit;
pub use look::Views;
use receipts::Facts;
use tally::{Moment, Tally};

/// Terminating pods that are followed at a time. Agents of further ones wait for the fixed time.
const MAX_OPEN: usize = 4096;
/// Terminating pods in the report to the other replicas: 30 kB. Agents of further ones wait for the longest time.
const MAX_SHARED: usize = 256;
/// The messages of one agent that are taken in a [`MESSAGE_WINDOW`]: it sends one a second at most.
const MAX_MESSAGES: u32 = 120;
const MESSAGE_WINDOW: Duration = Duration::from_secs(60);

/// The count of one replica for one pod, as the other replicas read it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedCount {
    /// Whether no configuration of the replica has the pod, and no caller is away.
    pub withdrawn: bool,
    /// The callers with a stream to the replica.
    pub total: u32,
    /// Those that have acknowledged.
    pub acknowledged: u32,
}

/// The counts of one replica by pod, `<namespace>/<pod>`.
pub type SharedCounts = BTreeMap<String, SharedCount>;

/// The report of another replica.
#[derive(Clone, Debug, Default)]
pub struct PeerReport {
    /// The proxies with a stream to it.
    pub connected: BTreeSet<String>,
    /// Its counts. `None`: its version has none.
    pub counts: Option<SharedCounts>,
}

/// A pod that ends, or that has an agent which asks.
#[derive(Debug)]
struct Ending {
    workload: WorkloadRef,
    /// The uid of the pod, once it is known to be terminating.
    uid: Option<Arc<str>>,
    /// Since when the pod is known to be terminating.
    terminating: Option<Moment>,
    exposure: Exposure,
    /// The addresses of the pod, as the endpoints of a cluster have them.
    addresses: Vec<Vec<u8>>,
    tally: Tally,
    facts: Facts,
    state: watch::Sender<Withdrawal>,
}

#[derive(Debug, Default)]
struct Inner {
    /// The proxies and the revision of the last look.
    proxies: OrdMap<PodRef, Proxy>,
    revision: u64,
    open: BTreeMap<PodRef, Ending>,
    /// The receipts of pods that are gone, the oldest first.
    closed: VecDeque<(Instant, Receipt)>,
    evicted: u64,
    peers: Arc<Vec<PeerReport>>,
}

/// The ends of pods, as this replica has them.
#[derive(Debug)]
pub struct Withdrawals {
    began: Instant,
    inner: Mutex<Inner>,
    messages: RateLimit<SubscriberId>,
    heard: watch::Sender<u64>,
}

impl Default for Withdrawals {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            inner: Mutex::default(),
            messages: RateLimit::new(MAX_MESSAGES, MESSAGE_WINDOW),
            heard: watch::Sender::default(),
        }
    }
}

impl Withdrawals {
    /// Takes a report of an agent. Returns the withdrawal of its pod with every change.
    pub fn take(
        &self,
        who: &SubscriberId,
        pod: &PodRef,
        workload: &WorkloadRef,
        report: &EndReport,
    ) -> watch::Receiver<Withdrawal> {
        let nothing = || watch::Sender::new(Withdrawal::default()).subscribe();
        let counted = self.messages.count(who.clone());
        let mut inner = self.lock();
        let Some(ending) = inner.entry(pod, workload) else {
            return nothing();
        };
        // Too many messages lose their facts, and the agent of a pod that ends is still told.
        if counted {
            ending.facts.take(report, Moment::now());
        }
        ending.state.subscribe()
    }

    /// Takes the newest reports of the other replicas.
    pub fn hear(&self, peers: Vec<PeerReport>) {
        let mut inner = self.lock();
        inner.peers = Arc::new(peers);
        inner.publish();
        drop(inner);
        self.heard.send_modify(|tick| *tick += 1);
    }

    /// Ticks with every report of another replica: a caller that was away may have a stream there.
    #[must_use]
    pub fn heard(&self) -> watch::Receiver<u64> {
        self.heard.subscribe()
    }

    /// Returns the counts of this replica for the others.
    #[must_use]
    pub fn shared(&self) -> SharedCounts {
        let inner = self.lock();
        let ending = inner.open.iter();
        let ending = ending.filter(|(_, ending)| ending.terminating.is_some());
        let counts = ending.take(MAX_SHARED).map(|(pod, ending)| {
            let (total, acknowledged) = ending.tally.counts();
            let count = SharedCount {
                withdrawn: ending.tally.complete().is_some(),
                total,
                acknowledged,
            };
            (pod.to_string(), count)
        });
        counts.collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic elsewhere leaves the maps whole: every change is a plain insert or remove.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Returns the place of a pod; `None` if there is no room.
    fn entry(&mut self, pod: &PodRef, workload: &WorkloadRef) -> Option<&mut Ending> {
        if !self.open.contains_key(pod) {
            if self.open.len() >= MAX_OPEN {
                return None;
            }
            let ending = Ending {
                workload: workload.clone(),
                uid: None,
                terminating: None,
                exposure: Exposure::default(),
                addresses: Vec::new(),
                tally: Tally::default(),
                facts: Facts::default(),
                state: watch::Sender::default(),
            };
            self.open.insert(pod.clone(), ending);
        }
        self.open.get_mut(pod)
    }

    /// Whether a pod of this name was terminating at the last look.
    fn is_ending(&self, pod: &PodRef) -> bool {
        let ending = self.open.get(pod);
        ending.is_some_and(|ending| ending.terminating.is_some())
    }

    /// Publishes the changes to the agents of the pods.
    fn publish(&self) {
        for (pod, ending) in &self.open {
            let pod = pod.to_string();
            ending.state.send_if_modified(|now| {
                let state = ending.state(&pod, &self.peers, now.completed);
                let changed = *now != state;
                *now = state;
                changed
            });
        }
    }
}

impl Ending {
    /// The withdrawal, all replicas together. `completed`: since when it was complete before. The others report only that it is.
    fn state(&self, pod: &str, peers: &[PeerReport], completed: Option<Instant>) -> Withdrawal {
        let (mut total, mut acknowledged) = self.tally.counts();
        let mut complete = self.tally.complete().is_some();
        for counts in peers.iter().filter_map(|peer| peer.counts.as_ref()) {
            let count = counts.get(pod).copied().unwrap_or_default();
            total = total.saturating_add(count.total);
            acknowledged = acknowledged.saturating_add(count.acknowledged);
            complete &= count.withdrawn && count.acknowledged == count.total;
        }
        Withdrawal {
            terminating: self.terminating.is_some(),
            services: u32::try_from(self.exposure.services.len()).unwrap_or(u32::MAX),
            withdrawn: self.tally.withdrawn().map(|at| at.instant),
            total,
            acknowledged,
            away: self.tally.away(),
            completed: complete.then(|| completed.unwrap_or_else(Instant::now)),
        }
    }
}
