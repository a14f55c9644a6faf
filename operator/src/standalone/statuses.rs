//! Statuses without an API server: kept in memory, written to files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use heddle_policy_compiler::{ObjectKind, ObjectRef};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::files::write_atomically;
use crate::plane::{Plane, PlaneHandles};
use crate::snapshot::Snapshot;
use crate::status::{
    AbsentPolicies, Blamer, Evidence, ProxyCounts, ProxyObserver, ProxyState, Rejected, Shown,
    WrittenStatus, in_force, states,
};
use crate::tasks::Ended;

/// Many acknowledgments that come together are one look.
const PAUSE: Duration = Duration::from_millis(20);

/// The statuses of all our objects.
#[derive(Debug)]
pub struct Statuses {
    all: Mutex<BTreeMap<ObjectRef, WrittenStatus>>,
    changed: watch::Sender<u64>,
}

impl Default for Statuses {
    fn default() -> Self {
        Self {
            all: Mutex::default(),
            changed: watch::Sender::new(0),
        }
    }
}

impl Statuses {
    /// The statuses that an earlier run wrote: the last good specs outlive the process.
    pub fn read(file: &Path) -> Self {
        let all = match std::fs::read_to_string(file) {
            Ok(text) => written(&text).unwrap_or_else(|error| {
                let file = file.display();
                tracing::error!(%file, %error, "the statuses of the last run cannot be read; the last good specs are lost");
                BTreeMap::new()
            }),
            Err(error) => {
                if error.kind() != std::io::ErrorKind::NotFound {
                    let file = file.display();
                    tracing::error!(%file, %error, "the statuses of the last run cannot be read; the last good specs are lost");
                }
                BTreeMap::new()
            }
        };
        Self {
            all: Mutex::new(all),
            ..Self::default()
        }
    }

    /// Shows the status of an object to a closure.
    pub fn with<T>(&self, object: &ObjectRef, show: impl FnOnce(Option<&WrittenStatus>) -> T) -> T {
        show(self.lock().get(object))
    }

    /// Ticks whenever something of a status changes that the compiler reads.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn last_good(&self, object: &ObjectRef) -> Option<i64> {
        self.with(object, |status| {
            Some(status?.last_good.as_ref()?.generation)
        })
    }

    fn was_programmed(&self, snapshot: &Snapshot, object: &ObjectRef) -> bool {
        let generation = snapshot
            .compiled
            .statuses
            .get(object)
            .map(|now| in_force(now));
        self.with(object, |status| {
            status
                .zip(generation)
                .is_some_and(|(status, generation)| status.is_programmed(generation))
        })
    }

    /// Returns all statuses, and the objects with another status than before.
    fn update(
        &self,
        snapshot: &Snapshot,
        report: &ProxyCounts,
        now: &Time,
    ) -> (Vec<Value>, Vec<ObjectRef>) {
        let mut all = self.lock();
        all.retain(|object, _| snapshot.compiled.statuses.contains_key(object));
        let mut matters = false;
        let (mut items, mut changed) = (Vec::new(), Vec::new());
        for (object, compiled) in &snapshot.compiled.statuses {
            let before = all.entry(object.clone()).or_default();
            let after = before.next(object.kind, compiled, report.tally(object), now);
            matters |= before.last_good != after.last_good || before.detail != after.detail;
            items.push(item(object, &after));
            if *before != after {
                changed.push(object.clone());
            }
            *before = after;
        }
        drop(all);
        if matters {
            self.changed.send_modify(|tick| *tick += 1);
        }
        (items, changed)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ObjectRef, WrittenStatus>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The statuses in a `List` of objects.
fn written(text: &str) -> Result<BTreeMap<ObjectRef, WrittenStatus>, serde_saphyr::Error> {
    #[derive(serde::Deserialize)]
    struct List {
        items: Vec<Item>,
    }
    #[derive(serde::Deserialize)]
    struct Item {
        kind: String,
        metadata: Metadata,
        status: WrittenStatus,
    }
    #[derive(serde::Deserialize)]
    struct Metadata {
        #[serde(default)]
        namespace: String,
        name: String,
    }
    let list: List = serde_saphyr::from_str(text)?;
    let status = |item: Item| {
        let kind = ObjectKind::by_name(&item.kind).filter(|kind| kind.is_declared())?;
        let Metadata { namespace, name } = item.metadata;
        Some((ObjectRef::new(kind, &namespace, &name), item.status))
    };
    Ok(list.items.into_iter().filter_map(status).collect())
}

fn item(object: &ObjectRef, status: &WrittenStatus) -> Value {
    let mut metadata = json!({"name": &*object.name, "generation": status.observed_generation});
    if let Value::Object(fields) = &mut metadata
        && !object.namespace.is_empty()
    {
        fields.insert("namespace".to_owned(), Value::from(&*object.namespace));
    }
    let api_version = object.kind.resource().map(|r| r.api_version());
    json!({"apiVersion": api_version, "kind": object.kind.as_str(), "metadata": metadata, "status": status})
}

/// The files and the readers of the state of the sidecars.
#[derive(Debug)]
pub struct Files {
    /// The statuses of all our objects.
    pub statuses: Arc<Statuses>,
    /// The state that is shown to readers.
    pub shown: Arc<Shown>,
    /// The runtime directory.
    pub runtime: PathBuf,
}

/// Writes the files whenever their content changes.
///
/// # Errors
/// When a file cannot be written, or a source of their content is gone.
pub async fn publish(
    plane: Plane,
    handles: PlaneHandles,
    files: Files,
    stop: CancellationToken,
) -> Ended {
    let statuses = &files.statuses;
    let (mut observer, mut blamer) = (ProxyObserver::default(), Blamer::default());
    let (mut acks, mut tried) = (handles.registry.changes(), plane.trials.changes());
    let mut snapshots = handles.mesh.snapshots();
    let certificates = handles.mesh.certificates();
    let (mut written, mut absent) = (Written::default(), AbsentPolicies::default());
    loop {
        acks.mark_unchanged();
        tried.mark_unchanged();
        let newest = snapshots.borrow_and_update().clone();
        if let Some(snapshot) = newest {
            let (mesh, registry) = (&handles.mesh, &handles.registry);
            mesh.withdrawals().look(&snapshot, &**mesh, registry);
            let (observations, _) = observer.observe(&snapshot, mesh, registry);
            files.shown.show(&snapshot, &observations);
            let good = |object: &ObjectRef| statuses.last_good(object);
            let rejected = Rejected {
                snapshot: &snapshot,
                observations: &observations,
                mesh: &handles.mesh,
                trials: &plane.trials,
            };
            blamer.set_aside(&rejected, &plane.rejections, good);
            let known = observations
                .iter()
                .map(|(pod, observation)| (pod, &*observation.summary));
            let evidence = Evidence {
                trials: &plane.trials,
                was_programmed: &|object| statuses.was_programmed(&snapshot, object),
            };
            let mut report = ProxyCounts::of(&snapshot, &evidence, known);
            report.add_absent(&snapshot, &evidence, &observations, |proxy| {
                absent.of(&snapshot, &handles.mesh, proxy)
            });
            let (items, changed) = statuses.update(&snapshot, &report, &Time(Timestamp::now()));
            written.write(
                &files.runtime,
                &snapshot,
                items,
                &states(&snapshot, &observations, &certificates),
            )?;
            handles.mesh.written(&changed);
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            changed = snapshots.changed() => changed.map_err(|_| "the compile loop is gone")?,
            changed = acks.changed() => changed.map_err(|_| "the discovery server is gone")?,
            changed = tried.changed() => changed.map_err(|_| "no trials are held any more")?,
        }
        // The streams come first.
        tokio::time::sleep(PAUSE).await;
    }
}

/// The files as they are, so that nothing is written twice.
#[derive(Default)]
struct Written {
    status: String,
    proxies: String,
}

impl Written {
    fn write(
        &mut self,
        runtime: &Path,
        snapshot: &Snapshot,
        items: Vec<Value>,
        proxies: &[ProxyState],
    ) -> Ended {
        let findings: Vec<Value> = snapshot.findings.iter().map(finding).collect();
        let list =
            json!({"apiVersion": "v1", "kind": "List", "items": items, "findings": findings});
        let status = serde_saphyr::to_string(&list)?;
        let proxies = serde_json::to_string_pretty(proxies)?;
        // A reader of a new status finds the proxies that it counts.
        replace(&mut self.proxies, proxies, &runtime.join("proxies.json"))?;
        replace(&mut self.status, status, &runtime.join("status.yaml"))
    }
}

fn replace(known: &mut String, fresh: String, path: &Path) -> Ended {
    if *known != fresh {
        write_atomically(path, fresh.as_bytes())?;
        *known = fresh;
    }
    Ok(())
}

fn finding(finding: &heddle_policy_compiler::Finding) -> Value {
    json!({
        "severity": finding.severity.as_str(),
        "object": finding.object.to_string(),
        "field": finding.field,
        "code": finding.code,
        "message": finding.message,
        "fix": finding.fix,
    })
}

#[cfg(test)]
mod tests {
    use heddle_crds::LastGood;

    use super::*;

    #[test]
    fn statuses_outlive_the_process() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("status.yaml");
        assert!(Statuses::read(&file).lock().is_empty(), "a first run");
        let mesh = ObjectRef::cluster(ObjectKind::Mesh, "default");
        let split = ObjectRef::new(ObjectKind::TrafficSplit, "shop", "reviews");
        let status = WrittenStatus {
            observed_generation: Some(4),
            last_good: Some(LastGood {
                generation: 3,
                spec: json!({"mode": "Strict", "scope": {"idleAfter": "1h"}}),
                selected: None,
            }),
            ..WrittenStatus::default()
        };
        let items = vec![item(&mesh, &status), item(&split, &status)];
        let snapshot = Snapshot::default();
        let written = Written::default().write(directory.path(), &snapshot, items, &[]);
        written.unwrap();
        let read = Statuses::read(&file);
        for object in [mesh, split] {
            assert_eq!(
                read.with(&object, |status| status.cloned()).unwrap(),
                status
            );
        }
        std::fs::write(&file, "items: [").unwrap();
        assert!(Statuses::read(&file).lock().is_empty(), "a torn file");
    }
}
