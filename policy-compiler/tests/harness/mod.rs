//! The common part of the tests over goldens: read cases, compile them, and print the results.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "tests; each test binary uses a part of this"
)]

pub mod chain;
pub mod envoy;
pub mod fields;
pub mod matchers;
mod model;
pub mod running;
pub mod shop;
pub mod tls;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use heddle_policy_compiler::{
    Compiled, Finding, KubeObject, ObjectKind, PodRef, Resource, ResourceKey, ResourceKind, Scope,
    View, World, compile, ingest, print,
};
use serde_json::{Value, json};

/// Stands for the hour in on-demand names.
pub const HOUR: &str = "0";

pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// One input with the place of its output.
pub struct Case {
    pub name: String,
    pub input: PathBuf,
    /// None for samples, which have no golden and are a world of their own.
    pub output: Option<PathBuf>,
    /// Whether there must be findings (`err/`), must be none (`ok/`), or may be some (samples).
    pub findings: Option<bool>,
}

/// Every case of the tree, and the samples that the project gives to users.
pub fn cases() -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for (part, findings) in [("ok", false), ("err", true)] {
        for input in files(&folder().join(part))?
            .into_iter()
            .filter(|f| is_input(f))
        {
            let name = input.strip_prefix(folder())?.display().to_string();
            let output = Some(input.with_extension("out.yaml"));
            cases.push(Case {
                name,
                input,
                output,
                findings: Some(findings),
            });
        }
    }
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/samples");
    for input in files(&samples)?.into_iter().filter(|f| is_input(f)) {
        cases.push(Case {
            name: format!("samples/{}", input.file_name().unwrap().display()),
            input,
            output: None,
            findings: None,
        });
    }
    ensure!(cases.iter().any(|c| c.output.is_some()), "no cases");
    Ok(cases)
}

pub fn is_input(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.ends_with(".yaml") && !name.ends_with(".out.yaml") && name != "kustomization.yaml"
}

/// All files below a folder, sorted; none if there is no such folder.
pub fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    if !folder.is_dir() {
        return Ok(found);
    }
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path)?)
        } else {
            found.push(path)
        }
    }
    found.sort();
    Ok(found)
}

/// Reads the objects of a text, and the findings about them.
pub fn read(path: &Path) -> Result<(Vec<KubeObject>, Vec<Finding>)> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let name = path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let mut read = ingest::parse_yaml(&name, &text);
    read.findings.extend(ingest::duplicates(&read.objects));
    let (objects, findings) = read.into_objects();
    Ok((objects.into_iter().map(remember).collect(), findings))
}

/// Gives an object of another project the last good spec that a case has in its status. On a cluster it comes from ConfigMaps.
fn remember(object: KubeObject) -> KubeObject {
    match object {
        KubeObject::Declared(declared) if declared.remembered.last_good.is_none() => {
            let mut declared = Arc::unwrap_or_clone(declared);
            let good = declared.status.get("lastGood").cloned();
            declared.remembered.last_good = good.and_then(|of| serde_json::from_value(of).ok());
            KubeObject::Declared(Arc::new(declared))
        }
        object => object,
    }
}

pub fn base() -> Result<Vec<KubeObject>> {
    let (objects, findings) = read(&folder().join("base.yaml"))?;
    ensure!(findings.is_empty(), "base.yaml: {findings:?}");
    Ok(objects)
}

/// The cases under `ok/` of some kinds, each with the objects of the base and its own, but for the `Mesh`.
pub fn cases_without_mesh(kinds: &[&str]) -> Result<Vec<(PathBuf, Vec<KubeObject>)>> {
    let is_mesh = |object: &KubeObject| match object {
        KubeObject::Declared(declared) => declared.object.kind == ObjectKind::Mesh,
        _ => false,
    };
    let mut cases = Vec::new();
    for kind in kinds {
        for file in files(&folder().join("ok").join(kind))? {
            if is_input(&file) {
                let mut objects = base()?;
                let (own, _) = read(&file)?;
                objects.extend(own.into_iter().filter(|object| !is_mesh(object)));
                cases.push((file, objects));
            }
        }
    }
    Ok(cases)
}

/// Compiles the objects of YAML documents, all of which must be readable.
pub fn compiled(text: &str) -> Compiled {
    let (objects, findings) = ingest::parse_yaml("test", text).into_objects();
    assert!(findings.is_empty(), "{findings:#?}");
    compile(&world(objects).0)
}

/// A world of these objects, in this order.
pub fn world(objects: impl IntoIterator<Item = KubeObject>) -> (World, Vec<Finding>) {
    let mut builder = World::builder();
    let findings = objects
        .into_iter()
        .flat_map(|object| builder.apply(object))
        .collect();
    (builder.world(), findings)
}

/// Resources by key, and the names that are refused.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    pub resources: BTreeMap<ResourceKey, Arc<Resource>>,
    pub absent: BTreeSet<Arc<str>>,
}

impl From<View> for Seen {
    fn from(view: View) -> Self {
        Self {
            resources: view.resources(),
            absent: view.absent,
        }
    }
}

/// The view of a proxy that has asked for these names and nothing else.
pub fn view(compiled: &Compiled, pod: &PodRef, wanted: &BTreeSet<Arc<str>>) -> Option<View> {
    let (none, no_names) = (BTreeSet::new(), BTreeSet::new());
    let scope = Scope {
        active: &none,
        draining: &none,
        granted: wanted,
        retired: &no_names,
        denied: &no_names,
        tapped: false,
    };
    compiled.view(pod, &scope)
}

/// The listeners of a proxy that asks for nothing by name, with their versions.
pub fn listeners(compiled: &Compiled, pod: &PodRef) -> Vec<(ResourceKey, Arc<str>)> {
    let view = view(compiled, pod, &BTreeSet::new()).unwrap();
    let resources = view.resources().into_iter();
    let listeners = resources.filter(|(key, _)| key.kind == ResourceKind::Listener);
    listeners
        .map(|(key, resource)| (key, Arc::clone(&resource.version)))
        .collect()
}

/// The view of each proxy that has dialled every address there is, and one that there is not.
pub fn views(compiled: &Compiled) -> BTreeMap<String, Seen> {
    let unknown = "203.0.113.9:443".parse().unwrap();
    let wanted: BTreeSet<Arc<str>> = compiled
        .destinations()
        .chain([unknown])
        .map(|at| Compiled::on_demand_name(at, HOUR))
        .chain(compiled.external_clusters().cloned())
        .collect();
    compiled
        .proxies
        .keys()
        .map(|pod| {
            let view = view(compiled, pod, &wanted).unwrap();
            (pod.to_string(), view.into())
        })
        .collect()
}

/// Returns the output of a case: findings, statuses, and the resources that differ from the base.
pub fn report(findings: &[Finding], compiled: &Compiled, base: &BTreeMap<String, Seen>) -> Value {
    let mut all: Vec<&Finding> = findings.iter().chain(compiled.findings.iter()).collect();
    all.sort();
    let findings: Vec<Value> = all
        .iter()
        .map(|f| json!({"severity": f.severity.as_str(), "object": f.object.to_string(), "field": f.field, "code": f.code, "message": f.message, "fix": f.fix}))
        .collect();
    let statuses: BTreeMap<String, Value> = compiled
        .statuses
        .iter()
        .map(|(object, status)| (object.to_string(), status_json(status)))
        .collect();
    let (changed, removed) = differences(base, &views(compiled));
    let mut report =
        json!({"findings": findings, "statuses": statuses, "changed": changed, "removed": removed});
    let tables = model::tables(compiled);
    if !tables.is_empty() {
        report["tables"] = json!(tables);
    }
    report
}

fn status_json(status: &heddle_policy_compiler::ObjectStatus) -> Value {
    let condition = |c: &heddle_crds::DesiredCondition| {
        let mut value = json!({"type": c.kind.as_str(), "status": c.status.as_str(), "reason": c.reason, "message": c.message});
        if let Some(generation) = c.generation {
            value["observedGeneration"] = json!(generation);
        }
        value
    };
    let conditions: Vec<Value> = status.conditions.iter().map(condition).collect();
    let mut value =
        json!({"observedGeneration": status.observed_generation, "conditions": conditions});
    let map = value.as_object_mut().unwrap();
    map.insert(
        "inForce".to_owned(),
        status
            .in_force
            .as_ref()
            .map_or(Value::Null, |s| json!({"generation": s.generation})),
    );
    map.extend(status.detail.clone());
    if !status.parents.is_empty() {
        let parents = status.parents.iter().map(|of| {
            let own: Vec<Value> = of.conditions.iter().map(condition).collect();
            json!({"parent": of.parent, "conditions": own})
        });
        map.insert("parents".to_owned(), parents.collect());
    }
    value
}

/// The resource as a golden has it.
pub fn readable(resource: &Resource) -> Value {
    let mut value = print::to_json(resource);
    matchers::readable(&mut value);
    value
}

type ByResource = BTreeMap<(ResourceKey, String), (Arc<Resource>, Vec<String>)>;

fn differences(
    before: &BTreeMap<String, Seen>,
    after: &BTreeMap<String, Seen>,
) -> (Vec<Value>, Vec<Value>) {
    let mut changed: ByResource = BTreeMap::new();
    let mut removed: BTreeMap<ResourceKey, Vec<String>> = BTreeMap::new();
    let nothing = Seen::default();
    for (pod, view) in after {
        let old = before.get(pod).unwrap_or(&nothing);
        for (key, resource) in view.resources.iter().filter(|(key, r)| {
            old.resources
                .get(*key)
                .is_none_or(|o| o.version != r.version)
        }) {
            let entry = changed
                .entry((key.clone(), resource.version.to_string()))
                .or_insert_with(|| (Arc::clone(resource), Vec::new()));
            entry.1.push(pod.clone());
        }
    }
    for (pod, view) in before {
        let new = after.get(pod).unwrap_or(&nothing);
        for key in view
            .resources
            .keys()
            .filter(|key| !new.resources.contains_key(*key))
        {
            removed.entry(key.clone()).or_default().push(pod.clone());
        }
    }
    let all: Vec<String> = after.keys().cloned().collect();
    let proxies = |pods: Vec<String>| {
        if pods == all {
            json!("all")
        } else {
            json!(pods)
        }
    };
    let mut last = None;
    let known: BTreeMap<&ResourceKey, &Arc<Resource>> =
        before.values().flat_map(|view| &view.resources).collect();
    let changed = changed
        .into_values()
        .map(|(resource, pods)| {
            let pods_of = pods.clone();
            let mut value = json!({
                "resource": format!("{:?} {}", resource.key.kind, resource.key.name), "proxies": proxies(pods), "version": resource.version.to_string(),
                "requires": resource.requires.iter().map(|key| format!("{:?} {}", key.kind, key.name)).collect::<Vec<_>>(),
                "origins": resource.origins.iter().map(ToString::to_string).collect::<Vec<_>>(),
            });
            // Workload classes have their own versions of a listener, all alike: one of them is enough to read.
            if last.replace(resource.key.clone()).as_ref() != Some(&resource.key) {
                let first = pods_first(&pods_of, before).and_then(|view| view.resources.get(&resource.key)).or_else(|| known.get(&resource.key).copied());
                let config = readable(&resource);
                let config = first.map_or(Some(config.clone()), |first| difference(&readable(first), &config));
                value.as_object_mut().expect("an object").insert("config".to_owned(), config.unwrap_or_default());
            }
            value
        })
        .collect();
    let removed = removed
        .into_iter()
        .map(|(key, pods)| json!({"resource": format!("{:?} {}", key.kind, key.name), "proxies": proxies(pods)}))
        .collect();
    (changed, removed)
}

/// The view that the first of these pods had before.
fn pods_first<'a>(pods: &[String], before: &'a BTreeMap<String, Seen>) -> Option<&'a Seen> {
    before.get(pods.first()?)
}

/// Returns the differences of `after`: changed fields, and of lists of named elements the changed elements. Removed values are null.
fn difference(before: &Value, after: &Value) -> Option<Value> {
    if before == after {
        return None;
    }
    match (before, after) {
        (Value::Object(old), Value::Object(new)) => {
            let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
            let changed = keys
                .into_iter()
                .filter_map(|key| match (old.get(key), new.get(key)) {
                    (Some(old), Some(new)) if key == "name" || key == "@type" => Some((
                        key.clone(),
                        if old == new { old.clone() } else { new.clone() },
                    )),
                    (Some(old), Some(new)) => Some((key.clone(), difference(old, new)?)),
                    (None, Some(new)) => Some((key.clone(), new.clone())),
                    (_, None) => Some((key.clone(), Value::Null)),
                });
            Some(Value::Object(changed.collect()))
        }
        (Value::Array(old), Value::Array(new)) => {
            let name = |value: &Value| value.get("name").and_then(Value::as_str).map(str::to_owned);
            let named: BTreeMap<String, &Value> = old
                .iter()
                .filter_map(|value| Some((name(value)?, value)))
                .collect();
            let unique = named.len() == old.len()
                && new.iter().filter_map(name).collect::<BTreeSet<_>>().len() == new.len();
            if !unique {
                return Some(after.clone());
            }
            let there: BTreeSet<String> = new.iter().filter_map(name).collect();
            let changed = new.iter().filter_map(|value| {
                name(value)
                    .and_then(|n| named.get(&n).copied())
                    .map_or(Some(value.clone()), |old| difference(old, value))
            });
            let gone = named
                .keys()
                .filter(|name| !there.contains(*name))
                .map(|name| json!({"name": name, "gone": true}));
            Some(Value::Array(changed.chain(gone).collect()))
        }
        _ => Some(after.clone()),
    }
}

/// All objects of a case: those of the base first.
pub fn objects(case: &Case) -> Result<(Vec<KubeObject>, Vec<Finding>)> {
    let (objects, findings) = read(&case.input)?;
    let below = if case.output.is_some() {
        base()?
    } else {
        Vec::new()
    };
    Ok((below.into_iter().chain(objects).collect(), findings))
}

/// Compiles a case.
pub fn compile_case(case: &Case) -> Result<(Vec<Finding>, Compiled)> {
    let (objects, mut findings) = objects(case)?;
    let (world, more) = world(objects);
    findings.extend(more);
    Ok((findings, compile(&world)))
}
