//! Every case of `tests/golden`: real Kubernetes YAML in, all that comes of it out. `BLESS=1` rewrites the outputs,
//! with `GOLDEN_FILTER` only those of cases with that text in their names.

#![allow(clippy::unwrap_used, reason = "tests")]

mod harness;

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, bail, ensure};
use heddle_policy_compiler::{
    Compiled, KubeObject, NamespacedName, Resource, ResourceKey, ResourceKind, compile, print,
};
use rayon::prelude::*;
use serde_json::{Value, json};

#[test]
fn outputs_are_as_blessed() -> Result<()> {
    let bless = std::env::var_os("BLESS").is_some();
    let filter = std::env::var("GOLDEN_FILTER").unwrap_or_default();
    let (base, _) = harness::world(harness::base()?);
    let base = harness::views(&compile(&base));
    let mut wrong = Vec::new();
    let mut expected = BTreeSet::new();
    let mut cases = harness::cases()?;
    cases.retain(|case| case.name.contains(&filter));
    ensure!(!cases.is_empty(), "no case has {filter:?} in its name");
    for case in cases {
        let (findings, compiled) = harness::compile_case(&case)?;
        let some = findings.len() + compiled.findings.len() > 0;
        if case.findings.is_some_and(|must| must != some) {
            wrong.push(format!(
                "{}: findings: {:#?}",
                case.name,
                findings
                    .iter()
                    .chain(compiled.findings.iter())
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
            ));
        }
        let Some(output) = &case.output else { continue };
        expected.insert(output.clone());
        let text = serde_saphyr::to_string(&harness::report(&findings, &compiled, &base))?;
        if bless {
            if fs::read_to_string(output).ok().as_deref() != Some(text.as_str()) {
                fs::write(output, &text)?;
                println!("wrote {}", output.display());
            }
        } else if fs::read_to_string(output).ok().as_deref() != Some(text.as_str()) {
            let actual =
                std::env::temp_dir().join(format!("{}.actual", case.name.replace('/', "_")));
            fs::write(&actual, &text)?;
            wrong.push(format!(
                "{}: differs; now: {} (BLESS=1 accepts it)",
                case.name,
                actual.display()
            ));
        }
    }
    let outputs = harness::files(&harness::folder())?.into_iter();
    let outputs = outputs.filter(|f| f.to_string_lossy().ends_with(".out.yaml"));
    for file in outputs.filter(|f| filter.is_empty() && !expected.contains(f)) {
        if bless {
            fs::remove_file(&file)?
        } else {
            wrong.push(format!("{}: no case", file.display()))
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[test]
fn every_finding_has_reason_and_fix_apart() -> Result<()> {
    for case in harness::cases()? {
        let (findings, compiled) = harness::compile_case(&case)?;
        for finding in findings.iter().chain(compiled.findings.iter()) {
            let parts = [&finding.message, &finding.fix];
            let some = parts.iter().all(|part| !part.is_empty());
            ensure!(some, "{}: {finding:?}", case.name);
            // A message that ends in an instruction has its fix there.
            let message = finding.message.as_str();
            let mut ends = ["; ", ": ", ", so "].iter();
            let end = ends.find_map(|border| message.rsplit_once(border));
            let verb = end.and_then(|(_, end)| end.split(' ').next());
            let instructs = ["add", "correct", "keep", "name", "remove", "use", "write"];
            ensure!(
                verb.is_none_or(|verb| !instructs.contains(&verb)),
                "{}: {finding:?}",
                case.name
            );
        }
    }
    Ok(())
}

/// Every rotation of the objects, and their reverse, yields the same bytes.
#[test]
fn order_of_objects_does_not_change_a_byte() -> Result<()> {
    let turned = |case: &harness::Case| {
        let (all, _) = harness::objects(case)?;
        let views = |objects: Vec<KubeObject>| {
            let compiled = compile(&harness::world(objects).0);
            (
                harness::views(&compiled),
                compiled.statuses,
                compiled.findings,
            )
        };
        let first = views(all.clone());
        let mut rotated = all.clone();
        rotated.rotate_left(all.len() / 3);
        for other in [all.iter().rev().cloned().collect(), rotated] {
            ensure!(first == views(other), "{}", case.name);
        }
        Ok(())
    };
    harness::cases()?.par_iter().try_for_each(turned)
}

/// The requirements of a resource are in the same view, and so is every cluster, route configuration and extension that it names. No TLS of
/// any resource resumes sessions.
#[test]
fn references_resolve_both_ways_and_no_session_of_tls_is_resumed() -> Result<()> {
    let read = Mutex::default();
    harness::cases()?.par_iter().try_for_each(|case| {
        let (_, compiled) = harness::compile_case(case)?;
        for (pod, view) in harness::views(&compiled) {
            resolve_both_ways(&view, &read).with_context(|| format!("{}: {pod}", case.name))?;
        }
        Ok(())
    })
}

/// References of resources by their versions: most views share most of them.
type References = Arc<Vec<(String, String)>>;
type Read = Mutex<HashMap<(ResourceKey, String), References>>;

fn references(resource: &Resource, read: &Read) -> Result<References> {
    let key = (resource.key.clone(), resource.version.to_string());
    if let Some(found) = read.lock().unwrap().get(&key) {
        return Ok(Arc::clone(found));
    }
    let (mut found, json) = (Vec::new(), print::to_json(resource));
    never_resumes(&json).with_context(|| key.0.to_string())?;
    named(&json, &mut found);
    let found = Arc::new(found);
    read.lock().unwrap().insert(key, Arc::clone(&found));
    Ok(found)
}

fn resolve_both_ways(view: &harness::Seen, read: &Read) -> Result<()> {
    // Of the bootstrap; and those that deliberately do not exist.
    let elsewhere = [
        "heddle-sds",
        "heddle-admin",
        "heddle-agent",
        "refused",
        "unknown",
        "invalid",
    ];
    let there = |kind, name: &str| view.resources.contains_key(&ResourceKey::new(kind, name));
    let mut asked = BTreeSet::new();
    for (key, resource) in &view.resources {
        for required in &resource.requires {
            let exists = view.resources.contains_key(required);
            ensure!(exists, "{key} requires {required}");
        }
        for (field, name) in references(resource, read)?.iter() {
            let kind = match field.as_str() {
                "route_config_name" => ResourceKind::Route,
                "config_discovery" => ResourceKind::Extension,
                _ => ResourceKind::Cluster,
            };
            let exists = there(kind, name) || elsewhere.contains(&name.as_str());
            ensure!(exists, "{key} names {field} {name}");
            asked.insert((kind, name.clone()));
        }
    }
    // Envoy subscribes to these by name: it would never acknowledge one that nothing names.
    let by_name = [ResourceKind::Route, ResourceKind::Extension];
    for key in view.resources.keys() {
        let named = match key.kind {
            ResourceKind::Endpoints => there(ResourceKind::Cluster, &key.name),
            kind => !by_name.contains(&kind) || asked.contains(&(kind, key.name.to_string())),
        };
        ensure!(named, "nothing names {key}");
    }
    Ok(())
}

/// Fails for a TLS context that resumes sessions: a resumed one shows no certificate, of this name or of another.
fn never_resumes(value: &Value) -> Result<()> {
    match value {
        Value::Object(map) => {
            let kind = map.get("@type").and_then(Value::as_str);
            let kind = kind.and_then(|kind| kind.rsplit('.').next());
            let never = match kind {
                Some("UpstreamTlsContext") => map.get("max_session_keys") == Some(&json!(0)),
                Some("DownstreamTlsContext") => {
                    let disabled = [
                        "disable_stateless_session_resumption",
                        "disable_stateful_session_resumption",
                    ];
                    disabled
                        .iter()
                        .all(|field| map.get(*field) == Some(&json!(true)))
                }
                Some(_) | None => true,
            };
            ensure!(never, "a TLS context resumes sessions: {value}");
            map.values().try_for_each(never_resumes)
        }
        Value::Array(items) => items.iter().try_for_each(never_resumes),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
    }
}

/// Every string under a key that refers to another resource.
fn named(value: &Value, found: &mut Vec<(String, String)>) {
    match value {
        Value::Object(map) => {
            if let (Some(_), Some(Value::String(name))) =
                (map.get("config_discovery"), map.get("name"))
            {
                found.push(("config_discovery".to_owned(), name.clone()));
            }
            for (key, value) in map {
                match value {
                    Value::String(name)
                        if ["cluster", "cluster_name", "route_config_name"]
                            .contains(&key.as_str()) =>
                    {
                        found.push((key.clone(), name.clone()))
                    }
                    other => named(other, found),
                }
                if key == "weighted_clusters" {
                    let names = value
                        .pointer("/clusters")
                        .and_then(Value::as_array)
                        .into_iter()
                        .flatten()
                        .filter_map(|c| c.get("name")?.as_str());
                    found.extend(names.map(|name| ("cluster".to_owned(), name.to_owned())));
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| named(item, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The base itself, in full for one server that is a client too.
#[test]
fn outputs_of_the_base_are_as_blessed() -> Result<()> {
    let (world, findings) = harness::world(harness::base()?);
    let compiled = compile(&world);
    if !findings.is_empty() || !compiled.findings.is_empty() {
        bail!("{findings:?} {:?}", compiled.findings);
    }
    // HTTP, TCP, undeclared; a pod by its address; an address outside the mesh.
    let dialled = [
        "10.96.0.20:80",
        "10.96.0.30:3306",
        "10.96.0.40:6379",
        "10.0.0.51:7000",
        "203.0.113.9:443",
    ];
    let wanted = dialled
        .iter()
        .map(|at| Ok(Compiled::on_demand_name(at.parse()?, harness::HOUR)))
        .collect::<Result<_>>()?;
    let pod = NamespacedName::new("shop", "reviews-v1-abc-x1");
    let view = harness::view(&compiled, &pod, &wanted).context("no such proxy")?;
    let resources: Vec<Value> = view
        .resources()
        .values()
        .map(|r| serde_json::json!({"resource": format!("{:?} {}", r.key.kind, r.key.name), "config": harness::readable(r)}))
        .collect();
    let text = serde_saphyr::to_string(&resources)?;
    let path = harness::folder().join("base.view.yaml");
    if std::env::var_os("BLESS").is_some() {
        fs::write(&path, &text)?;
    }
    ensure!(
        fs::read_to_string(&path).ok().as_deref() == Some(text.as_str()),
        "{} differs (BLESS=1 accepts it)",
        path.display()
    );
    Ok(())
}
