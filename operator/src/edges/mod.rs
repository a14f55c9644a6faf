//! The traffic of every edge in the last quarter of an hour, as the agents of sidecars report it to this replica.
//!
//! Everything is in memory and bounded. Traffic beyond a bound is lost and counted; nothing waits for it.

mod slots;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use heddle_policy_compiler::{PodRef, WorkloadRef};
use heddle_xds_server::{EdgeTraffic, SubscriberId};
use heddle_xds_types::edges::{
    Edge, EdgeCounts, EdgeName, EdgesReport, Losses, MAX_EDGES_OF_SIDECAR, Protocol, Reporter,
    VERSION,
};

use crate::metrics::Metrics;
use crate::rate::RateLimit;
use crate::snapshot::Snapshot;
pub use slots::LONGEST_WINDOW;
use slots::Slots;

/// The window of an answer if the caller names none, in seconds.
pub const DEFAULT_WINDOW: u64 = 60;

/// The edges that are kept. Each has at most 48 slots of 152 bytes, and a name of mostly a few hundred: below 100 MB for all.
const MAX_EDGES: usize = 10_000;
/// The edges of one workload that are kept: its pods have mostly the same ones.
const MAX_EDGES_OF_WORKLOAD: usize = 4 * MAX_EDGES_OF_SIDECAR;
/// An edge without traffic for this long, in seconds, makes room for another one.
const IDLE: u64 = 60;
/// The messages of one sidecar that are taken in a [`MESSAGE_WINDOW`]: an agent reports every 5 s, in up to 8 messages.
const MAX_MESSAGES: u32 = 120;
const MESSAGE_WINDOW: Duration = Duration::from_secs(60);

/// An edge of a workload. The identity is part of it: a workload may get another service account.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct EdgeKey {
    workload: WorkloadRef,
    identity: Arc<str>,
    name: Arc<EdgeName>,
}

#[derive(Debug, Default)]
struct Kept {
    slots: Slots,
    /// The time of the latest traffic.
    busy: u64,
}

/// The edges of one workload.
#[derive(Debug, Default)]
struct Share {
    edges: usize,
    /// None of them is idle before this time: a full share is not searched for each edge that it refuses.
    idle_from: u64,
}

#[derive(Debug, Default)]
struct Edges {
    all: HashMap<EdgeKey, Kept>,
    of_workload: HashMap<WorkloadRef, Share>,
    of_namespace: HashMap<Arc<str>, usize>,
    /// No edge is idle before this time.
    idle_from: u64,
    /// The time of the last sweep.
    swept: u64,
    losses: Losses,
    /// The time of the last loss.
    lost: Option<u64>,
}

/// The edges that are reported to this replica.
#[derive(Debug)]
pub struct EdgeStore {
    began: Instant,
    edges: Mutex<Edges>,
    messages: RateLimit<SubscriberId>,
    metrics: Arc<Metrics>,
}

/// The sidecar that reports, as the control plane has it: nothing of it comes from the report.
#[derive(Clone, Debug)]
pub struct ReportingSidecar {
    /// The subscriber.
    pub id: SubscriberId,
    /// The workload of its pod.
    pub workload: WorkloadRef,
    /// The identity that its certificate must have.
    pub identity: String,
}

impl ReportingSidecar {
    /// Returns the sidecar of an admitted subscriber; `None` if it is not known.
    #[must_use]
    pub fn of(id: &SubscriberId, snapshot: &Snapshot) -> Option<Self> {
        let (namespace, pod) = id.as_str().split_once('/')?;
        let proxy = snapshot
            .compiled
            .proxies
            .get(&PodRef::new(namespace, pod))?;
        Some(Self {
            id: id.clone(),
            workload: proxy.workload(),
            identity: proxy.identity.to_string(),
        })
    }
}

impl EdgeStore {
    /// A store without edges.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            began: Instant::now(),
            edges: Mutex::default(),
            messages: RateLimit::new(MAX_MESSAGES, MESSAGE_WINDOW),
            metrics,
        }
    }

    /// Takes a report of a sidecar, with the number of requests and connections that its agent has lost.
    pub fn take(&self, sidecar: &ReportingSidecar, traffic: &[EdgeTraffic], lost: u64) {
        if !self.messages.count(sidecar.id.clone()) {
            let mut edges = self.lock();
            edges.losses.refused += traffic.len() as u64;
            edges.lost = Some(self.now());
            return;
        }
        self.take_at(self.now(), sidecar, traffic, lost);
    }

    /// Returns the edges with traffic in the last `window` seconds, sorted.
    #[must_use]
    pub fn report(&self, window: u64) -> EdgesReport {
        self.report_at(self.now(), window)
    }

    /// Takes a report at a time, in seconds since the store began, which is not before that of an earlier call; for measurements.
    pub fn take_at(
        &self,
        now: u64,
        sidecar: &ReportingSidecar,
        traffic: &[EdgeTraffic],
        lost: u64,
    ) {
        let identity: Arc<str> = sidecar.identity.as_str().into();
        let mut edges = self.lock();
        let before = edges.losses;
        edges.losses.by_agents = edges.losses.by_agents.saturating_add(lost);
        edges.sweep(now);
        for traffic in traffic {
            let key = EdgeKey {
                workload: sidecar.workload.clone(),
                identity: Arc::clone(&identity),
                name: Arc::clone(&traffic.name),
            };
            if let Some(kept) = edges.place(now, key) {
                kept.busy = now;
                kept.slots.add(now, &traffic.counts);
            }
        }
        if edges.losses != before {
            edges.lost = Some(now);
        }
        self.metrics.edges.set(edges.all.len(), edges.losses);
    }

    /// Returns the edges with traffic in the `window` seconds before a time.
    #[must_use]
    pub fn report_at(&self, now: u64, window: u64) -> EdgesReport {
        let edges = self.lock();
        let found = edges.all.iter().filter_map(|(key, kept)| {
            let counts = kept.slots.sum(now, window);
            (!counts.is_empty()).then(|| Edge {
                first_seconds_ago: kept
                    .slots
                    .first(now, window)
                    .map(|first| now.saturating_sub(first)),
                last_seconds_ago: Some(now.saturating_sub(kept.busy)),
                ..edge(key, counts)
            })
        });
        let mut found: Vec<Edge> = found.collect();
        let losses = Losses {
            last_seconds_ago: edges.lost.map(|lost| now.saturating_sub(lost)),
            ..edges.losses
        };
        drop(edges);
        found.sort_by(|one, other| sort_key(one).cmp(&sort_key(other)));
        EdgesReport {
            version: VERSION,
            window_seconds: window.min(LONGEST_WINDOW),
            covered_seconds: slots::covered(now, window),
            edges: found,
            losses,
        }
    }

    fn now(&self) -> u64 {
        self.began.elapsed().as_secs()
    }

    fn lock(&self) -> MutexGuard<'_, Edges> {
        // A panic elsewhere leaves the maps whole: every change is a plain insert or remove.
        self.edges.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Edges {
    /// Returns the place of an edge; a new one may take that of another edge.
    fn place(&mut self, now: u64, key: EdgeKey) -> Option<&mut Kept> {
        if !self.all.contains_key(&key) {
            let of_workload = self.of_workload.get(&key.workload);
            let room = match of_workload {
                Some(share) if share.edges >= MAX_EDGES_OF_WORKLOAD => {
                    self.take_idle(now, Some(&key.workload))
                }
                _ if self.all.len() >= MAX_EDGES => self.take_share(now, &key.workload.namespace),
                _ => Some(()),
            };
            if room.is_none() {
                self.losses.refused += 1;
                return None;
            }
            self.count(&key);
        }
        Some(self.all.entry(key).or_default())
    }

    /// Forgets edges without traffic in the longest window.
    fn sweep(&mut self, now: u64) {
        if self.swept + IDLE > now {
            return;
        }
        self.swept = now;
        self.all.retain(|_, kept| kept.busy + LONGEST_WINDOW >= now);
        self.of_workload.clear();
        self.of_namespace.clear();
        let keys: Vec<EdgeKey> = self.all.keys().cloned().collect();
        for key in keys {
            self.count(&key);
        }
    }

    fn count(&mut self, key: &EdgeKey) {
        let workload = self.of_workload.entry(key.workload.clone());
        workload.or_default().edges += 1;
        let namespace = Arc::clone(&key.workload.namespace);
        *self.of_namespace.entry(namespace).or_default() += 1;
    }

    /// Makes room in a full store for an edge of a namespace. A namespace with fewer edges than the one with the most takes a place of that
    /// one, so that none can fill the store for all; any other gets the place of an idle edge.
    fn take_share(&mut self, now: u64, namespace: &str) -> Option<()> {
        let own = self.of_namespace.get(namespace).copied().unwrap_or(0);
        let most = self
            .of_namespace
            .iter()
            .max_by_key(|(name, edges)| (**edges, *name));
        let (largest, most) = most.map(|(name, edges)| (Arc::clone(name), *edges))?;
        if own + 1 >= most {
            return self.take_idle(now, None);
        }
        let of_largest = |(key, _): &(&EdgeKey, &Kept)| key.workload.namespace == largest;
        let all = self.all.iter().filter(of_largest);
        let least_busy = all.min_by_key(|(_, kept)| kept.busy)?.0.clone();
        self.evict(&least_busy);
        Some(())
    }

    /// Takes the place of the edge that is idle for longest, of one workload or of all.
    fn take_idle(&mut self, now: u64, of: Option<&WorkloadRef>) -> Option<()> {
        let share = of.and_then(|workload| self.of_workload.get(workload));
        let idle_from = of.map_or(self.idle_from, |_| share.map_or(0, |share| share.idle_from));
        if now < idle_from {
            return None;
        }
        let among = |(key, _): &(&EdgeKey, &Kept)| of.is_none_or(|of| key.workload == *of);
        let all = self.all.iter().filter(among);
        let (key, busy) = all
            .min_by_key(|(_, kept)| kept.busy)
            .map(|(key, kept)| (key.clone(), kept.busy))?;
        if busy + IDLE <= now {
            self.evict(&key);
            return Some(());
        }
        match of.and_then(|workload| self.of_workload.get_mut(workload)) {
            Some(share) => share.idle_from = busy + IDLE,
            None => self.idle_from = busy + IDLE,
        }
        None
    }

    fn evict(&mut self, key: &EdgeKey) {
        self.all.remove(key);
        self.losses.evicted += 1;
        if let Some(share) = self.of_workload.get_mut(&key.workload) {
            share.edges -= 1;
            if share.edges == 0 {
                self.of_workload.remove(&key.workload);
            }
        }
        if let Some(edges) = self.of_namespace.get_mut(&key.workload.namespace) {
            *edges -= 1;
            if *edges == 0 {
                self.of_namespace.remove(&key.workload.namespace);
            }
        }
    }
}

type SortKey<'a> = (
    &'a str,
    &'a str,
    Reporter,
    &'a str,
    &'a str,
    &'a str,
    &'a str,
    Protocol,
);

fn sort_key(edge: &Edge) -> SortKey<'_> {
    (
        &edge.namespace,
        &edge.workload,
        edge.reporter,
        &edge.service_namespace,
        &edge.service,
        &edge.backend,
        &edge.peer,
        edge.protocol,
    )
}

fn edge(key: &EdgeKey, counts: EdgeCounts) -> Edge {
    let (workload, name) = (&key.workload, &key.name);
    Edge {
        reporter: name.reporter(),
        namespace: workload.namespace.to_string(),
        workload: workload.name.to_string(),
        identity: key.identity.to_string(),
        peer: name.peer.clone(),
        service_namespace: match name.reporter() {
            Reporter::Source => name.service_namespace.clone(),
            // A server answers for services of its own namespace only.
            Reporter::Destination => workload.namespace.to_string(),
        },
        service: name.service.clone(),
        backend: name.backend.clone(),
        protocol: name.protocol(),
        first_seconds_ago: None,
        last_seconds_ago: None,
        counts,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sidecar(workload: &str) -> ReportingSidecar {
        sidecar_in("shop", workload)
    }

    fn sidecar_in(namespace: &str, workload: &str) -> ReportingSidecar {
        ReportingSidecar {
            id: format!("{namespace}/{workload}-1").as_str().into(),
            workload: WorkloadRef::new(namespace, workload),
            identity: format!("spiffe://cluster.local/ns/{namespace}/sa/{workload}"),
        }
    }

    fn traffic(service: &str, count: u32) -> EdgeTraffic {
        EdgeTraffic {
            name: Arc::new(EdgeName {
                service: service.to_owned(),
                ..EdgeName::default()
            }),
            counts: EdgeCounts {
                responses: [0, 0, count, 0, 0, 0],
                ..EdgeCounts::default()
            },
        }
    }

    #[test]
    fn pods_of_a_workload_add_up_and_the_window_bounds_the_answer() {
        let store = EdgeStore::new(Arc::default());
        for _ in 0..2 {
            store.take_at(10, &sidecar("cart"), &[traffic("ratings", 5)], 0);
        }
        store.take_at(300, &sidecar("cart"), &[traffic("ratings", 1)], 7);
        let report = store.report_at(300, 900);
        assert_eq!(report.edges.len(), 1);
        assert_eq!(report.edges[0].counts.requests(), 11);
        assert_eq!(report.edges[0].workload, "cart");
        let ages = (
            report.edges[0].first_seconds_ago,
            report.edges[0].last_seconds_ago,
        );
        assert_eq!(ages, (Some(300), Some(0)), "the first slot is of 30 s");
        assert_eq!((report.covered_seconds, report.losses.by_agents), (300, 7));
        let report = store.report_at(305, 60);
        assert_eq!(report.edges[0].counts.requests(), 1);
        assert_eq!(report.losses.last_seconds_ago, Some(5));
        assert!(store.report_at(5000, 60).edges.is_empty());
        store.take_at(5000, &sidecar("other"), &[], 0);
        let edges = store.lock();
        assert!(edges.all.is_empty() && edges.of_workload.is_empty());
        assert!(edges.of_namespace.is_empty());
    }

    #[test]
    fn an_idle_edge_makes_room_and_a_busy_one_does_not() {
        let store = EdgeStore::new(Arc::default());
        let many: Vec<EdgeTraffic> = (0..MAX_EDGES_OF_WORKLOAD)
            .map(|n| traffic(&format!("s{n}"), 1))
            .collect();
        store.take_at(0, &sidecar("cart"), &many, 0);
        store.take_at(1, &sidecar("cart"), &[traffic("new", 1)], 0);
        let losses = store.report_at(1, 60).losses;
        assert_eq!((losses.evicted, losses.refused), (0, 1));
        store.take_at(1, &sidecar("other"), &[traffic("new", 1)], 0);
        store.take_at(IDLE, &sidecar("cart"), &[traffic("new", 1)], 0);
        let report = store.report_at(IDLE, 900);
        assert_eq!(report.losses.evicted, 1);
        assert_eq!(report.edges.len(), MAX_EDGES_OF_WORKLOAD + 1);
    }

    #[test]
    fn a_namespace_that_fills_the_store_leaves_the_others_their_share() {
        let store = EdgeStore::new(Arc::default());
        let many: Vec<EdgeTraffic> = (0..MAX_EDGES_OF_WORKLOAD)
            .map(|n| traffic(&format!("s{n}"), 1))
            .collect();
        for n in 0..MAX_EDGES.div_ceil(MAX_EDGES_OF_WORKLOAD) {
            store.take_at(n as u64, &sidecar_in("hostile", &format!("w{n}")), &many, 0);
        }
        assert_eq!(store.lock().all.len(), MAX_EDGES);
        let lost = store.report_at(20, 900).losses;
        store.take_at(20, &sidecar("cart"), &many[..500], 0);
        let now = store.report_at(20, 900).losses;
        assert_eq!(
            (now.evicted, now.refused),
            (lost.evicted + 500, lost.refused)
        );
        // The hostile one does not get them back.
        store.take_at(20, &sidecar_in("hostile", "last"), &many[..500], 0);
        let edges = store.lock();
        assert_eq!(edges.all.len(), MAX_EDGES);
        assert_eq!(edges.of_namespace.get("shop"), Some(&500));
        assert_eq!(edges.losses.refused, now.refused + 500);
    }

    #[test]
    fn edges_fit_again_once_one_is_idle() {
        let store = EdgeStore::new(Arc::default());
        let many: Vec<EdgeTraffic> = (0..MAX_EDGES_OF_WORKLOAD)
            .map(|n| traffic(&format!("s{n}"), 1))
            .collect();
        store.take_at(0, &sidecar("cart"), &many, 0);
        for now in [1, 2, IDLE - 1] {
            store.take_at(now, &sidecar("cart"), &[traffic("new", 1)], 0);
        }
        assert_eq!(store.lock().losses.refused, 3);
        store.take_at(IDLE, &sidecar("cart"), &[traffic("new", 1)], 0);
        assert_eq!(store.lock().losses.evicted, 1);
    }

    #[test]
    fn a_sidecar_that_sends_without_end_is_not_listened_to() {
        let store = EdgeStore::new(Arc::default());
        for _ in 0..=MAX_MESSAGES {
            store.take(&sidecar("cart"), &[traffic("ratings", 1)], 0);
        }
        let report = store.report(900);
        assert_eq!(report.edges[0].counts.requests(), u64::from(MAX_MESSAGES));
        assert_eq!(report.losses.refused, 1);
    }

    #[test]
    fn a_server_speaks_for_services_of_its_own_namespace() {
        let store = EdgeStore::new(Arc::default());
        let mut of_server = traffic("ratings", 1);
        of_server.name = Arc::new(EdgeName {
            reporter: Reporter::Destination.into(),
            service_namespace: "bank".to_owned(),
            ..EdgeName::default()
        });
        store.take_at(0, &sidecar("cart"), &[of_server], 0);
        assert_eq!(store.report_at(0, 60).edges[0].service_namespace, "shop");
    }
}
