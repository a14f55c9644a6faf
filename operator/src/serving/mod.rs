//! Serves the views of the newest snapshot to the discovery server, one per proxy, and learns the destinations of each
//! workload from the requests of its proxies.

mod admission;
mod by_snapshot;
mod names;
mod parts;
mod retired;
mod subscribers;
mod sweep;
mod taps;
mod viewers;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use heddle_identity::TrustDomain;
use heddle_policy_compiler::{Dependency, ObjectRef, Proxy, Scope, WorkloadRef};
use heddle_xds_server as xds;
use heddle_xds_server::{
    Converged, EdgeTraffic, Load, Name, NodeInfo, OnDemandRequests, Peer, ResourceSource,
    StreamRefusal, SubscriberId, Withdrawal,
};
use heddle_xds_types::rollout::EndReport;
use heddle_xds_types::tap::{TapOrders, TapReport};
use tokio::sync::watch;

pub use admission::pod_of;
pub use parts::Part;
use parts::Parts;
use subscribers::{Subscribers, ViewInput, ViewRequest};

use crate::certificates::Certificates;
use crate::change_traces::ChangeTraces;
use crate::edges::{EdgeStore, ReportingSidecar};
use crate::metrics::{Metrics, Outcome};
use crate::scope::{Scopes, Seconds};
use crate::snapshot::{Snapshot, SnapshotConsumer, Snapshots};
use crate::tap::Taps;
use crate::withdrawals::Withdrawals;

/// The view of one proxy, with the inputs that can change it.
#[derive(Debug)]
pub struct ServedView {
    /// With the objects that each resource comes from.
    pub parts: Vec<Arc<Part>>,
    /// The same for the wire.
    pub wire: Arc<xds::View>,
    /// The dependencies of the view: a change of one of them may change the view.
    pub depends: Arc<BTreeSet<Dependency>>,
    /// How many destinations the workload has learned.
    pub scope: usize,
    /// The names that are answered only while they are recent: time alone can change it.
    overflow: Arc<BTreeSet<Name>>,
    /// The retirable names: their on-demand clusters only forward to a listener of the same view.
    retirable: Arc<BTreeSet<Name>>,
}

impl ServedView {
    /// The same with one part in the place of another; `None` if that other one is not in it.
    fn with(
        &self,
        old: &Arc<heddle_policy_compiler::Part>,
        new: &Arc<Part>,
        since: Option<Instant>,
    ) -> Option<Self> {
        let at = self
            .parts
            .iter()
            .position(|part| Arc::ptr_eq(&part.policy, old))?;
        let (mut parts, mut wire) = (self.parts.clone(), self.wire.parts.clone());
        *parts.get_mut(at)? = Arc::clone(new);
        *wire.get_mut(at)? = Arc::clone(&new.wire);
        let wire = xds::View {
            parts: wire,
            absent: self.wire.absent.clone(),
            since,
        };
        Some(Self {
            parts,
            wire: Arc::new(wire),
            depends: Arc::clone(&self.depends),
            scope: self.scope,
            overflow: Arc::clone(&self.overflow),
            retirable: Arc::clone(&self.retirable),
        })
    }

    /// How many resources it has.
    #[must_use]
    pub fn resources(&self) -> usize {
        let keys = self
            .parts
            .iter()
            .flat_map(|part| part.wire.resources.iter().map(|resource| &resource.key));
        keys.collect::<BTreeSet<_>>().len()
    }
}

/// The source of the discovery server.
pub struct MeshSource {
    published: watch::Sender<Option<Arc<Snapshot>>>,
    trust_domain: TrustDomain,
    metrics: Arc<Metrics>,
    scopes: Arc<Scopes>,
    load_report_interval: Duration,
    edges: Arc<EdgeStore>,
    withdrawals: Arc<Withdrawals>,
    certificates: Arc<Certificates>,
    taps: Taps,
    parts: Parts,
    subscribers: Mutex<Subscribers>,
    traces: OnceLock<ChangeTraces>,
}

impl MeshSource {
    /// Serves the snapshots that the compile loop publishes. Proxies must be of the trust domain, and report their loads at the
    /// interval.
    #[must_use]
    pub fn new(
        trust_domain: TrustDomain,
        scopes: Arc<Scopes>,
        load_report_interval: Duration,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            published: watch::Sender::new(None),
            trust_domain,
            edges: Arc::new(EdgeStore::new(Arc::clone(&metrics))),
            withdrawals: Arc::default(),
            certificates: Arc::default(),
            taps: Taps::default(),
            metrics,
            scopes,
            load_report_interval,
            parts: Parts::default(),
            subscribers: Mutex::default(),
            traces: OnceLock::new(),
        }
    }

    /// The traffic that proxies report.
    #[must_use]
    pub fn edge_store(&self) -> Arc<EdgeStore> {
        Arc::clone(&self.edges)
    }

    /// The newest certificate of each pod.
    #[must_use]
    pub fn certificates(&self) -> Arc<Certificates> {
        Arc::clone(&self.certificates)
    }

    /// The newest snapshot, again and again.
    #[must_use]
    pub fn snapshots(&self) -> Snapshots {
        self.published.subscribe()
    }

    /// Returns the view that a proxy must have now, for the requests of its current stream; `None` if the proxy is not a
    /// pod with a sidecar.
    #[must_use]
    pub fn expected(
        &self,
        who: &Name,
        on_demand: &Arc<OnDemandRequests>,
    ) -> Option<Arc<ServedView>> {
        let (mut request, own) = {
            let subscribers = self.lock();
            let subscriber = subscribers.all.get(who)?;
            let own = subscriber.on_demand == *on_demand;
            if let Some(seen) = subscriber
                .seen
                .as_ref()
                .filter(|_| own && !subscriber.stale)
            {
                return Some(Arc::clone(seen));
            }
            (subscriber.request(), own)
        };
        if own {
            return self.look(who, &request);
        }
        // Another stream of the same proxy asked last.
        (request.on_demand, request.answered) = (Arc::clone(on_demand), Arc::clone(on_demand));
        let snapshot = self.newest()?;
        let proxy = snapshot.compiled.proxies.get(&request.pod)?;
        let seen = self.compute(&snapshot, proxy, &proxy.workload(), &request, None)?;
        Some(Arc::new(seen))
    }

    /// The policies in the view of a pod that has no stream: its own side, and all that its workload declared or learned.
    #[must_use]
    pub fn policies_of(&self, snapshot: &Snapshot, proxy: &Proxy) -> BTreeSet<ObjectRef> {
        let (sets, none) = (self.scopes.of(&proxy.workload()), BTreeSet::new());
        let scope = Scope {
            active: &sets.active,
            draining: &sets.draining,
            granted: &none,
            retired: &none,
            denied: &none,
            tapped: false,
        };
        let view = snapshot.compiled.view(&proxy.pod, &scope);
        let parts = view.iter().flat_map(|view| &view.parts);
        parts
            .flat_map(|part| &part.resources)
            .flat_map(|resource| &resource.origins)
            .filter(|object| object.kind.is_policy())
            .cloned()
            .collect()
    }

    /// Returns the proxies with a view that may have changed since the last call.
    #[must_use]
    pub fn take_changed(&self) -> BTreeSet<Name> {
        self.lock().take_changed()
    }

    /// Forgets a proxy that is over.
    pub fn forget(&self, who: &Name) {
        self.lock().remove(who);
    }

    /// The scope of a workload was changed from elsewhere.
    pub fn relearned(&self, workload: &WorkloadRef) {
        self.lock().touch(&ViewInput::Scope(workload.clone()));
    }

    /// Every connected proxy reports its loads within this time: three intervals, because one report may be late.
    fn reported_within(&self) -> Duration {
        3 * self.load_report_interval
    }

    /// Whether a pod of the workload has a stream here.
    #[must_use]
    pub fn serves(&self, workload: &WorkloadRef) -> bool {
        self.lock()
            .of_workload(workload)
            .any(|subscriber| subscriber.tick.receiver_count() > 0)
    }

    fn look(&self, who: &Name, request: &ViewRequest) -> Option<Arc<ServedView>> {
        let snapshot = self.newest()?;
        let proxy = snapshot.compiled.proxies.get(&request.pod)?;
        let workload = proxy.workload();
        let (before, touched) = self.lock().begin(who, &workload)?;
        let seen = self.compute(&snapshot, proxy, &workload, request, before.as_deref())?;
        let seen = before
            .filter(|before| same(before, &seen))
            .unwrap_or_else(|| Arc::new(seen));
        let mut subscribers = self.lock();
        subscribers.keep(who, request, Arc::clone(&seen), touched);
        // A snapshot published during the computation woke only the subscribers that were registered for its dependencies.
        // The dependencies of this view were not registered yet.
        if self
            .published
            .borrow()
            .as_ref()
            .is_some_and(|newest| newest.revision != snapshot.revision)
        {
            subscribers.touch_one(who);
        }
        Some(seen)
    }

    fn compute(
        &self,
        snapshot: &Snapshot,
        proxy: &Proxy,
        workload: &WorkloadRef,
        request: &ViewRequest,
        before: Option<&ServedView>,
    ) -> Option<ServedView> {
        let classified = self.classify(snapshot, proxy, workload, request);
        let scope = Scope {
            active: &classified.sets.active,
            draining: &classified.sets.draining,
            granted: &classified.granted,
            retired: &request.retired,
            denied: &classified.denied,
            tapped: self.is_tapped(request.bootstrap, workload),
        };
        let view = snapshot.compiled.view(&proxy.pod, &scope)?;
        let retirable = retired::retirable(&view, &classified.granted);
        let numbered = view.parts.iter().enumerate();
        let parts: Vec<Arc<Part>> = numbered
            .map(|(at, part)| self.part(part, before.and_then(|before| before.parts.get(at))))
            .collect();
        let wire = xds::View {
            parts: parts.iter().map(|part| Arc::clone(&part.wire)).collect(),
            absent: view.absent,
            since: snapshot.seen,
        };
        Some(ServedView {
            parts,
            wire: Arc::new(wire),
            depends: Arc::new(view.depends),
            scope: classified.sets.active.len(),
            overflow: Arc::new(classified.overflow),
            retirable: Arc::new(retirable),
        })
    }

    /// Mostly the proxy had the same part at the same place before.
    fn part(
        &self,
        policy: &Arc<heddle_policy_compiler::Part>,
        before: Option<&Arc<Part>>,
    ) -> Arc<Part> {
        let known = before.filter(|before| Arc::ptr_eq(&before.policy, policy));
        known.map_or_else(|| self.parts.of(policy), Arc::clone)
    }

    /// Traces every change from now on, once.
    pub fn trace_changes(&self, traces: ChangeTraces) {
        let _ = self.traces.set(traces);
    }

    /// The statuses of objects are written.
    pub fn written<'a>(&self, objects: impl IntoIterator<Item = &'a ObjectRef>) {
        if let Some(traces) = self.traces() {
            objects.into_iter().for_each(|of| traces.written(of));
        }
    }

    /// Returns the traces of changes, if they are on.
    #[must_use]
    pub fn traces(&self) -> Option<&ChangeTraces> {
        self.traces.get()
    }

    fn newest(&self) -> Option<Arc<Snapshot>> {
        self.published.borrow().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Subscribers> {
        // A panic elsewhere leaves the maps whole: every change is a plain insert or remove.
        self.subscribers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for MeshSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MeshSource")
            .field("trust_domain", &self.trust_domain)
            .finish_non_exhaustive()
    }
}

impl ResourceSource for MeshSource {
    fn converged(&self, who: &SubscriberId, view: Converged) {
        if let Some(traces) = self.traces() {
            traces.acknowledged(who, view);
        }
    }

    fn admit(&self, peer: &Peer, node: &NodeInfo) -> Result<SubscriberId, StreamRefusal> {
        let who = self.decide(peer, node).map_err(|(reason, refusal)| {
            self.metrics
                .admission_refused
                .get_or_create(&Outcome { reason })
                .inc();
            refusal
        })?;
        // Streams of reports name no bootstrap.
        if node.bootstrap > 0
            && let Some(subscriber) = self.lock().entry(&who.0)
        {
            subscriber.bootstrap = node.bootstrap;
        }
        Ok(who)
    }

    fn view(&self, who: &SubscriberId, on_demand: &OnDemandRequests) -> Option<Arc<xds::View>> {
        let request = {
            let mut subscribers = self.lock();
            let subscriber = subscribers.entry(&who.0)?;
            subscriber.asks(on_demand);
            if let Some(seen) = subscriber.seen.as_ref().filter(|_| !subscriber.stale) {
                return Some(Arc::clone(&seen.wire));
            }
            subscriber.request()
        };
        Some(Arc::clone(&self.look(&who.0, &request)?.wire))
    }

    fn subscribe(&self, who: &SubscriberId) -> watch::Receiver<u64> {
        match self.lock().entry(&who.0) {
            Some(subscriber) => subscriber.begins(),
            // No such id was ever admitted.
            None => watch::Sender::new(0).subscribe(),
        }
    }

    fn resumed(&self, who: &SubscriberId) {
        self.lock().touch_one(&who.0);
    }

    fn loads(&self, who: &SubscriberId, loads: &[Load]) {
        let Some(snapshot) = self.newest() else {
            return;
        };
        let workload = {
            let mut subscribers = self.lock();
            let Some(subscriber) = subscribers.all.get_mut(&who.0) else {
                return;
            };
            subscriber.reported = Some(Instant::now());
            subscriber.workload.clone()
        };
        let Some(workload) = workload else { return };
        let busy = loads
            .iter()
            .filter(|load| load.issued > 0 || load.active > 0);
        let busy: BTreeSet<&str> = busy.map(|load| &*load.cluster).collect();
        let sets = self.scopes.of(&workload);
        let used = sets
            .active
            .iter()
            .chain(&sets.draining)
            .filter(|destination| {
                let clusters = snapshot
                    .compiled
                    .clusters_of(destination, &workload.namespace);
                clusters.iter().any(|cluster| busy.contains(&**cluster))
            });
        let save_after = snapshot.compiled.idle_after().as_secs() / 8;
        self.scopes
            .used(&workload, &used.cloned().collect(), now(), save_after);
    }

    fn edges(&self, who: &SubscriberId, traffic: &[EdgeTraffic], lost: u64) {
        let snapshot = self.newest();
        if let Some(sidecar) = snapshot.and_then(|snapshot| ReportingSidecar::of(who, &snapshot)) {
            self.edges.take(&sidecar, traffic, lost);
        }
    }

    fn ends(&self, who: &SubscriberId, report: &EndReport) -> watch::Receiver<Withdrawal> {
        self.end_of(who, report)
    }

    fn taps(&self, who: &SubscriberId, report: TapReport) -> watch::Receiver<Arc<TapOrders>> {
        self.taps_of(who, report)
    }
}

impl SnapshotConsumer for MeshSource {
    fn on_snapshot(&self, snapshot: &Arc<Snapshot>) {
        self.published.send_replace(Some(Arc::clone(snapshot)));
        let changes = snapshot.compiled.changes();
        let replaced = changes.replaced.iter();
        let replaced: Vec<_> = replaced
            .map(|replaced| {
                (
                    &replaced.service,
                    &replaced.old,
                    self.parts.of(&replaced.new),
                )
            })
            .collect();
        let mut subscribers = self.lock();
        if changes.all {
            subscribers.touch_all();
            return;
        }
        // Parts are replaced before the other changes mark views as stale. `replace` skips stale views: they are computed
        // again anyway.
        for (service, old, new) in &replaced {
            let input = ViewInput::Compiled(Dependency::Service((*service).clone()));
            subscribers.replace(&input, |seen| seen.with(old, new, snapshot.seen));
        }
        for dependency in &changes.touched {
            subscribers.touch(&ViewInput::Compiled(dependency.clone()));
        }
    }
}

/// Whether two views say the same, as far as parts go.
fn same(a: &ServedView, b: &ServedView) -> bool {
    a.parts.len() == b.parts.len()
        && a.wire.absent == b.wire.absent
        && a.depends == b.depends
        && (&a.overflow, a.scope) == (&b.overflow, b.scope)
        && a.parts.iter().zip(&b.parts).all(|(a, b)| Arc::ptr_eq(a, b))
}

fn now() -> Seconds {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}
