//! The compile loop: reads objects and publishes snapshots. A single change is compiled at once. Changes during a compile
//! lead to one further compile, of the newest state. There is no fixed wait.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use heddle_crds::{ConditionType, MeshSpec};
use heddle_identity::TrustDomain;
use heddle_policy_compiler::{
    Compiled, Finding, ObjectRef, ObjectStatus, PodRef, Severity, World, WorldBuilder, compile,
    mesh_in_force,
};
use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::change_traces::{Change, ChangeTraces, ChangedObjects};
use crate::metrics::Metrics;
use crate::objects::ObjectSource;
use crate::rejections::RejectionStore;
use crate::tasks::Ended;

/// A snapshot: one compile with its input and its result.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Grows with every compile.
    pub revision: u64,
    /// The input of the compile.
    pub world: World,
    /// The result of the compile.
    pub compiled: Compiled,
    /// The settings of the mesh.
    pub mesh: Arc<MeshSpec>,
    /// The findings of reading and compiling, sorted.
    pub findings: Arc<[Finding]>,
    /// For each of our objects: the revision of the first snapshot with its present generation.
    pub changed_in: OrdMap<ObjectRef, u64>,
    /// When the change that made this snapshot was seen.
    pub seen: Option<Instant>,
}

impl Snapshot {
    /// The pod's identity parts, if the pod is known: its service account.
    #[must_use]
    pub fn service_account(&self, pod: &PodRef) -> Option<Arc<str>> {
        let workload = self.world.pods().get(pod)?;
        Some(Arc::clone(&workload.template.service_account))
    }
}

/// The newest snapshot; `None` before the first.
pub type Snapshots = watch::Receiver<Option<Arc<Snapshot>>>;

/// A consumer of every snapshot in order, without gaps: each snapshot contains its changes since the one before.
pub trait SnapshotConsumer: Send + Sync + 'static {
    /// Takes a new snapshot, the next after that of the last call.
    fn on_snapshot(&self, snapshot: &Arc<Snapshot>);
}

/// Reads a source into the compiler's world.
pub struct Reader {
    source: Arc<dyn ObjectSource>,
    changes: watch::Receiver<u64>,
    builder: WorldBuilder,
    findings: Findings,
    traces: Option<ChangeTraces>,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

/// The state of reading.
struct Progress {
    /// When the oldest change was seen.
    since: Option<Instant>,
    /// The objects that have changed, if changes are traced.
    changed: ChangedObjects,
    complete: bool,
}

impl Reader {
    /// A reader that has read nothing yet.
    #[must_use]
    pub fn new(source: Arc<dyn ObjectSource>) -> Self {
        Self {
            changes: source.changes(),
            source,
            builder: World::builder(),
            findings: Findings::default(),
            traces: None,
        }
    }

    /// Reads until the source has delivered all objects once. Objects are taken over as they arrive, because they need
    /// several times the memory before.
    ///
    /// # Errors
    /// When the source is gone.
    pub async fn complete(&mut self) -> Ended {
        loop {
            self.changes.mark_unchanged();
            if self.read().complete {
                return Ok(());
            }
            self.changes
                .changed()
                .await
                .map_err(|_| "the source of objects is gone")?;
        }
    }

    /// The settings of the mesh as read so far: those of the Mesh named `default` as far as it is in force, else the defaults.
    pub fn mesh(&mut self) -> MeshSpec {
        mesh_in_force(&self.builder.world())
    }

    /// Fixes the trust domain to that of the mesh's root.
    pub fn set_trust_domain(&mut self, trust_domain: &TrustDomain) {
        self.builder.set_trust_domain(trust_domain.as_str());
    }

    /// Traces every change from now on, or none.
    pub fn trace_changes(&mut self, traces: Option<ChangeTraces>) {
        self.traces = traces;
    }

    fn read(&mut self) -> Progress {
        let batch = self.source.take();
        let mut changed = ChangedObjects::default();
        for (reference, object) in batch.changes {
            if self.traces.is_some() {
                changed.add(&reference);
            }
            let found = match object {
                Some(object) => self.builder.apply(object),
                None => {
                    self.builder.remove(&reference);
                    Vec::new()
                }
            };
            self.findings.read(reference, found);
        }
        self.findings.source(batch.findings);
        Progress {
            since: batch.since,
            changed,
            complete: batch.complete,
        }
    }
}

/// Compiles whenever objects or confirmed rejections change, until told to stop.
///
/// # Errors
/// When the source is gone, or a compile panicked.
pub async fn run(
    reader: Reader,
    rejections: Arc<RejectionStore>,
    consumer: Arc<dyn SnapshotConsumer>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) -> Ended {
    let (mut changes, mut rejected) = (reader.source.changes(), rejections.changes());
    let mut compile_loop = CompileLoop {
        reader,
        rejections,
        consumer,
        metrics,
        newest: None,
    };
    loop {
        changes.mark_unchanged();
        rejected.mark_unchanged();
        // The compiler may take the time it needs without holding up a stream.
        compile_loop = tokio::task::spawn_blocking(move || {
            compile_loop.turn(Instant::now());
            compile_loop
        })
        .await?;
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            changed = changes.changed() => changed.map_err(|_| "the source of objects is gone")?,
            changed = rejected.changed() => changed.map_err(|_| "the store of rejections is gone")?,
        }
    }
}

/// The state of the compile loop.
struct CompileLoop {
    reader: Reader,
    rejections: Arc<RejectionStore>,
    consumer: Arc<dyn SnapshotConsumer>,
    metrics: Arc<Metrics>,
    newest: Option<Arc<Snapshot>>,
}

impl CompileLoop {
    /// Reads the changes, compiles and publishes, if the source is complete.
    fn turn(&mut self, woken: Instant) {
        let progress = self.reader.read();
        if !progress.complete {
            return;
        }
        let begun = Instant::now();
        let Reader {
            builder, findings, ..
        } = &mut self.reader;
        builder.set_rejections(self.rejections.all());
        let world = builder.world();
        let before = self.newest.as_deref();
        let compiled = match before {
            Some(before) => before.compiled.update(&world),
            None => compile(&world),
        };
        let compiled_at = Instant::now();
        let revision = before.map_or(1, |before| before.revision + 1);
        let seen = progress.since.unwrap_or(woken);
        let snapshot = Snapshot {
            revision,
            changed_in: changed_in(&compiled, before, revision),
            mesh: Arc::clone(compiled.mesh()),
            findings: findings.all(&compiled.findings),
            world,
            compiled,
            seen: Some(seen),
        };
        report(&snapshot.findings, before);
        report_changes(&snapshot.compiled, before);
        let changes = snapshot.compiled.changes();
        self.metrics.compiled(
            woken.elapsed(),
            snapshot.findings.len(),
            &changes.recompiled,
        );
        let statuses = &snapshot.compiled.statuses;
        self.rejections.retain(|object| {
            statuses
                .get(object)
                .map(|status| status.observed_generation)
        });
        tracing::debug!(revision, took = ?woken.elapsed(), "compiled");
        let snapshot = Arc::new(snapshot);
        self.newest = Some(Arc::clone(&snapshot));
        // Before the consumer: a proxy may acknowledge a change before `on_snapshot` returns, and a trace has to be open by then.
        if let Some(traces) = &self.reader.traces {
            traces.published(Change {
                revision,
                objects: progress.changed.objects,
                count: progress.changed.count,
                seen,
                begun,
                compiled: compiled_at,
                published: Instant::now(),
            });
        }
        self.consumer.on_snapshot(&snapshot);
    }
}

/// Findings by origin: the source, the compiler when it reads an object, and the compile. They are merged again only if one
/// of them changed.
#[derive(Default)]
struct Findings {
    source: Vec<Finding>,
    read: BTreeMap<ObjectRef, Vec<Finding>>,
    compiled: Arc<[Finding]>,
    all: Option<Arc<[Finding]>>,
}

impl Findings {
    fn read(&mut self, object: ObjectRef, found: Vec<Finding>) {
        let before = if found.is_empty() {
            self.read.remove(&object)
        } else {
            self.read.insert(object.clone(), found)
        };
        if before.as_ref() != self.read.get(&object) {
            self.all = None;
        }
    }

    fn source(&mut self, found: Vec<Finding>) {
        if found != self.source {
            self.source = found;
            self.all = None;
        }
    }

    fn all(&mut self, compiled: &Arc<[Finding]>) -> Arc<[Finding]> {
        let same = Arc::ptr_eq(compiled, &self.compiled);
        if let Some(all) = self.all.as_ref().filter(|_| same) {
            return Arc::clone(all);
        }
        self.compiled = Arc::clone(compiled);
        let read = self.read.values().flatten();
        let mut all: Vec<Finding> = self
            .source
            .iter()
            .chain(read)
            .chain(&**compiled)
            .cloned()
            .collect();
        all.sort();
        all.dedup();
        let all: Arc<[Finding]> = all.into();
        self.all = Some(Arc::clone(&all));
        all
    }
}

fn changed_in(
    compiled: &Compiled,
    before: Option<&Snapshot>,
    revision: u64,
) -> OrdMap<ObjectRef, u64> {
    let nothing = OrdMap::new();
    let (old, mut known) = before.map_or((&nothing, OrdMap::new()), |before| {
        (&before.compiled.statuses, before.changed_in.clone())
    });
    for difference in old.diff(&compiled.statuses) {
        match difference {
            DiffItem::Add(object, _) => _ = known.insert(object.clone(), revision),
            DiffItem::Update { old, new }
                if old.1.observed_generation != new.1.observed_generation =>
            {
                known.insert(new.0.clone(), revision);
            }
            DiffItem::Update { .. } => {}
            DiffItem::Remove(object, _) => _ = known.remove(object),
        }
    }
    known
}

/// Logs each finding once when it appears, and once when it is gone.
fn report(findings: &Arc<[Finding]>, before: Option<&Snapshot>) {
    if before.is_some_and(|before| Arc::ptr_eq(&before.findings, findings)) {
        return;
    }
    let known = before.map_or(&[][..], |before| &*before.findings);
    for finding in findings
        .iter()
        .filter(|finding| known.binary_search(finding).is_err())
    {
        match finding.severity {
            Severity::Error => tracing::error!(code = finding.code, "{finding}"),
            Severity::Warning => tracing::warn!(code = finding.code, "{finding}"),
            Severity::Info => tracing::info!(code = finding.code, "{finding}"),
        }
    }
    for finding in known
        .iter()
        .filter(|finding| findings.binary_search(finding).is_err())
    {
        tracing::info!(code = finding.code, "resolved: {finding}");
    }
}

/// Logs every change of an object of ours: its generation, the one in force, and the effect.
fn report_changes(compiled: &Compiled, before: Option<&Snapshot>) {
    let Some(before) = before else {
        tracing::info!(objects = compiled.statuses.len(), "initial compile done");
        return;
    };
    for difference in before.compiled.statuses.diff(&compiled.statuses) {
        match difference {
            DiffItem::Add(object, status) => changed(object, status, "object added"),
            DiffItem::Update { old, new } => {
                let generations = |status: &ObjectStatus| {
                    let in_force = status.in_force.as_ref().map(|good| good.generation);
                    (status.observed_generation, in_force)
                };
                if generations(old.1) != generations(new.1) {
                    changed(new.0, new.1, "object changed");
                }
            }
            DiffItem::Remove(object, _) => tracing::info!(%object, "object removed"),
        }
    }
}

fn changed(object: &ObjectRef, status: &ObjectStatus, event: &str) {
    let generation = status.observed_generation;
    let in_force = status.in_force.as_ref().map_or(0, |good| good.generation);
    let effect = effect(status);
    tracing::info!(%object, generation, in_force, effect, "{event}");
}

/// The fields of the status that only the kind has, such as weights; else the sentence of `Enforced`.
fn effect(status: &ObjectStatus) -> String {
    if !status.detail.is_empty() {
        return Value::Object(status.detail.clone()).to_string();
    }
    let enforced = status.condition(ConditionType::Enforced);
    enforced.map_or_else(String::new, |enforced| enforced.message.clone())
}

/// How long a lifetime a workload's certificate may have at most.
#[must_use]
pub fn leaf_lifetime(snapshots: &Snapshots) -> Duration {
    let longest = |snapshot: &Arc<Snapshot>| snapshot.mesh.certificates.lifetime.get();
    snapshots
        .borrow()
        .as_ref()
        .map_or_else(|| MeshSpec::default().certificates.lifetime.get(), longest)
}

#[cfg(test)]
mod tests {
    use heddle_xds_server::Converged;

    use super::*;
    use crate::metrics::Outcome;
    use crate::objects::Batch;

    /// A source without objects.
    struct Empty(watch::Sender<u64>);

    impl ObjectSource for Empty {
        fn take(&self) -> Batch {
            Batch {
                complete: true,
                ..Batch::default()
            }
        }

        fn changes(&self) -> watch::Receiver<u64> {
            self.0.subscribe()
        }
    }

    /// A proxy that acknowledges each snapshot before `on_snapshot` returns.
    struct Fast(ChangeTraces);

    impl SnapshotConsumer for Fast {
        fn on_snapshot(&self, snapshot: &Arc<Snapshot>) {
            let now = Instant::now();
            let view = Converged {
                since: snapshot.seen.unwrap(),
                begun: now,
                acknowledged: now,
            };
            self.0.acknowledged(&"shop/cart-1".into(), view);
        }
    }

    #[tokio::test]
    async fn an_acknowledgment_during_the_handover_is_in_the_trace_of_its_change() {
        let (metrics, stop) = (Arc::new(Metrics::default()), CancellationToken::new());
        // The trace is counted as lost, because no collector listens there.
        let endpoint = "http://127.0.0.1:1".parse().unwrap();
        let (traces, export) =
            ChangeTraces::new(endpoint, None, Arc::clone(&metrics), stop.clone());
        let mut reader = Reader::new(Arc::new(Empty(watch::Sender::new(0))));
        reader.trace_changes(Some(traces.clone()));
        let mut compile_loop = CompileLoop {
            reader,
            rejections: Arc::default(),
            consumer: Arc::new(Fast(traces)),
            metrics: Arc::clone(&metrics),
            newest: None,
        };
        compile_loop.turn(Instant::now());
        stop.cancel();
        export.await.unwrap();
        let count = |reason| {
            metrics
                .change_traces
                .get_or_create(&Outcome { reason })
                .get()
        };
        assert_eq!((count("lost"), count("acknowledgment_lost")), (1, 0));
    }
}
