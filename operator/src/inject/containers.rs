//! The two containers and the two volumes, as JSON with only the fields that we set. In Kubernetes' types, a default that the API server
//! fills in would look like a change on the next invocation.

use std::collections::BTreeSet;

use heddle_policy_compiler::ingest::owner;
use heddle_policy_compiler::injection::{
    DnsLookup, EXCLUDE_INBOUND_PORTS, PROXY_UID, Quantities, Resources, SidecarSettings,
    TRUST_BUNDLE,
};
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use serde_json::{Value, json};

use super::{Sidecar, names};

/// The audience of tokens for the control plane.
pub const AUDIENCE: &str = "heddle.dev";

const TOKEN_PATH: &str = "/var/run/secrets/heddle.dev";
const RUNTIME_PATH: &str = "/run/heddle";
const DEFAULT_GRACE: i64 = 30;
const READY_PORT: u16 = heddle_ports::READINESS;

/// The init container that sets up capture.
pub(super) fn init(sidecar: &Sidecar, settings: &SidecarSettings) -> Value {
    let exclusions = &settings.exclusions;
    let mut env = vec![
        variable("HEDDLE_PROXY_UID", &PROXY_UID.to_string()),
        field("HEDDLE_HOST_IPS", "status.hostIPs"),
        variable("HEDDLE_TCP_PROBE_PORTS", &joined(&settings.tcp_probe_ports)),
    ];
    let lists = [
        (EXCLUDE_INBOUND_PORTS, joined(&exclusions.inbound_ports)),
        (
            "HEDDLE_EXCLUDE_OUTBOUND_PORTS",
            joined(&exclusions.outbound_ports),
        ),
        (
            "HEDDLE_EXCLUDE_OUTBOUND_CIDRS",
            joined(&exclusions.outbound_cidrs),
        ),
    ];
    let set = lists.iter().filter(|(_, list)| !list.is_empty());
    env.extend(set.map(|(name, list)| variable(name, list)));
    json!({
        "name": names::INIT,
        "image": sidecar.image,
        "args": ["init"],
        "env": env,
        "resources": resources(Quantities::of_init(&sidecar.mesh.proxy), &settings.init),
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
pub(super) fn proxy(pod: &Pod, sidecar: &Sidecar, settings: &SidecarSettings) -> Value {
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
        "env": environment(pod, sidecar, settings),
        "ports": [{"name": "heddle-ready", "containerPort": READY_PORT, "protocol": "TCP"}],
        "resources": resources(Quantities::of_proxy(&sidecar.mesh.proxy), &settings.proxy),
        // Asked every second, for the application waits for it.
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

fn environment(pod: &Pod, sidecar: &Sidecar, settings: &SidecarSettings) -> Vec<Value> {
    let proxy = &sidecar.mesh.proxy;
    // A pod without an owner is its own workload: the agent then takes the pod's name, which may not be known yet (`generateName`).
    // Kubernetes reads `$(…)` in values; the names of owners are not checked.
    let workload = owner(&pod.metadata).map(|owner| owner.replace('$', "$$"));
    let workload = workload.map(|owner| variable("HEDDLE_WORKLOAD", &owner));
    // A pod without a spec is not injected.
    let grace = pod.spec.as_ref().map_or(DEFAULT_GRACE, grace);
    let mut all = vec![
        variable("HEDDLE_CONTROL_PLANE", &control_plane(sidecar, settings)),
        variable("HEDDLE_ADS_PORT", "15010"),
        variable("HEDDLE_CA_PORT", "15011"),
        variable(TRUST_BUNDLE, &sidecar.trust_bundle),
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
        variable("HEDDLE_GRACE_SECONDS", &grace.to_string()),
    ];
    all.extend(workload);
    all
}

/// The seconds that the pod has to end.
pub(super) fn grace(spec: &PodSpec) -> i64 {
    spec.termination_grace_period_seconds
        .map_or(DEFAULT_GRACE, |seconds| seconds.max(0))
}

/// Without search domains only the full name is found.
fn control_plane(sidecar: &Sidecar, settings: &SidecarSettings) -> String {
    let name = &sidecar.control_plane;
    match settings.dns {
        DnsLookup::SearchDomains => name.clone(),
        DnsLookup::FullName => format!("{name}.{}.", sidecar.mesh.cluster_domain),
    }
}

/// The mesh's resources, with the pod's own in their place.
fn resources(mesh: Quantities<'_>, own: &Resources) -> Value {
    let effective = mesh.replaced_by(own);
    let (mut requested, mut limited) = (serde_json::Map::new(), serde_json::Map::new());
    let all = Quantities::NAMES.into_iter().zip(effective.requests);
    for ((resource, request), limit) in all.zip(effective.limits) {
        requested.insert(resource.to_owned(), json!(request));
        limited.extend(limit.map(|limit| (resource.to_owned(), json!(limit))));
    }
    json!({ "requests": requested, "limits": limited })
}

fn joined<T: ToString>(items: &BTreeSet<T>) -> String {
    let items: Vec<String> = items.iter().map(T::to_string).collect();
    items.join(",")
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
