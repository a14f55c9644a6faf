//! The fields of an object that are kept. A pod of some kilobytes becomes some hundred bytes, and a change of another field is
//! not a change.

use std::collections::BTreeMap;

use heddle_policy_compiler::ingest::is_topology_annotation;
use heddle_policy_compiler::injection::{
    EXCLUDE_INBOUND_PORTS, misspelt_annotations, possibly_ours,
};
use heddle_policy_compiler::world::DESTINATIONS;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// Drops almost all annotations: controllers write them all the time, and those that mean something in a directory of YAML (where a pod's
/// sidecar listens) must not let a user pass off a pod as meshed. The declared destinations of a pod give it no rights, so they are kept, and
/// so are the keys of misspelt annotations, without values, for the warnings.
fn metadata(full: ObjectMeta) -> ObjectMeta {
    let mut all = full.annotations.unwrap_or_default();
    let declared = all.remove_entry(DESTINATIONS);
    let misspelt = misspelt_annotations(&all).map(|key| (key.to_owned(), String::new()));
    let annotations: BTreeMap<String, String> = misspelt.chain(declared).collect();
    ObjectMeta {
        name: full.name,
        namespace: full.namespace,
        uid: full.uid,
        labels: full.labels,
        annotations: Some(annotations).filter(|kept| !kept.is_empty()),
        deletion_timestamp: full.deletion_timestamp,
        owner_references: full.owner_references,
        ..ObjectMeta::default()
    }
}

fn container(full: core::Container) -> core::Container {
    core::Container {
        name: full.name,
        ports: full.ports,
        liveness_probe: full.liveness_probe,
        readiness_probe: full.readiness_probe,
        startup_probe: full.startup_probe,
        lifecycle: full.lifecycle.and_then(lifecycle),
        env: full.env.and_then(exclusions),
        restart_policy: full.restart_policy,
        ..core::Container::default()
    }
}

/// Keeps the list of inbound ports without capture, for the statuses of policies.
fn exclusions(full: Vec<core::EnvVar>) -> Option<Vec<core::EnvVar>> {
    let mut kept = full;
    kept.retain(|variable| variable.name == EXCLUDE_INBOUND_PORTS);
    Some(kept).filter(|kept| !kept.is_empty())
}

/// Keeps the handlers that use the network. The kubelet runs the others inside the pod.
fn lifecycle(full: core::Lifecycle) -> Option<core::Lifecycle> {
    let handler = |full: core::LifecycleHandler| {
        let kept = core::LifecycleHandler {
            http_get: full.http_get,
            tcp_socket: full.tcp_socket,
            ..core::LifecycleHandler::default()
        };
        Some(kept).filter(|kept| *kept != core::LifecycleHandler::default())
    };
    let kept = core::Lifecycle {
        post_start: full.post_start.and_then(handler),
        pre_stop: full.pre_stop.and_then(handler),
        ..core::Lifecycle::default()
    };
    Some(kept).filter(|kept| *kept != core::Lifecycle::default())
}

/// A pod: identity, addresses, state, ports and probes.
pub(super) fn pod(full: core::Pod) -> core::Pod {
    let spec = full.spec.map(|spec| core::PodSpec {
        containers: spec.containers.into_iter().map(container).collect(),
        init_containers: spec
            .init_containers
            .map(|containers| containers.into_iter().map(container).collect()),
        host_network: spec.host_network,
        node_name: spec.node_name,
        service_account_name: spec.service_account_name,
        ..core::PodSpec::default()
    });
    let status = full.status.map(|status| core::PodStatus {
        phase: status.phase,
        pod_ip: status.pod_ip,
        pod_ips: status.pod_ips,
        conditions: status.conditions.map(|conditions| {
            conditions
                .into_iter()
                .filter(|c| c.type_ == "Ready")
                .map(ready)
                .collect()
        }),
        ..core::PodStatus::default()
    });
    core::Pod {
        metadata: metadata(full.metadata),
        spec,
        status,
    }
}

/// The times of a probe's condition move without a change.
fn ready(full: core::PodCondition) -> core::PodCondition {
    core::PodCondition {
        type_: full.type_,
        status: full.status,
        ..core::PodCondition::default()
    }
}

/// A service.
pub(super) fn service(full: core::Service) -> core::Service {
    let annotations = full.metadata.annotations.clone().unwrap_or_default();
    let near = annotations.into_iter();
    let near = near.filter(|(key, _)| is_topology_annotation(key));
    let mut metadata = metadata(full.metadata);
    let kept = metadata.annotations.get_or_insert_default();
    kept.extend(near);
    if kept.is_empty() {
        metadata.annotations = None;
    }
    core::Service {
        metadata,
        spec: full.spec,
        status: None,
    }
}

/// A slice: all fields but those that move without a change.
pub(super) fn slice(full: EndpointSlice) -> EndpointSlice {
    // Of two copies of an endpoint the one that was written later counts.
    let resource_version = full.metadata.resource_version.clone();
    EndpointSlice {
        metadata: ObjectMeta {
            resource_version,
            ..metadata(full.metadata)
        },
        ..full
    }
}

/// A namespace: its labels.
pub(super) fn namespace(full: core::Namespace) -> core::Namespace {
    let annotations = full.metadata.annotations.iter().flat_map(possibly_ours);
    let annotations: BTreeMap<String, String> = annotations
        .map(|key| (key.to_owned(), String::new()))
        .collect();
    core::Namespace {
        metadata: ObjectMeta {
            name: full.metadata.name,
            labels: full.metadata.labels,
            annotations: Some(annotations).filter(|kept| !kept.is_empty()),
            ..ObjectMeta::default()
        },
        ..core::Namespace::default()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use heddle_policy_compiler::{KubeObject, World};
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn fields_that_the_compiler_reads_are_kept_and_others_are_stripped() {
        let full = json!({
            "metadata": {"name": "cart-1", "namespace": "shop", "uid": "u", "resourceVersion": "7", "labels": {"app": "cart"},
                "annotations": {"heddle.dev/destinations": "shop/*", "heddle.dev/standalone-app": "127.0.0.1"},
                "managedFields": [{"manager": "kubelet"}]},
            "spec": {"serviceAccountName": "cart", "nodeName": "n", "containers": [
                {"name": "app", "image": "cart", "env": [{"name": "A", "value": "B"}], "ports": [{"containerPort": 80}]}]},
            "status": {"phase": "Running", "podIP": "10.0.0.1", "conditions": [
                {"type": "Ready", "status": "True", "lastProbeTime": "2026-01-01T00:00:00Z"}, {"type": "Initialized", "status": "True"}]},
        });
        let kept = serde_json::to_value(pod(serde_json::from_value(full).unwrap())).unwrap();
        assert_eq!(
            kept["spec"],
            json!({"serviceAccountName": "cart", "nodeName": "n", "containers": [{"name": "app", "ports": [{"containerPort": 80}]}]})
        );
        assert_eq!(
            kept["status"],
            json!({"phase": "Running", "podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]})
        );
        assert_eq!(
            kept["metadata"],
            json!({"name": "cart-1", "namespace": "shop", "uid": "u", "labels": {"app": "cart"}, "annotations": {"heddle.dev/destinations": "shop/*"}})
        );
    }

    /// A pod with every field that the compiler reads.
    fn full_pod() -> core::Pod {
        let http = |port: Value, path: &str| json!({"httpGet": {"port": port, "path": path}});
        let container = |name: &str, port: u16| {
            json!({
                "name": name, "image": name, "command": ["run"],
                "ports": [{"name": "http", "containerPort": port}, {"name": "dns", "containerPort": 53, "protocol": "UDP"}],
                "livenessProbe": http(json!("http"), "/live"),
                "readinessProbe": {"grpc": {"port": port + 1}},
                "startupProbe": {"tcpSocket": {"port": port + 2}},
                "lifecycle": {"postStart": http(json!("http"), "/start"), "preStop": http(json!(port + 3), "/stop")},
            })
        };
        let mut sidecar = container("log", 9000);
        sidecar["restartPolicy"] = json!("Always");
        sidecar["lifecycle"] = json!({"preStop": http(json!("none"), "/stop")});
        let proxy = json!({"name": "heddle-proxy", "restartPolicy": "Always", "lifecycle": {"preStop": {"sleep": {"seconds": 5}}}});
        serde_json::from_value(json!({
            "metadata": {"name": "cart-1", "namespace": "shop", "uid": "u", "labels": {"app": "cart", "pod-template-hash": "5d4f", "heddle.dev/injct": "x"},
                "annotations": {"heddle.dev/destinations": "shop/*,wrong", "heddle.dev/exclude-inbound-port": "22", "heddle.dev/inject": "enabled", "other": "x"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "cart-5d4f", "uid": "r", "controller": true}]},
            "spec": {"serviceAccountName": "cart", "nodeName": "n", "hostNetwork": false,
                "initContainers": [proxy, sidecar], "containers": [container("app", 8080)]},
            "status": {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}, {"ip": "x"}],
                "conditions": [{"type": "Ready", "status": "True"}]},
        }))
        .unwrap()
    }

    #[test]
    fn the_compiler_reads_a_stripped_pod_as_the_full_one() {
        let read = |pod: core::Pod| {
            let mut builder = World::builder();
            let findings = builder.apply(KubeObject::Pod(Arc::new(pod)));
            (findings, format!("{:#?}", builder.world()))
        };
        let (findings, text) = read(full_pod());
        let stripped = read(pod(full_pod()));
        assert_eq!((&findings, &text), (&stripped.0, &stripped.1));
        assert_eq!(findings.len(), 6, "{findings:#?}");
        for path in ["/live", "/start", "/stop"] {
            assert!(text.contains(path), "{text}");
        }
    }
}
