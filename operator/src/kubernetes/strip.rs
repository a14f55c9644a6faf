//! What is kept of an object. A pod of some kilobytes becomes some hundred bytes, and a change of what is not kept is no
//! change.

use std::collections::BTreeMap;

use heddle_policy_compiler::world::DESTINATIONS;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// Without annotations: controllers write them all the time, and those that mean something in a directory of YAML (where a pod's sidecar listens)
/// must not let a user pass off a pod as meshed. What a pod declares to call gives it no rights, so that one is kept.
fn metadata(full: ObjectMeta) -> ObjectMeta {
    let declared = full
        .annotations
        .and_then(|mut all| all.remove_entry(DESTINATIONS));
    ObjectMeta {
        name: full.name,
        namespace: full.namespace,
        uid: full.uid,
        labels: full.labels,
        annotations: declared.map(|entry| BTreeMap::from([entry])),
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
        restart_policy: full.restart_policy,
        ..core::Container::default()
    }
}

/// A pod: who it is, where it is, how it is, what it listens on and how it is probed.
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
    core::Service {
        metadata: metadata(full.metadata),
        spec: full.spec,
        status: None,
    }
}

/// A slice: all but what moves without a change.
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
    core::Namespace {
        metadata: metadata(full.metadata),
        ..core::Namespace::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_compiler_reads_is_kept_and_what_moves_is_not() {
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
}
