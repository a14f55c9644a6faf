//! Regular expressions of splits: a real Envoy accepts each one that the compiler accepts. One that Envoy rejects would take the whole
//! route configuration with it. `HEDDLE_EXPRESSIONS` is the number of random ones.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod harness;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use heddle_xds_types::bootstrap::REGEX_PROGRAM_SIZE;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

/// The most expressions of a split.
const OF_SPLIT: usize = 32;

/// Expressions at the bounds of RE2.
const CASES: [&str; 24] = [
    "/(^{40}){40}a",
    "/((?:){40}){40}b",
    "/((a{40}){0}){40}c",
    "(^{40}){25}",
    "(^{40}){26}",
    "(^{32}){31}",
    "(^{33}){31}",
    "(a{0}){1000}",
    "(a{0}){1001}",
    "((?:){0}){200}",
    r"(\b{2}){500}",
    r"(\b{2}){501}",
    "(^{2,}){500,}",
    "(^{2,}){501,}",
    "(^{1000}){0,1}",
    "((^{1000})?){1}",
    "(((^{10}){10}){10})",
    "(((^{10}){10})?){11}",
    "a{ 2 }",
    "a{2, 3}",
    "(?P<a.b>x)",
    "(?P<a_1>x)",
    "(?i-)",
    "((?i){2}a)",
];

fn expression() -> impl Strategy<Value = String> {
    let atoms = [
        "a", "/", "^", "$", r"\b", r"\B", r"\A", "(?:)", "()", ".", "[a-c]", "[^/]", r"\d", r"\.",
        "(?P<n>a)", "(?i)", "(?s:.)",
    ];
    let atom = prop::sample::select(atoms.to_vec()).prop_map(str::to_owned);
    atom.prop_recursive(6, 24, 3, |inner| {
        let count = prop::sample::select(vec![0_u32, 1, 2, 3, 10, 31, 32, 40, 500, 1000, 1001]);
        let operator = prop_oneof![
            4 => count.clone().prop_map(|n| format!("{{{n}}}")),
            2 => count.clone().prop_map(|n| format!("{{{n},}}")),
            4 => (count.clone(), count).prop_map(|(a, b)| format!("{{{},{}}}", a.min(b), a.max(b))),
            1 => prop::sample::select(vec!["?", "*", "+", "*?", "{ 2 }", "{1, 2}", "{,2}"]).prop_map(str::to_owned),
        ];
        let group = prop::sample::select(vec!["(", "(?:", "(?U:"]);
        prop_oneof![
            3 => (group.clone(), inner.clone(), operator.clone()).prop_map(|(open, of, by)| format!("{open}{of}){by}")),
            2 => (inner.clone(), operator).prop_map(|(of, by)| format!("{of}{by}")),
            1 => (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{a}{b}")),
            1 => (group, inner.clone(), inner).prop_map(|(open, a, b)| format!("{open}{a}|{b})")),
        ]
    })
}

/// The expressions that the compiler accepts.
fn accepted(all: &[String]) -> Vec<&str> {
    let splits = all.chunks(OF_SPLIT).enumerate().map(|(index, chunk)| {
        let matches = chunk.iter().map(|text| json!({"path": {"regex": text}}));
        let split = json!({
            "apiVersion": "heddle.dev/v1alpha1", "kind": "TrafficSplit",
            "metadata": {"name": format!("s{index}"), "namespace": "shop"},
            "spec": {"service": "api", "matches": matches.collect::<Vec<_>>(), "backends": [{"service": "api", "weight": 1}]},
        });
        split.to_string()
    });
    let text = splits.collect::<Vec<_>>().join("\n---\n");
    let compiled = harness::compiled(&text);
    let refused: BTreeSet<(String, String)> = compiled
        .findings
        .iter()
        .filter_map(|finding| {
            let of_regex = finding.field.ends_with(".regex");
            of_regex.then(|| (finding.object.name.to_string(), finding.field.clone()))
        })
        .collect();
    let kept = all.iter().enumerate().filter(|(at, _)| {
        let name = format!("s{}", at / OF_SPLIT);
        let field = format!("spec.matches[{}].path.regex", at % OF_SPLIT);
        !refused.contains(&(name, field))
    });
    kept.map(|(_, text)| text.as_str()).collect()
}

/// The expressions that Envoy rejects, one at least if there are any.
fn rejected_by_envoy(folder: &Path, all: &[&str]) -> Result<Vec<String>> {
    let routes: Vec<Value> = all
        .iter()
        .map(|text| json!({"match": {"safe_regex": {"regex": text}}, "direct_response": {"status": 200}}))
        .collect();
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "x",
        "http_filters": [{"name": "router", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
    });
    let (limit, size) = REGEX_PROGRAM_SIZE;
    let config = json!({
        "node": {"id": "test", "cluster": "test"},
        "layered_runtime": {"layers": [{"name": "bootstrap", "static_layer": {limit: size}}]},
        "static_resources": {"listeners": [{
            "name": "all", "address": {"socket_address": {"address": "127.0.0.1", "port_value": 1}},
            "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
        }]},
    });
    let file = folder.join("routes.json");
    fs::write(&file, config.to_string())?;
    let output = Command::new(harness::envoy::binary()?)
        .args(["--mode", "validate", "--log-level", "error", "-c"])
        .arg(&file)
        .output()?;
    match all {
        _ if output.status.success() => Ok(Vec::new()),
        [one] => {
            let error = String::from_utf8_lossy(&output.stderr);
            let error = error.lines().last().unwrap_or_default();
            Ok(vec![format!("{one}: {error}")])
        }
        _ => {
            let (first, second) = all.split_at(all.len() / 2);
            let found = rejected_by_envoy(folder, first)?;
            match found.is_empty() {
                true => rejected_by_envoy(folder, second),
                false => Ok(found),
            }
        }
    }
}

#[test]
fn envoy_reads_every_expression_that_is_accepted() -> Result<()> {
    let count = std::env::var("HEDDLE_EXPRESSIONS").ok();
    let count = count.and_then(|count| count.parse().ok()).unwrap_or(3000);
    let mut runner = TestRunner::deterministic();
    let mut all: Vec<String> = CASES.map(str::to_owned).to_vec();
    for _ in 0..count {
        all.push(expression().new_tree(&mut runner).unwrap().current());
    }
    all.retain(|text| text.len() <= 1024);
    let accepted = accepted(&all);
    let few = accepted.len() * 5;
    ensure!(
        few > all.len() && accepted.len() < all.len(),
        "{} of {} are accepted, so the cases show little",
        accepted.len(),
        all.len()
    );
    let folder = tempfile::tempdir()?;
    let rejected = rejected_by_envoy(folder.path(), &accepted)?;
    ensure!(rejected.is_empty(), "{rejected:#?}");
    Ok(())
}
