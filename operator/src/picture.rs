//! The compiling loop: objects in, pictures out. A lone change is compiled at once; what comes during a compile is
//! one compile more, of the newest state. There is no fixed wait.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use heddle_crds::MeshSpec;
use heddle_policy_compiler::{Compiled, Finding, ObjectRef, PodRef, Severity, World, compile};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::learned::Learned;
use crate::metrics::Metrics;
use crate::objects::{ObjectSource, Objects};
use crate::tasks::Ended;

/// One compile: what went in and what came out.
#[derive(Debug, Default)]
pub struct Picture {
    /// Grows with every compile.
    pub revision: u64,
    /// What went in.
    pub world: World,
    /// What came out.
    pub compiled: Compiled,
    /// The settings of the mesh.
    pub mesh: MeshSpec,
    /// What reading and compiling found, sorted.
    pub findings: Vec<Finding>,
    /// For each of our objects: the revision of the first picture with its present generation.
    pub changed_in: BTreeMap<ObjectRef, u64>,
    /// When the change that made this picture was seen.
    pub seen: Option<Instant>,
    /// The same by the wall clock.
    pub at: Option<SystemTime>,
}

impl Picture {
    /// The pod's identity parts, if the pod is known: its service account.
    #[must_use]
    pub fn service_account(&self, pod: &PodRef) -> Option<Arc<str>> {
        self.world
            .workloads()
            .get(pod)
            .map(|workload| Arc::clone(&workload.service_account))
    }

    /// The generations of our objects.
    #[must_use]
    pub fn generations(&self) -> BTreeMap<ObjectRef, i64> {
        self.compiled
            .statuses
            .iter()
            .map(|(object, status)| (object.clone(), status.observed_generation))
            .collect()
    }
}

/// The newest picture; `None` before the first.
pub type Pictures = watch::Receiver<Option<Arc<Picture>>>;

/// Compiles whenever the objects or what was learned change, until told to stop.
///
/// # Errors
/// When the source is gone, or a compile panicked.
pub async fn run(
    source: Arc<dyn ObjectSource>,
    learned: Arc<Learned>,
    pictures: Arc<watch::Sender<Option<Arc<Picture>>>>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) -> Ended {
    let (mut changes, mut lessons) = (source.changes(), learned.changes());
    loop {
        let seen = Instant::now();
        changes.mark_unchanged();
        lessons.mark_unchanged();
        let before = pictures.borrow().clone();
        let (source, learned, timed) = (
            Arc::clone(&source),
            Arc::clone(&learned),
            Arc::clone(&metrics),
        );
        // The compiler may take the time it needs without holding up a stream.
        let picture = tokio::task::spawn_blocking(move || {
            paint(&*source, &learned, before.as_deref(), seen, &timed)
        })
        .await?;
        pictures.send_replace(Some(Arc::new(picture)));
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            changed = changes.changed() => changed.map_err(|_| "the source of objects is gone")?,
            changed = lessons.changed() => changed.map_err(|_| "the memory of refusals is gone")?,
        }
    }
}

fn paint(
    source: &dyn ObjectSource,
    learned: &Learned,
    before: Option<&Picture>,
    seen: Instant,
    metrics: &Metrics,
) -> Picture {
    let Objects {
        objects,
        mut findings,
        refusals,
    } = {
        let mut read = source.objects();
        read.refusals.extend(learned.all());
        read
    };
    let mesh = Objects {
        objects: objects.clone(),
        ..Objects::default()
    }
    .mesh();
    metrics
        .objects
        .set(i64::try_from(objects.len()).unwrap_or(i64::MAX));
    let mut builder = World::builder();
    for object in objects {
        findings.extend(builder.apply(object));
    }
    for refusal in refusals {
        builder.refuse(refusal);
    }
    let world = builder.build();
    let compiled = compile(&world);
    findings.extend(compiled.findings.iter().cloned());
    findings.sort();
    findings.dedup();
    metrics.compiled(seen.elapsed(), findings.len());
    report(&findings, before);
    let revision = before.map_or(1, |before| before.revision + 1);
    let changed_in = changed_in(&compiled, before, revision);
    let picture = Picture {
        revision,
        world,
        compiled,
        mesh,
        findings,
        changed_in,
        seen: Some(seen),
        at: Some(SystemTime::now()),
    };
    learned.retain(&picture.generations());
    tracing::debug!(revision, took = ?seen.elapsed(), proxies = picture.compiled.proxies.len(), "compiled");
    picture
}

fn changed_in(
    compiled: &Compiled,
    before: Option<&Picture>,
    revision: u64,
) -> BTreeMap<ObjectRef, u64> {
    let since = |object: &ObjectRef, generation: i64| {
        let before = before?;
        let known = before.compiled.statuses.get(object)?;
        (known.observed_generation == generation).then(|| before.changed_in.get(object).copied())?
    };
    let statuses = compiled.statuses.iter();
    statuses
        .map(|(object, status)| {
            (
                object.clone(),
                since(object, status.observed_generation).unwrap_or(revision),
            )
        })
        .collect()
}

/// Says each finding once: when it appears, and when it is gone.
fn report(findings: &[Finding], before: Option<&Picture>) {
    let known = before
        .map(|before| before.findings.as_slice())
        .unwrap_or_default();
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
        tracing::info!(code = finding.code, "no longer so: {finding}");
    }
}

/// How long a lifetime a workload's certificate may have at most.
#[must_use]
pub fn leaf_lifetime(pictures: &Pictures) -> Duration {
    let longest = |picture: &Arc<Picture>| picture.mesh.certificates.lifetime.get();
    pictures
        .borrow()
        .as_ref()
        .map_or_else(|| MeshSpec::default().certificates.lifetime.get(), longest)
}
