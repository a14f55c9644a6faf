//! A real Envoy accepts what comes out: every view as a static bootstrap through `envoy --mode validate`. That the same resources work
//! over ADS, the operator's tests show.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod harness;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use heddle_policy_compiler::{ResourceKind, View, print};
use serde_json::{Value, json};

#[test]
fn envoy_accepts_every_view() -> Result<()> {
    let envoy = envoy()?;
    let folder = tempfile::tempdir()?;
    let mut seen = BTreeSet::new();
    let mut wrong = Vec::new();
    for case in harness::cases()? {
        let (_, compiled) = harness::compile_case(&case)?;
        for (pod, view) in harness::views(&compiled) {
            let versions: Vec<String> = view
                .resources
                .values()
                .map(|r| r.version.to_string())
                .collect();
            if !seen.insert(versions) {
                continue;
            }
            let file = folder.path().join(format!("{}.json", seen.len()));
            fs::write(&file, serde_json::to_string(&bootstrap(&view))?)?;
            let output = Command::new(&envoy)
                .args(["--mode", "validate", "--log-level", "error", "-c"])
                .arg(&file)
                .output()?;
            if !output.status.success() {
                let kept = std::env::temp_dir().join(format!("refused-{}.json", seen.len()));
                fs::copy(&file, &kept)?;
                wrong.push(format!(
                    "{} {pod} ({}): {}",
                    case.name,
                    kept.display(),
                    String::from_utf8_lossy(&output.stderr)
                ));
            }
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

fn envoy() -> Result<PathBuf> {
    let path = std::env::var_os("HEDDLE_ENVOY").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache/envoy/envoy"),
        PathBuf::from,
    );
    ensure!(
        path.is_file(),
        "no Envoy at {}: set HEDDLE_ENVOY",
        path.display()
    );
    Ok(path)
}

/// The view without a control plane: endpoints and routes are where they are used.
fn bootstrap(view: &View) -> Value {
    let of = |kind| {
        view.resources
            .values()
            .filter(move |r| r.key.kind == kind)
            .map(|r| print::to_json(r))
            .collect::<Vec<Value>>()
    };
    let by_name = |kind, name: &str| {
        view.resources
            .values()
            .find(|r| r.key.kind == kind && *r.key.name == *name)
            .map(|r| print::to_json(r))
    };
    let mut clusters = of(ResourceKind::Cluster);
    for cluster in clusters.iter_mut().filter(|c| c["type"] == "EDS") {
        let name = cluster["name"].as_str().unwrap().to_owned();
        cluster["load_assignment"] = by_name(ResourceKind::Endpoints, &name).unwrap();
        cluster["type"] = json!("STATIC");
        cluster
            .as_object_mut()
            .unwrap()
            .remove("eds_cluster_config");
    }
    for name in ["heddle-sds", "heddle-admin", "xds"] {
        clusters.push(json!({"name": name, "type": "STATIC", "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions", "explicit_http_config": {"http2_protocol_options": {}}}}}));
    }
    let mut listeners = of(ResourceKind::Listener);
    listeners.iter_mut().for_each(|listener| {
        inline_routes(listener, &|name| {
            by_name(ResourceKind::Route, name).unwrap()
        })
    });
    let ads = json!({"api_type": "DELTA_GRPC", "transport_api_version": "V3", "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}]});
    json!({
        "node": {"id": "test", "cluster": "test"},
        "dynamic_resources": {"ads_config": ads},
        "static_resources": {"clusters": clusters, "listeners": listeners},
    })
}

fn inline_routes(value: &mut Value, route: &dyn Fn(&str) -> Value) {
    match value {
        Value::Object(map) => {
            if let Some(rds) = map.remove("rds") {
                map.insert(
                    "route_config".to_owned(),
                    route(rds["route_config_name"].as_str().unwrap()),
                );
            }
            map.values_mut()
                .for_each(|value| inline_routes(value, route));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| inline_routes(item, route)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// So that a moved test does not pass for want of cases.
#[test]
fn there_are_views() -> Result<()> {
    let case = harness::cases()?.into_iter().next().context("no cases")?;
    let (_, compiled) = harness::compile_case(&case)?;
    ensure!(!harness::views(&compiled).is_empty());
    Ok(())
}
