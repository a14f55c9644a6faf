//! Kubernetes objects in few words, for tests that edit a cluster.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests; each test binary uses a part of this"
)]

pub mod view;

use std::sync::Arc;

use heddle_policy_compiler::{Finding, KubeObject, WorldBuilder, ingest};
use serde_json::{Value, json};

/// One object as the compiler reads it.
pub fn object(value: Value) -> KubeObject {
    let (mut objects, _) = ingest::parse_json("test", value);
    objects.pop().unwrap()
}

pub fn apply(builder: &mut WorldBuilder, values: impl IntoIterator<Item = Value>) -> Vec<Finding> {
    values
        .into_iter()
        .flat_map(|value| builder.apply(object(value)))
        .collect()
}

/// The second generation of a declared object, with the past of the first one.
pub fn with_last_good(value: Value, good: Value) -> KubeObject {
    let KubeObject::Declared(object) = object(value) else {
        panic!("not a declared object");
    };
    let mut object = Arc::unwrap_or_clone(object);
    let good = json!({"generation": 1, "spec": good});
    object.remembered.last_good = Some(serde_json::from_value(good).unwrap());
    object.generation = 2;
    KubeObject::Declared(Arc::new(object))
}

pub fn service(name: &str, ip: &str, selector: Value, ports: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"},
        "spec": {"clusterIP": ip, "clusterIPs": [ip], "selector": selector, "ports": ports}})
}

/// A pod with a sidecar, or without.
pub fn pod(name: &str, app: &str, ip: &str, meshed: bool, ready: bool) -> Value {
    let init = if meshed {
        json!([{"name": "heddle-proxy", "image": "x", "restartPolicy": "Always"}])
    } else {
        json!([])
    };
    let owner = format!("{app}-abc");
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "labels": {"app": app, "pod-template-hash": "abc"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": owner, "uid": "1", "controller": true}]},
        "spec": {"serviceAccountName": app, "initContainers": init,
            "containers": [{"name": "app", "image": "x", "ports": [{"containerPort": 8080, "name": "http"}]}]},
        "status": {"phase": "Running", "podIPs": [{"ip": ip}],
            "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]}})
}

/// A slice of a service: the pods with their addresses and whether they are ready.
pub fn slice(name: &str, service: &str, port: Value, pods: &[(&str, &str, bool)]) -> Value {
    let endpoints: Vec<Value> = pods
        .iter()
        .map(|(pod, ip, ready)| json!({"addresses": [ip], "conditions": {"ready": ready}, "targetRef": {"kind": "Pod", "name": pod, "namespace": "shop"}}))
        .collect();
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": name, "namespace": "shop", "labels": {"kubernetes.io/service-name": service}},
        "ports": [port], "endpoints": endpoints})
}

pub fn split(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "heddle.dev/v1alpha1", "kind": "TrafficSplit", "metadata": {"name": name, "namespace": "shop", "generation": 1}, "spec": spec})
}

pub fn http_route(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": name, "namespace": "shop", "generation": 1, "uid": "u"}, "spec": spec})
}

pub fn traffic_policy(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "heddle.dev/v1alpha1", "kind": "TrafficPolicy", "metadata": {"name": name, "namespace": "shop", "generation": 1}, "spec": spec})
}

pub fn external_service(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "heddle.dev/v1alpha1", "kind": "ExternalService", "metadata": {"name": name, "namespace": "shop", "generation": 1}, "spec": spec})
}

pub fn policy(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "heddle.dev/v1alpha1", "kind": "AuthPolicy", "metadata": {"name": name, "namespace": "shop", "generation": 1}, "spec": spec})
}

pub fn mesh(spec: Value) -> Value {
    json!({"apiVersion": "heddle.dev/v1alpha1", "kind": "Mesh", "metadata": {"name": "default"}, "spec": spec})
}

/// The same object in another namespace, which has addresses with its number in them.
pub fn of_namespace(value: Value, namespace: &str, number: usize) -> Value {
    if value["kind"] == "Mesh" {
        return value;
    }
    let mut text = value.to_string();
    let own = |index: usize| (format!("10.0.{index}."), format!("10.{number}.{index}."));
    let services = ("10.96.0.".to_owned(), format!("10.96.{number}."));
    let mut replaced: Vec<(String, String)> = (0..3).map(own).chain([services]).collect();
    if number > 0 {
        let second = |block: &str| (format!("{block}::"), format!("{block}:{number}::"));
        replaced.extend(["fd00:96", "fd00"].map(second));
    }
    for (from, to) in &replaced {
        text = text.replace(from, to);
    }
    let mut value: Value = serde_json::from_str(&text).unwrap();
    value["metadata"]["namespace"] = json!(namespace);
    for endpoint in value["endpoints"].as_array_mut().into_iter().flatten() {
        if let Some(target) = endpoint.get_mut("targetRef") {
            target["namespace"] = json!(namespace);
        }
    }
    value
}

/// The same object with an annotation.
pub fn annotated(mut value: Value, key: &str, text: &str) -> Value {
    value["metadata"]["annotations"] = json!({ key: text });
    value
}

/// The same pod, being deleted: its containers run on in the grace period.
pub fn ending(mut pod: Value) -> Value {
    pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T01:00:00Z");
    pod
}

/// The same object as the API server wrote it in this version.
pub fn version(mut value: Value, version: &str) -> Value {
    value["metadata"]["resourceVersion"] = json!(version);
    value
}
