//! A mesh to measure with: services of [`PODS`] pods each, in namespaces of [`PER_NAMESPACE`] services.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use heddle_policy_compiler::{
    Compiled, Destination, KubeObject, NamespacedName, Part, PodRef, Scope, View, WorldBuilder,
    ingest,
};
use serde_json::{Value, json};

/// Of each service.
pub const PODS: usize = 10;
/// So many services share a namespace.
pub const PER_NAMESPACE: usize = 10;

/// A service's name; its pods are `<name>-<number>`.
fn named(index: usize) -> NamespacedName {
    NamespacedName::new(
        &format!("team-{}", index / PER_NAMESPACE),
        &format!("service-{index}"),
    )
}

/// A service with its pods and where they are.
pub fn populate(builder: &mut WorldBuilder, index: usize) {
    apply(builder, read(service(index, 8080)));
    for number in 0..PODS {
        apply(builder, read(pod(index, number, true)));
    }
    apply(builder, read(slice(index, true)));
}

/// Applies the parsed objects.
pub fn apply(builder: &mut WorldBuilder, objects: Vec<KubeObject>) {
    for object in objects {
        builder.apply(object);
    }
}

/// Parses an object for the compiler.
pub fn read(value: Value) -> Vec<KubeObject> {
    ingest::parse_json("bench", value).0
}

/// Services as a pod's scope names them.
pub fn destinations(indices: impl IntoIterator<Item = usize>) -> BTreeSet<Destination> {
    let named = indices
        .into_iter()
        .map(|index| format!("service/{}:80", named(index)));
    named.filter_map(|name| name.parse().ok()).collect()
}

/// Returns the view of a service's first pod for a scope.
pub fn view(compiled: &Compiled, index: usize, active: &BTreeSet<Destination>) -> Option<View> {
    let (none, no_names) = (BTreeSet::new(), BTreeSet::<Arc<str>>::new());
    let scope = Scope {
        active,
        draining: &none,
        granted: &no_names,
        retired: &no_names,
        denied: &no_names,
        tapped: false,
    };
    let name = named(index);
    let pod = PodRef::new(&name.namespace, &format!("{}-0", name.name));
    compiled.view(&pod, &scope)
}

/// Views of one pod of each service that holds its own service, so that all bytes of these services are made; their length.
pub fn everything(compiled: &Compiled, services: Range<usize>) -> usize {
    let of_one = |index| view(compiled, index, &destinations([index]));
    let parts = services.filter_map(of_one).flat_map(|view| view.parts);
    let bytes = |part: Arc<Part>| -> usize {
        let resources = part.resources.iter();
        resources.map(|resource| resource.body.len()).sum()
    };
    parts.map(bytes).sum()
}

/// A service that leads to this port of its pods.
pub fn service(index: usize, target: usize) -> Value {
    let name = named(index);
    let ip = format!(
        "10.{}.{}.{}",
        96 + (index >> 16),
        (index >> 8) & 255,
        index & 255
    );
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": &*name.name, "namespace": &*name.namespace},
        "spec": {"clusterIP": ip, "clusterIPs": [ip], "selector": {"app": &*name.name}, "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": target}]}})
}

fn pod_ip(index: usize, number: usize) -> String {
    let serial = index * PODS + number;
    format!(
        "10.{}.{}.{}",
        serial >> 16,
        (serial >> 8) & 255,
        serial & 255
    )
}

/// A meshed pod.
pub fn pod(index: usize, number: usize, ready: bool) -> Value {
    let name = named(index);
    let (owner, namespace) = (&*name.name, &*name.namespace);
    let own = format!("{owner}-{number}");
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": own, "namespace": namespace, "labels": {"app": owner, "pod-template-hash": "abc", "version": "v1"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("{owner}-abc"), "uid": "1", "controller": true}]},
        "spec": {"serviceAccountName": owner, "initContainers": [{"name": "heddle-proxy", "image": "x", "restartPolicy": "Always"}],
            "containers": [{"name": "app", "image": "x", "ports": [{"containerPort": 8080, "name": "http"}], "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080}}}]},
        "status": {"phase": "Running", "podIPs": [{"ip": pod_ip(index, number)}],
            "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]}})
}

/// Where the pods of a service are; the first may be unready.
pub fn slice(index: usize, ready: bool) -> Value {
    let name = named(index);
    let endpoints: Vec<Value> = (0..PODS).map(|number| json!({
        "addresses": [pod_ip(index, number)], "conditions": {"ready": ready || number > 0},
        "targetRef": {"kind": "Pod", "name": format!("{}-{number}", name.name), "namespace": &*name.namespace}})).collect();
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": format!("{}-x", name.name), "namespace": &*name.namespace, "labels": {"kubernetes.io/service-name": &*name.name}},
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}], "endpoints": endpoints})
}

/// Returns a policy with the allowed caller of a service.
pub fn policy(index: usize, turn: usize) -> Value {
    let name = named(index);
    let caller = format!("{}/caller-{turn}", name.namespace);
    json!({"apiVersion": "heddle.dev/v1alpha1", "kind": "AuthPolicy", "metadata": {"name": "p", "namespace": &*name.namespace, "generation": turn},
        "spec": {"target": {"service": &*name.name}, "rules": [{"from": {"identities": [caller]}}]}})
}

/// Some of the calls of a service go to its neighbor.
pub fn split(index: usize, turn: usize) -> Value {
    let (name, other) = (named(index), named(index + 1));
    json!({"apiVersion": "heddle.dev/v1alpha1", "kind": "TrafficSplit", "metadata": {"name": "s", "namespace": &*name.namespace, "generation": turn},
        "spec": {"service": &*name.name, "backends": [{"service": &*name.name, "weight": 9}, {"service": &*other.name, "weight": 1 + turn}]}})
}
