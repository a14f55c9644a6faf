//! The mesh of the curve as a directory of YAML: many services with pods without sidecars, one headless service, and
//! the measured workloads. JSON is YAML.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::net::POD_IP;
use crate::mesh::{
    APP_PORT, Mesh, PODS, PORT, Pod, cluster_ip, namespace, namespace_of, pod_ip, pod_name,
    service_name,
};
use crate::objects::{self, Ready};

/// Pods of the headless service.
pub const PEERS: usize = 300;
const NAMESPACE: &str = "bench";
const HASH: &str = "5d4f8c7b9";
/// More in one file than the directory source reads.
const SERVICES_OF_A_FILE: usize = 50;

/// Writes all of it.
///
/// # Errors
/// When the directory can't be written.
pub fn write(dir: &Path, mesh: Mesh, workloads: &[Pod]) -> Result<()> {
    let put = |name: String, objects: Vec<Value>| {
        let mut text = String::new();
        for object in objects {
            // Writing to a String can't fail.
            let _ = writeln!(text, "---\n{object}");
        }
        let path = dir.join(name);
        std::fs::write(&path, text).with_context(|| path.display().to_string())
    };
    let namespaces = (0..mesh.namespaces()).map(plain_namespace).collect();
    put("namespaces.yaml".to_owned(), namespaces)?;
    let all: Vec<usize> = (0..mesh.services()).collect();
    for (number, services) in all.chunks(SERVICES_OF_A_FILE).enumerate() {
        let objects = services.iter().flat_map(|service| of_service(*service));
        put(format!("services-{number}.yaml"), objects.collect())?;
    }
    put("peers.yaml".to_owned(), peers())?;
    let mut own = vec![
        json!({"apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": NAMESPACE, "labels": {"heddle.dev/inject": "enabled"}}}),
        objects::mesh(),
    ];
    own.extend(workloads.iter().map(workload));
    put("bench.yaml".to_owned(), own)
}

/// The workload of this name.
pub fn pod(name: &str) -> Pod {
    Pod {
        namespace: NAMESPACE.to_owned(),
        name: format!("{name}-1"),
        service_account: name.to_owned(),
    }
}

/// Where calls to a service go.
pub fn service_address(service: usize) -> String {
    format!("{}:{PORT}", cluster_ip(service))
}

/// Where calls to a pod of the headless service go.
pub fn peer_address(index: usize) -> String {
    format!("{}:{APP_PORT}", peer_ip(index))
}

/// The addresses that a scan tries: services of the mesh first, then addresses that no service or pod has.
pub fn scanned(mesh: Mesh, count: usize) -> Vec<String> {
    let unknown = (0..count).map(|n| format!("10.200.{}.{}:{APP_PORT}", n / 250, n % 250 + 1));
    (0..mesh.services())
        .map(service_address)
        .chain(unknown)
        .take(count)
        .collect()
}

fn plain_namespace(number: usize) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace(number)}})
}

fn of_service(service: usize) -> Vec<Value> {
    let mut all = vec![
        objects::service(service),
        objects::slice(service, Ready::all()),
    ];
    all.extend((0..PODS).map(|index| {
        let (app, name) = (service_name(service), pod_name(service, index));
        backend(&namespace_of(service), &app, &name, &pod_ip(service, index))
    }));
    all
}

/// A ready pod without a sidecar.
fn backend(namespace: &str, app: &str, name: &str, ip: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": app}},
        "spec": {"serviceAccountName": app,
            "containers": [{"name": "app", "image": "app", "ports": [{"name": "http", "containerPort": APP_PORT}]}]},
        "status": ready(ip),
    })
}

fn ready(ip: &str) -> Value {
    json!({"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": [{"type": "Ready", "status": "True"}]})
}

fn peers() -> Vec<Value> {
    let endpoints: Value = (0..PEERS)
        .map(|index| {
            json!({"addresses": [peer_ip(index)], "conditions": {"ready": true, "serving": true, "terminating": false},
                "targetRef": {"kind": "Pod", "namespace": NAMESPACE, "name": peer_name(index)}})
        })
        .collect();
    let mut all = vec![
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "peers", "namespace": NAMESPACE},
            "spec": {"clusterIP": "None", "clusterIPs": ["None"], "selector": {"app": "peers"},
                "ports": [{"name": "http", "port": APP_PORT, "targetPort": APP_PORT, "appProtocol": "http"}]}}),
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": "peers-1", "namespace": NAMESPACE, "labels": {"kubernetes.io/service-name": "peers"}},
            "addressType": "IPv4", "ports": [{"name": "http", "port": APP_PORT, "protocol": "TCP", "appProtocol": "http"}],
            "endpoints": endpoints}),
    ];
    all.extend((0..PEERS).map(|i| backend(NAMESPACE, "peers", &peer_name(i), &peer_ip(i))));
    all
}

fn peer_name(index: usize) -> String {
    format!("peers-{index}")
}

fn peer_ip(index: usize) -> String {
    format!("10.120.{}.{}", index / 250, index % 250 + 1)
}

/// A pod with a sidecar that captures.
fn workload(pod: &Pod) -> Value {
    let name = &pod.service_account;
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": pod.name, "namespace": pod.namespace,
            "labels": {"app": name, "pod-template-hash": HASH, "heddle.dev/inject": "enabled"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("{name}-{HASH}"),
                "uid": name, "controller": true}]},
        "spec": {"serviceAccountName": name,
            "initContainers": [{"name": "heddle-proxy", "image": "proxy", "restartPolicy": "Always"}],
            "containers": [{"name": "app", "image": "app", "ports": [{"name": "http", "containerPort": APP_PORT}]}]},
        "status": ready(POD_IP),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn all_services_and_workloads_are_written() {
        let dir = tempfile::tempdir().unwrap();
        let mesh = Mesh::new(120).unwrap();
        write(dir.path(), mesh, &[pod("a"), pod("b")]).unwrap();
        let files = std::fs::read_dir(dir.path()).unwrap();
        let text: String = files
            .map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap())
            .collect();
        let kinds = |kind: &str| {
            text.matches(&format!("\"kind\":\"{kind}\",\"metadata\""))
                .count()
        };
        assert_eq!(kinds("Service"), 121);
        assert_eq!(kinds("Pod"), 1200 + PEERS + 2);
        assert_eq!(text.matches("heddle-proxy").count(), 2);
    }

    #[test]
    fn a_scan_goes_through_the_mesh_and_beyond() {
        let scanned = scanned(Mesh::new(100).unwrap(), 10_000);
        assert_eq!(scanned[99], service_address(99));
        assert!(scanned[100].starts_with("10.200."));
        assert_eq!(scanned.iter().collect::<BTreeSet<_>>().len(), 10_000);
    }
}
