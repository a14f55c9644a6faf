//! Where `compile` and `analyze` get their objects from: files, or the cluster.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use heddle_policy_compiler::ingest::{self, FolderEntry, Manifests};
use heddle_policy_compiler::{
    Compiled, Finding, KubeObject, ObjectKind, ObjectRef, World, compile,
};
use kube::Client;
use serde_json::Value;

use crate::cluster::ClusterArgs;
use crate::{cluster, findings};

/// The objects to compile, with the problems of their sources.
#[derive(Default)]
pub struct Objects {
    objects: Vec<KubeObject>,
    findings: Vec<Finding>,
    skipped: BTreeMap<String, usize>,
}

/// The result of a compile of objects.
pub struct Outcome {
    /// The input of the compile.
    pub world: World,
    /// The compile.
    pub compiled: Compiled,
    /// The findings of reading and compiling, sorted.
    pub findings: Vec<Finding>,
    /// How many objects of each kind are not read, for they have no meaning for a mesh.
    pub skipped: BTreeMap<String, usize>,
}

impl Outcome {
    /// Whether a namespace has pods: a name without any is probably misspelt.
    ///
    /// # Errors
    /// It has none.
    pub fn require_pods(&self, namespace: &str) -> Result<()> {
        let mut pods = self.world.pods().keys();
        ensure!(
            pods.any(|pod| *pod.namespace == *namespace),
            "namespace {namespace:?} has no pods; correct it"
        );
        Ok(())
    }
}

impl Objects {
    /// Reads all YAML and JSON of files and folders (recursively); `-` is standard input.
    ///
    /// # Errors
    /// When a path that was named cannot be read. A file in a folder that cannot be read is a finding.
    pub fn from_paths(paths: &[PathBuf]) -> Result<Self> {
        let mut found = Manifests::default();
        let mut add = |name: &str, content: std::io::Result<String>| {
            let read = match content {
                Ok(text) => ingest::parse_yaml(name, &text),
                Err(error) => unreadable(name, &error),
            };
            found.objects.extend(read.objects);
            found.findings.extend(read.findings);
            for (kind, count) in read.skipped {
                *found.skipped.entry(kind).or_default() += count;
            }
        };
        let mut links = Vec::new();
        for path in paths {
            if path.as_os_str() == "-" {
                add("-", std::io::read_to_string(std::io::stdin()));
                continue;
            }
            for file in files(path, &mut links)? {
                add(&file.display().to_string(), std::fs::read_to_string(&file));
            }
        }
        found.findings.extend(ingest::duplicates(&found.objects));
        found
            .findings
            .extend(links.iter().map(|link| not_followed(link)));
        let objects = found.objects.into_iter().map(|manifest| manifest.object);
        Ok(Self {
            objects: objects.collect(),
            findings: found.findings,
            skipped: found.skipped,
        })
    }

    /// Reads the objects that the control plane watches.
    ///
    /// # Errors
    /// The API server does not answer, or refuses a list.
    pub async fn from_cluster(client: &Client) -> Result<Self> {
        let mut all = Self::default();
        for (kind, resource) in ObjectKind::watched() {
            for object in cluster::list_all(client, kind, &resource).await? {
                let value = serde_json::to_value(object)?;
                let (objects, findings) = ingest::parse_json("cluster", value);
                all.objects.extend(objects);
                all.findings.extend(findings);
            }
        }
        Ok(all)
    }

    /// Reads one object.
    pub fn one(object: Value) -> Self {
        let (objects, findings) = ingest::parse_json("the change", object);
        Self {
            objects,
            findings,
            skipped: BTreeMap::new(),
        }
    }

    /// Reads files if there are any, else the cluster.
    ///
    /// # Errors
    /// A path cannot be read; without paths, the API server does not answer, or refuses a list.
    pub async fn from(paths: &[PathBuf], cluster: &ClusterArgs) -> Result<Self> {
        match paths.is_empty() {
            true => Self::from_cluster(&cluster.client().await?).await,
            false => Self::from_paths(paths),
        }
    }

    /// The objects.
    pub fn all(&self) -> &[KubeObject] {
        &self.objects
    }

    /// The same sources with other objects, and with the findings of a second source.
    pub fn with(&self, objects: Vec<KubeObject>, others: &Self) -> Self {
        let findings = self.findings.iter().chain(&others.findings);
        Self {
            objects,
            findings: findings.cloned().collect(),
            skipped: self.skipped.clone(),
        }
    }

    /// Compiles them.
    pub fn compile(self) -> Outcome {
        let mut builder = World::builder();
        let mut findings = self.findings;
        for object in self.objects {
            findings.extend(builder.apply(object));
        }
        let world = builder.world();
        let compiled = compile(&world);
        findings.extend(compiled.findings.iter().cloned());
        Outcome {
            world,
            compiled,
            findings: findings::sorted(findings),
            skipped: self.skipped,
        }
    }
}

fn document(name: &str) -> ObjectRef {
    ObjectRef::cluster(ObjectKind::Document, name)
}

fn unreadable(name: &str, error: &std::io::Error) -> Manifests {
    let message = format!("the file cannot be read: {error}");
    Manifests {
        findings: vec![
            Finding::error(&document(name), "", "Unreadable", message)
                .fix("correct the path or the rights of the file"),
        ],
        ..Manifests::default()
    }
}

fn not_followed(link: &Path) -> Finding {
    let message = "a link to a folder is not followed";
    Finding::info(
        &document(&link.display().to_string()),
        "",
        "LinkNotFollowed",
        message,
    )
    .fix("name the folder itself to have it read")
}

/// Returns the files of a path, sorted, so that output does not depend on the order of the file system. Links to folders are added to
/// `links`.
///
/// # Errors
/// The path, or a folder below it, does not exist or cannot be read.
pub fn files(path: &Path, links: &mut Vec<PathBuf>) -> Result<Vec<PathBuf>> {
    let about = || format!("cannot read {}", path.display());
    if !std::fs::metadata(path).with_context(about)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut children: Vec<PathBuf> = std::fs::read_dir(path)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
        .with_context(about)?;
    children.sort();
    let mut found = Vec::new();
    for child in children {
        match FolderEntry::of(&child, child.is_dir(), child.is_symlink()) {
            FolderEntry::Objects => found.push(child),
            FolderEntry::Folder => found.extend(files(&child, links)?),
            FolderEntry::LinkToFolder => links.push(child),
            FolderEntry::Other => {}
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use axum::extract::Request;
    use axum::{Json, Router};
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn objects_of_every_watched_kind_are_listed() {
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let paths = Arc::clone(&asked);
        let answer = move |request: Request| async move {
            let path = request.uri().path().to_owned();
            paths.lock().unwrap().push(path.clone());
            // The versions of a kind that has several.
            if path.starts_with("/apis/") && path.matches('/').count() == 3 {
                return Json(
                    json!({"kind": "APIResourceList", "groupVersion": "", "resources": []}),
                );
            }
            Json(
                json!({"kind": "List", "apiVersion": "v1", "metadata": {}, "items": [
                {"metadata": {"name": "a", "namespace": "shop", "uid": "u"}, "spec": {}}]}),
            )
        };
        let client = Client::new(Router::new().fallback(answer), "default");
        let all = Objects::from_cluster(&client).await.unwrap();
        let listed: Vec<ObjectKind> = all
            .objects
            .iter()
            .filter_map(|object| Some(object.reference()?.kind))
            .collect();
        let watched: Vec<ObjectKind> = ObjectKind::watched().map(|(kind, _)| kind).collect();
        assert_eq!(listed, watched);
        assert!(
            asked
                .lock()
                .unwrap()
                .contains(&"/apis/heddle.dev/v1alpha1/meshes".to_owned())
        );
    }
}
