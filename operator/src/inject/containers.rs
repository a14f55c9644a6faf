//! The two containers and the two volumes, as JSON: what Kubernetes would not keep as we write it (a default filled in)
//! would look changed on the next invocation.

use std::collections::BTreeSet;

use heddle_policy_compiler::ingest::owner;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::checks::{
    EXCLUDE_INBOUND_PORTS, EXCLUDE_OUTBOUND_CIDRS, EXCLUDE_OUTBOUND_PORTS, PROXY_UID,
};
use super::{Sidecar, names};

/// The audience of tokens for the control plane.
pub const AUDIENCE: &str = "heddle.dev";

const TOKEN_PATH: &str = "/var/run/secrets/heddle.dev";
const RUNTIME_PATH: &str = "/run/heddle";
const READY_PORT: u16 = 15021;

/// The init container that sets up capture.
pub(super) fn init(pod: &Pod, sidecar: &Sidecar, probe_ports: &BTreeSet<u16>) -> Value {
    let annotation = |key: &str| {
        let value = pod
            .metadata
            .annotations
            .as_ref()
            .and_then(|annotations| annotations.get(key));
        value.map(|value| {
            value
                .split(',')
                .map(str::trim)
                .filter(|item| !item.is_empty())
                .collect::<Vec<_>>()
                .join(",")
        })
    };
    let ports: Vec<String> = probe_ports.iter().map(u16::to_string).collect();
    let mut env = vec![
        variable("HEDDLE_PROXY_UID", &PROXY_UID.to_string()),
        field("HEDDLE_HOST_IPS", "status.hostIPs"),
        variable("HEDDLE_TCP_PROBE_PORTS", &ports.join(",")),
    ];
    for (name, key) in [
        ("HEDDLE_EXCLUDE_INBOUND_PORTS", EXCLUDE_INBOUND_PORTS),
        ("HEDDLE_EXCLUDE_OUTBOUND_PORTS", EXCLUDE_OUTBOUND_PORTS),
        ("HEDDLE_EXCLUDE_OUTBOUND_CIDRS", EXCLUDE_OUTBOUND_CIDRS),
    ] {
        env.extend(annotation(key).map(|value| variable(name, &value)));
    }
    json!({
        "name": names::INIT,
        "image": sidecar.image,
        "args": ["init"],
        "env": env,
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]},
            "privileged": false,
            "readOnlyRootFilesystem": true,
            "runAsGroup": 0,
            "runAsNonRoot": false,
            "runAsUser": 0,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    })
}

/// The sidecar: an init container that is restarted always, so it is there before the application and after it.
pub(super) fn proxy(pod: &Pod, sidecar: &Sidecar) -> Value {
    let probe = |period: u32, failures: u32| {
        json!({
            "httpGet": {"path": "/healthz/ready", "port": READY_PORT},
            "periodSeconds": period,
            "timeoutSeconds": 2,
            "failureThreshold": failures,
        })
    };
    json!({
        "name": names::PROXY,
        "image": sidecar.image,
        "restartPolicy": "Always",
        "env": environment(pod, sidecar),
        "ports": [{"name": "heddle-ready", "containerPort": READY_PORT, "protocol": "TCP"}],
        "resources": resources(sidecar),
        // The application starts when the sidecar is ready: not a moment later than need be.
        "startupProbe": probe(1, 120),
        "readinessProbe": probe(5, 3),
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]},
            "privileged": false,
            "readOnlyRootFilesystem": true,
            "runAsGroup": PROXY_UID,
            "runAsNonRoot": true,
            "runAsUser": PROXY_UID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [
            {"name": names::TOKEN_VOLUME, "mountPath": TOKEN_PATH, "readOnly": true},
            {"name": names::RUNTIME_VOLUME, "mountPath": RUNTIME_PATH},
        ],
    })
}

fn environment(pod: &Pod, sidecar: &Sidecar) -> Vec<Value> {
    let proxy = &sidecar.mesh.proxy;
    // Nobody's pod is its own workload: the agent then takes the pod's name, which may not be known yet (`generateName`).
    // Kubernetes reads `$(…)` in values; nobody checks the names of owners.
    let workload = owner(&pod.metadata).map(|owner| owner.replace('$', "$$"));
    let workload = workload.map(|owner| variable("HEDDLE_WORKLOAD", &owner));
    let mut all = vec![
        variable("HEDDLE_CONTROL_PLANE", &sidecar.control_plane),
        variable("HEDDLE_ADS_PORT", "15010"),
        variable("HEDDLE_CA_PORT", "15011"),
        variable("HEDDLE_TRUST_BUNDLE", &sidecar.trust_bundle),
        variable("HEDDLE_TRUST_DOMAIN", &sidecar.mesh.trust_domain),
        variable("HEDDLE_TOKEN_FILE", &format!("{TOKEN_PATH}/token")),
        // A pod of a Deployment has no name yet when the webhook sees it.
        field("POD_NAME", "metadata.name"),
        field("POD_NAMESPACE", "metadata.namespace"),
        field("POD_SERVICE_ACCOUNT", "spec.serviceAccountName"),
        variable("HEDDLE_RUNTIME_DIR", RUNTIME_PATH),
        variable("HEDDLE_CONCURRENCY", &proxy.concurrency.to_string()),
        variable("HEDDLE_LOG_LEVEL", proxy.log_level.as_str()),
        variable("HEDDLE_DRAIN_SECONDS", &proxy.drain_seconds.to_string()),
    ];
    all.extend(workload);
    all
}

fn resources(sidecar: &Sidecar) -> Value {
    let resources = &sidecar.mesh.proxy.resources;
    let mut limits = json!({"memory": resources.limits.memory});
    if let (Some(cpu), Value::Object(fields)) = (&resources.limits.cpu, &mut limits) {
        fields.insert("cpu".to_owned(), json!(cpu));
    }
    json!({"requests": {"cpu": resources.requests.cpu, "memory": resources.requests.memory}, "limits": limits})
}

/// The volumes of the sidecar.
pub(super) fn volumes() -> [Value; 2] {
    [
        json!({
            "name": names::TOKEN_VOLUME,
            "projected": {
                "sources": [{"serviceAccountToken": {"audience": AUDIENCE, "expirationSeconds": 3600, "path": "token"}}],
            },
        }),
        json!({"name": names::RUNTIME_VOLUME, "emptyDir": {"medium": "Memory", "sizeLimit": "16Mi"}}),
    ]
}

fn variable(name: &str, value: &str) -> Value {
    json!({"name": name, "value": value})
}

fn field(name: &str, path: &str) -> Value {
    json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}})
}
