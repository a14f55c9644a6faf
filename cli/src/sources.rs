//! Where `compile` and `analyze` get their objects from: files, or the cluster.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use heddle_policy_compiler::{Compiled, Finding, KubeObject, World, compile, ingest};
use kube::Client;

use crate::{cluster, findings};

/// What the control plane watches.
const WATCHED: [(&str, &str); 7] = [
    ("v1", "Namespace"),
    ("v1", "Service"),
    ("v1", "Pod"),
    ("discovery.k8s.io/v1", "EndpointSlice"),
    (heddle_crds::API_VERSION, "Mesh"),
    (heddle_crds::API_VERSION, "TrafficSplit"),
    (heddle_crds::API_VERSION, "AuthPolicy"),
];

/// Objects with what was wrong while reading them.
#[derive(Default)]
pub struct Objects {
    objects: Vec<KubeObject>,
    findings: Vec<Finding>,
}

/// What became of the objects.
pub struct Outcome {
    /// What came out.
    pub compiled: Compiled,
    /// What reading and compiling found, sorted.
    pub findings: Vec<Finding>,
}

impl Objects {
    /// All YAML and JSON of files and folders (recursively); `-` is standard input.
    pub fn from_paths(paths: &[PathBuf]) -> Result<Self> {
        let mut all = Self::default();
        for path in paths {
            if path.as_os_str() == "-" {
                let mut text = String::new();
                std::io::stdin()
                    .read_to_string(&mut text)
                    .context("cannot read standard input")?;
                all.add(ingest::parse_yaml("-", &text));
                continue;
            }
            for file in files(path)? {
                let text = std::fs::read_to_string(&file)
                    .with_context(|| format!("cannot read {}", file.display()))?;
                all.add(ingest::parse_yaml(&file.display().to_string(), &text));
            }
        }
        Ok(all)
    }

    /// What the control plane itself would see.
    pub async fn from_cluster(client: &Client) -> Result<Self> {
        let mut all = Self::default();
        for (api_version, kind) in WATCHED {
            for object in cluster::list(client, api_version, kind, None).await? {
                all.add(ingest::parse_json("cluster", serde_json::to_value(object)?));
            }
        }
        Ok(all)
    }

    /// Compiles them.
    pub fn compile(self) -> Outcome {
        let mut builder = World::builder();
        let mut findings = self.findings;
        for object in self.objects {
            findings.extend(builder.apply(object));
        }
        let compiled = compile(&builder.world());
        findings.extend(compiled.findings.iter().cloned());
        Outcome {
            compiled,
            findings: findings::sorted(findings),
        }
    }

    fn add(&mut self, (objects, findings): (Vec<KubeObject>, Vec<Finding>)) {
        self.objects.extend(objects);
        self.findings.extend(findings);
    }
}

/// The files of a path, sorted, so that output does not hang on the file system's order.
fn files(path: &Path) -> Result<Vec<PathBuf>> {
    let metadata =
        std::fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
    if !metadata.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    let entries =
        std::fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut children: Vec<PathBuf> = entries
        .map(|entry| entry.map(|e| e.path()))
        .collect::<std::io::Result<_>>()?;
    children.sort();
    for child in children {
        let hidden = child
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with('.'));
        let kustomization = child
            .file_stem()
            .is_some_and(|stem| stem == "kustomization");
        let readable = child.extension().is_some_and(|extension| {
            extension == "yaml" || extension == "yml" || extension == "json"
        });
        if hidden || kustomization {
            continue;
        }
        if child.is_dir() {
            found.extend(files(&child)?);
        } else if readable {
            found.push(child);
        }
    }
    Ok(found)
}
