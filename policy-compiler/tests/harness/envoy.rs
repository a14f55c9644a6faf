//! A real Envoy: where it is, and a view as a bootstrap without a control plane.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use heddle_policy_compiler::{ResourceKind, print};
use heddle_xds_types::bootstrap::{REGEX_PROGRAM_SIZE, RUNTIME_FEATURES};
use serde_json::{Value, json};

use super::Seen;

pub fn binary() -> Result<PathBuf> {
    let path = std::env::var_os("HEDDLE_ENVOY").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache/envoy/envoy"),
        PathBuf::from,
    );
    ensure!(
        path.is_file(),
        "no Envoy at {}: run `make envoy`, or set HEDDLE_ENVOY",
        path.display()
    );
    Ok(path)
}

/// The view without a control plane: endpoints, routes and extensions are where they are used.
pub fn bootstrap(view: &Seen) -> Value {
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
    for name in ["heddle-sds", "heddle-admin", "heddle-agent", "xds"] {
        clusters.push(json!({"name": name, "type": "STATIC", "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions", "explicit_http_config": {"http2_protocol_options": {}}}}}));
    }
    let mut listeners = of(ResourceKind::Listener);
    listeners.iter_mut().for_each(|listener| {
        inline_routes(listener, &|name| {
            by_name(ResourceKind::Route, name).unwrap()
        });
        inline_extensions(listener, &|name| {
            by_name(ResourceKind::Extension, name).unwrap()
        });
    });
    let ads = json!({"api_type": "DELTA_GRPC", "transport_api_version": "V3", "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}]});
    let mut layers = vec![json!({"name": "bootstrap", "static_layer": runtime()})];
    for mut resource in of(ResourceKind::Runtime) {
        layers.push(json!({"name": "rtds", "static_layer": resource["layer"].take()}));
    }
    // A test can change values as RTDS does, by `POST /runtime_modify`.
    layers.push(json!({"name": "admin", "admin_layer": {}}));
    json!({
        "node": {"id": "test", "cluster": "test"},
        "dynamic_resources": {"ads_config": ads},
        "layered_runtime": {"layers": layers},
        "static_resources": {"clusters": clusters, "listeners": listeners},
    })
}

/// The runtime values of the agent's bootstrap.
fn runtime() -> Value {
    let (limit, size) = REGEX_PROGRAM_SIZE;
    let features = RUNTIME_FEATURES.map(|name| (name.to_owned(), json!(true)));
    let limit = (limit.to_owned(), json!(size));
    features.into_iter().chain([limit]).collect()
}

fn inline_extensions(value: &mut Value, extension: &dyn Fn(&str) -> Value) {
    match value {
        Value::Object(map) => {
            if map.remove("config_discovery").is_some() {
                let mut extension = extension(map["name"].as_str().unwrap());
                map.insert("typed_config".to_owned(), extension["typed_config"].take());
            }
            map.values_mut()
                .for_each(|value| inline_extensions(value, extension));
        }
        Value::Array(items) => items
            .iter_mut()
            .for_each(|item| inline_extensions(item, extension)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn inline_routes(value: &mut Value, route: &dyn Fn(&str) -> Value) {
    match value {
        Value::Object(map) => {
            if let Some(rds) = map.remove("rds") {
                let mut config = route(rds["route_config_name"].as_str().unwrap());
                // As by RDS: a backend that does not exist is a cluster that does not exist.
                config["validate_clusters"] = json!(false);
                map.insert("route_config".to_owned(), config);
            }
            map.values_mut()
                .for_each(|value| inline_routes(value, route));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| inline_routes(item, route)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
