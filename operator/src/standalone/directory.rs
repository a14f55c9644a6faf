//! The directory as a source of objects: every `*.yaml`, `*.yml` and `*.json` in it, at any depth.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use heddle_policy_compiler::ingest::{duplicates, remembered};
use heddle_policy_compiler::{DeclaredObject, Finding, KubeObject, ObjectRef, Remembered};
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Statuses;
use super::content::{Content, Listing};
use super::files::about;
use crate::objects::{Batch, ObjectSource};
use crate::status::WrittenStatus;
use crate::tasks::Ended;

const INTERVAL: Duration = Duration::from_millis(200);

/// The content that an object had, and the generation that it got.
#[derive(Debug)]
struct Generation {
    content: Value,
    number: i64,
}

/// The files that were read, and the objects that were given out.
#[derive(Debug, Default)]
struct DirectoryState {
    files: BTreeMap<PathBuf, Content>,
    generations: BTreeMap<ObjectRef, Generation>,
    /// Findings about the directory as a whole.
    findings: Vec<Finding>,
    /// The objects of the last batch.
    given: BTreeMap<ObjectRef, KubeObject>,
    /// When the oldest change was seen that was not given out yet.
    since: Option<Instant>,
}

/// A directory of YAML files.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    statuses: Arc<Statuses>,
    state: Mutex<DirectoryState>,
    changed: watch::Sender<u64>,
}

impl Directory {
    /// Reads the directory for the first time.
    ///
    /// # Errors
    /// When the directory itself cannot be read. A faulty file in it is only a finding.
    pub fn open(path: PathBuf, statuses: Arc<Statuses>) -> io::Result<Self> {
        fs::read_dir(&path).map_err(|error| about(&path, error))?;
        let directory = Self {
            path,
            statuses,
            state: Mutex::default(),
            changed: watch::Sender::new(0),
        };
        directory.scan();
        Ok(directory)
    }

    /// Looks for changes five times a second. Polling sees renames, links and mounts alike.
    ///
    /// # Errors
    /// When the memory of statuses is gone.
    pub async fn watch(self: Arc<Self>, stop: CancellationToken) -> Ended {
        let mut statuses = self.statuses.changes();
        let mut interval = tokio::time::interval(INTERVAL);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                changed = statuses.changed() => {
                    changed.map_err(|_| "the memory of statuses is gone")?;
                    self.changed.send_modify(|tick| *tick += 1);
                }
                _ = interval.tick() => {
                    let this = Arc::clone(&self);
                    if tokio::task::spawn_blocking(move || this.scan()).await? {
                        self.changed.send_modify(|tick| *tick += 1);
                    }
                }
            }
        }
    }

    /// Reads changed files. Returns whether anything changed.
    fn scan(&self) -> bool {
        let seen = Instant::now();
        let Listing {
            files: found,
            findings,
            whole,
            ..
        } = Listing::of(&self.path);
        let mut state = self.lock();
        let mut changed = state.findings != findings;
        state.findings = findings;
        if whole {
            let before = state.files.len();
            state.files.retain(|path, _| found.contains_key(path));
            changed |= state.files.len() != before;
        }
        for (path, stamp) in found {
            if state
                .files
                .get(&path)
                .is_some_and(|file| file.stamp == stamp)
            {
                continue;
            }
            let old = state.files.remove(&path);
            let read = Content::read(&path, &self.name(&path), stamp, old);
            state.files.insert(path, read);
            changed = true;
        }
        if changed {
            state.since.get_or_insert(seen);
        }
        changed
    }

    fn name(&self, path: &Path) -> String {
        path.strip_prefix(&self.path)
            .unwrap_or(path)
            .display()
            .to_string()
    }

    fn lock(&self) -> MutexGuard<'_, DirectoryState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Directory {
    /// Returns all present objects, and the findings of reading them.
    #[must_use]
    pub fn objects(&self) -> (BTreeMap<ObjectRef, KubeObject>, Vec<Finding>) {
        self.collect(&mut self.lock())
    }

    fn collect(
        &self,
        state: &mut DirectoryState,
    ) -> (BTreeMap<ObjectRef, KubeObject>, Vec<Finding>) {
        let mut findings = state.findings.clone();
        findings.extend(
            state
                .files
                .values()
                .flat_map(|file| file.findings.iter().cloned()),
        );
        let manifests = || state.files.values().flat_map(|file| &file.manifests);
        findings.extend(duplicates(manifests()));
        // Of several objects of one name the last one counts.
        let objects: BTreeMap<ObjectRef, KubeObject> = manifests()
            .map(|manifest| (manifest.reference.clone(), manifest.object.clone()))
            .collect();
        let generations = &mut state.generations;
        generations.retain(|object, _| objects.contains_key(object));
        let complete = |(reference, object): (ObjectRef, KubeObject)| {
            let KubeObject::Declared(object) = object else {
                return (reference, object);
            };
            let object = self.statuses.with(&reference, |status| {
                let number = generation(generations, &object, status);
                complete(&object, number, status)
            });
            (reference, KubeObject::Declared(Arc::new(object)))
        };
        (objects.into_iter().map(complete).collect(), findings)
    }
}

impl ObjectSource for Directory {
    fn take(&self) -> Batch {
        let mut state = self.lock();
        let (objects, findings) = self.collect(&mut state);
        let before = std::mem::replace(&mut state.given, objects.clone());
        let gone = before.keys().filter(|object| !objects.contains_key(object));
        let gone: Vec<_> = gone.map(|object| (object.clone(), None)).collect();
        let same = |object: &ObjectRef, now: &KubeObject| {
            before.get(object).is_some_and(|then| then.same(now))
        };
        let fresh = objects
            .into_iter()
            .filter(|(object, now)| !same(object, now));
        Batch {
            changes: fresh
                .map(|(object, now)| (object, Some(now)))
                .chain(gone)
                .collect(),
            findings,
            since: state.since.take(),
            complete: true,
        }
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

/// As an API server does: another content is another generation. The status of an earlier run has the generations of that run.
fn generation(
    generations: &mut BTreeMap<ObjectRef, Generation>,
    object: &DeclaredObject,
    status: Option<&WrittenStatus>,
) -> i64 {
    let content = object.content();
    let state = generations.get(&object.object);
    let number = match state {
        Some(known) if known.content == content => return known.number,
        Some(known) => known.number + 1,
        None => match status.and_then(|status| status.last_good.as_ref()) {
            Some(good) if good.spec == content => good.generation,
            Some(_) | None => status.map_or(0, WrittenStatus::generation) + 1,
        },
    };
    generations.insert(object.object.clone(), Generation { content, number });
    number
}

/// Adds the fields that an API server would have kept: the generation, and the past.
fn complete(
    object: &DeclaredObject,
    generation: i64,
    status: Option<&WrittenStatus>,
) -> DeclaredObject {
    let kind = object.object.kind;
    let past = |status: &WrittenStatus| Remembered {
        last_good: status.last_good.clone(),
        in_force: remembered(kind, &Value::Object(status.detail.clone())).in_force,
    };
    DeclaredObject {
        generation,
        status: Value::Null,
        remembered: status.map(past).unwrap_or_default(),
        ..object.clone()
    }
}

#[cfg(test)]
mod tests {
    use heddle_policy_compiler::ObjectKind;

    use super::*;

    const SPLIT: &str = "apiVersion: heddle.dev/v1alpha1
kind: TrafficSplit
metadata: {name: reviews, namespace: shop}
spec: {service: reviews, backends: [{service: v1, weight: WEIGHT}]}
";
    const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: reviews, namespace: shop}\nspec: {ports: [{port: 80}]}\n";

    struct Fixture {
        directory: tempfile::TempDir,
        source: Directory,
    }

    impl Fixture {
        fn new(files: &[(&str, &str)]) -> Self {
            let directory = tempfile::tempdir().unwrap();
            for (name, text) in files {
                write(directory.path(), name, text);
            }
            let source = Directory::open(directory.path().to_owned(), Arc::default()).unwrap();
            Self { directory, source }
        }

        fn write(&self, name: &str, text: &str) -> bool {
            write(self.directory.path(), name, text);
            self.source.scan()
        }

        fn generation(&self) -> Option<i64> {
            self.source
                .objects()
                .0
                .values()
                .find_map(|object| match object {
                    KubeObject::Declared(object) => Some(object.generation),
                    _ => None,
                })
        }
    }

    fn write(directory: &Path, name: &str, text: &str) {
        let path = directory.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        // As tools do it: beside, then moved.
        let beside = path.with_extension("tmp");
        fs::write(&beside, text).unwrap();
        fs::rename(beside, path).unwrap();
    }

    fn split(weight: u32) -> String {
        SPLIT.replace("WEIGHT", &weight.to_string())
    }

    #[test]
    fn another_content_is_another_generation() {
        let fixture = Fixture::new(&[
            ("deep/er/split.yml", &split(1)),
            ("notes.txt", "no: [yaml"),
            (".hidden.yaml", "no: [yaml"),
            ("kustomization.yaml", "no: [yaml"),
        ]);
        assert_eq!(fixture.generation(), Some(1));
        assert!(!fixture.source.scan(), "nothing changed");
        assert!(fixture.write("deep/er/split.yml", &format!("# a comment\n{}", split(1))));
        assert_eq!(fixture.generation(), Some(1));
        assert!(fixture.write("deep/er/split.yml", &split(2)));
        assert_eq!(fixture.generation(), Some(2));
        fs::remove_file(fixture.directory.path().join("deep/er/split.yml")).unwrap();
        assert!(fixture.source.scan());
        assert_eq!(fixture.generation(), None);
        assert!(fixture.source.objects().1.is_empty());
    }

    #[test]
    fn a_faulty_file_keeps_its_last_good_documents() {
        let fixture = Fixture::new(&[("all.yaml", &format!("{}---\n{SERVICE}", split(1)))]);
        assert!(fixture.write("all.yaml", &format!("kind: [\n---\n{SERVICE}")));
        let (objects, findings) = fixture.source.objects();
        assert_eq!(objects.len(), 2);
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert_eq!(fixture.generation(), Some(1));
        assert!(
            fixture.write("all.yaml", SERVICE),
            "a document that is gone is gone"
        );
        assert_eq!(fixture.source.objects().0.len(), 1);
    }

    #[test]
    fn an_object_that_cannot_be_read_is_a_new_generation_and_not_the_old_object() {
        let fixture = Fixture::new(&[("split.yaml", &split(1))]);
        assert_eq!(fixture.generation(), Some(1));
        assert!(fixture.write(
            "split.yaml",
            &split(1).replace("service: reviews,", "servise: reviews,")
        ));
        assert_eq!(fixture.generation(), Some(2));
        assert_eq!(fixture.source.objects().0.len(), 1);
    }

    #[test]
    fn generations_go_on_where_the_last_run_ended() {
        let status = |last_good: &str, generation: i64| WrittenStatus {
            observed_generation: Some(4),
            last_good: Some(heddle_crds::LastGood {
                generation,
                spec: serde_json::from_str(last_good).unwrap(),
                selected: None,
            }),
            ..WrittenStatus::default()
        };
        let text = super::tests::split(1);
        let (mut objects, _) = heddle_policy_compiler::ingest::parse_yaml("", &text).into_objects();
        let Some(KubeObject::Declared(object)) = objects.pop() else {
            panic!("no declared object");
        };
        let number = |status| generation(&mut BTreeMap::new(), &object, Some(&status));
        let same = r#"{"service": "reviews", "backends": [{"service": "v1", "weight": 1}]}"#;
        assert_eq!(number(status(same, 2)), 2, "the spec of that generation");
        assert_eq!(number(status("{}", 2)), 5, "another spec");
    }

    #[test]
    fn a_batch_contains_only_changed_objects() {
        let fixture = Fixture::new(&[("split.yaml", &split(1)), ("service.yaml", SERVICE)]);
        let names = || -> Vec<(String, bool)> {
            let batch = fixture.source.take();
            let changes = batch.changes.iter();
            changes
                .map(|(object, now)| (object.to_string(), now.is_some()))
                .collect()
        };
        assert_eq!(names().len(), 2);
        assert_eq!(names(), []);
        fixture.write("split.yaml", &split(2));
        assert_eq!(names(), [("TrafficSplit shop/reviews".to_owned(), true)]);
        fs::remove_file(fixture.directory.path().join("service.yaml")).unwrap();
        assert!(fixture.source.scan());
        assert_eq!(names(), [("Service shop/reviews".to_owned(), false)]);
    }

    #[test]
    fn objects_of_every_kind_are_given_out_once_and_taken_away_with_their_file() {
        let mut files = vec![(
            "Workload.yaml".to_owned(),
            "{apiVersion: apps/v1, kind: Deployment, metadata: {name: a}, spec: {template: {spec: {containers: [{name: a}]}}}}".to_owned(),
        )];
        for (kind, resource) in ObjectKind::watched() {
            let (api_version, api_kind) = (resource.api_version(), kind.api_kind());
            let text = format!(
                "{{apiVersion: {api_version}, kind: {api_kind}, metadata: {{name: a}}, spec: {{}}}}"
            );
            files.push((format!("{}.yaml", kind.as_str()), text));
        }
        let read = ObjectKind::ALL.len() - 1;
        assert_eq!(files.len(), read, "every kind but Document");
        let named: Vec<(&str, &str)> = files.iter().map(|(n, t)| (&**n, &**t)).collect();
        let fixture = Fixture::new(&named);
        assert_eq!(fixture.source.take().changes.len(), read);
        assert!(fixture.write("other.yaml", SERVICE));
        assert_eq!(fixture.source.take().changes.len(), 1);
        for (name, _) in &files {
            fs::remove_file(fixture.directory.path().join(name)).unwrap();
        }
        assert!(fixture.source.scan());
        let changes = fixture.source.take().changes;
        assert_eq!(changes.len(), read);
        assert!(changes.iter().all(|(_, now)| now.is_none()));
    }

    #[test]
    fn of_two_objects_of_one_name_the_latter_counts_with_a_warning() {
        let twice = format!("{}---\n{}", split(1), split(2));
        for files in [
            vec![("a.yaml", split(1)), ("b.yaml", split(2))],
            vec![("a.yaml", twice)],
        ] {
            let files: Vec<(&str, &str)> = files
                .iter()
                .map(|(name, text)| (*name, text.as_str()))
                .collect();
            let fixture = Fixture::new(&files);
            let (objects, findings) = fixture.source.objects();
            assert_eq!(objects.len(), 1);
            let codes: Vec<&str> = findings.iter().map(|finding| finding.code).collect();
            assert_eq!(codes, ["Duplicate"], "{files:?}");
        }
    }

    #[test]
    fn a_link_to_a_folder_is_not_followed_but_reported() {
        let fixture = Fixture::new(&[("a/split.yaml", &split(1))]);
        std::os::unix::fs::symlink("..", fixture.directory.path().join("a/up")).unwrap();
        assert!(fixture.source.scan());
        let (objects, findings) = fixture.source.objects();
        assert_eq!(objects.len(), 1);
        let codes: Vec<&str> = findings.iter().map(|finding| finding.code).collect();
        assert_eq!(codes, ["LinkNotFollowed"]);
    }

    #[test]
    fn a_directory_that_is_not_there_is_an_error_that_names_it() {
        let error = Directory::open("/nowhere/at/all".into(), Arc::default())
            .unwrap_err()
            .to_string();
        assert!(error.contains("/nowhere/at/all"), "{error}");
    }
}
