//! `config/samples`: beside the shop no file has a finding, and together they have every field.
#![allow(clippy::unwrap_used, reason = "tests")]

mod harness;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use gateway_api::experimental::grpcroutes::GrpcRoute;
use gateway_api::experimental::httproutes::HttpRoute;
use harness::fields;
use heddle_crds::Kind;
use heddle_policy_compiler::{Finding, compile, ingest};
use kube::CustomResourceExt;
use serde_json::Value;

/// The application: the other samples name its services.
const SHOP: [&str; 5] = [
    "namespace.yaml",
    "frontend.yaml",
    "reviews.yaml",
    "ratings.yaml",
    "db.yaml",
];

/// The objects of others that samples name.
const OTHERS: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: till}}
---
apiVersion: v1
kind: Service
metadata: {name: otel-collector, namespace: observability}
spec: {clusterIP: 10.96.1.1, ports: [{name: grpc, port: 4317}]}
---
apiVersion: v1
kind: Service
metadata: {name: ratelimit, namespace: ratelimit}
spec: {clusterIP: 10.96.1.2, ports: [{name: grpc, port: 8081}]}
";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/samples")
}

/// The samples by the names of their files.
fn samples() -> Result<Vec<(String, String)>> {
    let files = harness::files(&folder())?.into_iter();
    let inputs = files.filter(|file| harness::is_input(file));
    let samples = inputs.map(|file| {
        let name = file.file_name().context("a file has a name")?;
        let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        Ok((name.to_string_lossy().into_owned(), text))
    });
    samples.collect()
}

/// The sample with a finding: as long as a namespace is bypassed, there is a warning.
const BYPASS: (&str, &str) = ("mesh_bypass.yaml", "Bypassed");

/// The findings of the files beside the objects of others: those of admission, and those of the compiler.
fn findings(texts: &[&str]) -> Vec<Finding> {
    let text = [texts, &[OTHERS]].concat().join("\n---\n");
    let mut read = ingest::parse_yaml("samples", &text);
    read.findings.extend(ingest::duplicates(&read.objects));
    let (objects, mut findings) = read.into_objects();
    let (world, more) = harness::world(objects);
    findings.extend(more);
    findings.extend(compile(&world).findings.iter().cloned());
    findings
}

#[test]
fn no_sample_has_a_finding_beside_the_shop() -> Result<()> {
    let samples = samples()?;
    let of_shop = |name: &str| SHOP.contains(&name);
    let shop = samples.iter().filter(|(name, _)| of_shop(name));
    let shop: Vec<&str> = shop.map(|(_, text)| text.as_str()).collect();
    ensure!(shop.len() == SHOP.len(), "a file of the shop is missing");
    let found = findings(&shop);
    let mut wrong: BTreeSet<String> = found.iter().map(ToString::to_string).collect();
    for (name, text) in samples.iter().filter(|(name, _)| !of_shop(name)) {
        let found = findings(&[&shop[..], &[text]].concat());
        let (told, others): (Vec<_>, Vec<_>) = found
            .iter()
            .partition(|finding| (name.as_str(), finding.code) == BYPASS);
        ensure!(told.is_empty() == (name != BYPASS.0), "{name}: {found:#?}");
        wrong.extend(others.iter().map(|of| format!("{name}: {of}")));
    }
    ensure!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}

#[test]
fn each_sample_begins_with_its_purpose() -> Result<()> {
    for (name, text) in samples()? {
        let first = text.lines().next().and_then(|line| line.strip_prefix("# "));
        ensure!(first.is_some(), "{name} does not begin with a comment");
    }
    Ok(())
}

/// The paths of the fields of a spec, as [`fields::of`] has those of a schema.
fn used(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    found.insert(path.to_owned());
    match value {
        Value::Object(fields) => {
            let dot = if path.is_empty() { "" } else { "." };
            for (name, field) in fields {
                used(field, &format!("{path}{dot}{name}"), found);
            }
        }
        Value::Array(items) => {
            for item in items {
                used(item, &format!("{path}[]"), found);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The fields of a kind that no sample has.
fn missing(definition: &Value) -> Result<Vec<String>> {
    let text = |pointer| definition.pointer(pointer).and_then(Value::as_str);
    let (group, kind) = (text("/spec/group"), text("/spec/names/kind"));
    let (group, kind) = group.zip(kind).context("a definition has a kind")?;
    let mut found = BTreeSet::new();
    for (name, text) in samples()? {
        let objects: Vec<Value> = serde_saphyr::from_multiple(&text).context(name)?;
        let version = |object: &Value| object["apiVersion"].as_str().map(str::to_owned);
        let of_kind = objects.iter().filter(|object| {
            let version = version(object).unwrap_or_default();
            object["kind"] == kind && version.starts_with(&format!("{group}/"))
        });
        of_kind.for_each(|object| used(&object["spec"], "", &mut found));
    }
    let all = fields::of(definition).into_iter();
    Ok(all.filter(|field| !found.contains(field)).collect())
}

#[test]
fn each_field_of_our_kinds_is_in_a_sample() -> Result<()> {
    for kind in Kind::ALL {
        let missing = missing(&serde_json::to_value(kind.crd())?)?;
        ensure!(missing.is_empty(), "{}: {missing:#?}", kind.name());
    }
    Ok(())
}

/// The fields of routes that no sample has, by their beginnings, with the reason.
const NOT_SHOWN: [&str; 12] = [
    // They have no effect: there is a finding, or Envoy has no place for them.
    "hostnames[]",
    "rules[].name",
    // It adds Gateways as parents, which belong to other controllers.
    "useDefaultGateways",
    // Not supported.
    "rules[].sessionPersistence.idleTimeout",
    "rules[].filters[].externalAuth",
    "rules[].filters[].extensionRef",
    "rules[].backendRefs[].filters[].cors",
    "rules[].backendRefs[].filters[].externalAuth",
    "rules[].backendRefs[].filters[].extensionRef",
    "rules[].backendRefs[].filters[].requestMirror",
    "rules[].backendRefs[].filters[].requestRedirect",
    "rules[].backendRefs[].filters[].urlRewrite",
];

/// The fields of a route that no sample has, without the exceptions.
fn missing_of_routes<K: CustomResourceExt>() -> Result<Vec<String>> {
    let missing = missing(&serde_json::to_value(K::crd())?)?.into_iter();
    let shown = |field: &String| !NOT_SHOWN.iter().any(|begin| field.starts_with(begin));
    Ok(missing.filter(shown).collect())
}

#[test]
fn each_supported_field_of_routes_for_requests_is_in_a_sample() -> Result<()> {
    for missing in [
        missing_of_routes::<HttpRoute>()?,
        missing_of_routes::<GrpcRoute>()?,
    ] {
        ensure!(missing.is_empty(), "{missing:#?}");
    }
    Ok(())
}
