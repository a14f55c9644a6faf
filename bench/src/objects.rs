//! The Kubernetes objects of the measured mesh, as JSON: about as large as real ones. Pure.

use serde_json::{Value, json};

use crate::mesh::{
    APP_PORT, BACKENDS, PODS, PORT, ROUTED, cluster_ip, namespace, namespace_of, pod_ip, pod_name,
    service_name,
};

/// Of the deployments' one replica set each.
const HASH: &str = "5d4f8c7b9";
/// The node that all pods say they run on.
pub const NODE: &str = "node-0";
const NODE_IP: &str = "10.95.0.1";
/// Of the sidecar's token.
pub const AUDIENCE: &str = "heddle.dev";
/// When everything began; a time of its own for each object would tell nothing.
const SINCE: &str = "2026-01-01T00:00:00Z";

/// Which endpoints of a service are ready: one bit for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ready(u16);

impl Ready {
    /// So many states there are in which neither all nor none are ready.
    const STATES: usize = (1 << PODS) - 2;

    /// All.
    pub fn all() -> Self {
        Self((1 << PODS) - 1)
    }

    /// All but the first.
    pub fn all_but_one() -> Self {
        Self(Self::all().0 & !1)
    }

    /// The state of this number: no two in a row, and no two within a thousand, are the same.
    pub fn numbered(number: usize) -> Self {
        let state = u16::try_from(number % Self::STATES + 1).unwrap_or(1);
        Self(Self::all().0 ^ state)
    }

    /// By the bits.
    pub fn from_bits(bits: u16) -> Self {
        Self(bits)
    }

    /// How many.
    pub fn count(self) -> usize {
        self.0.count_ones() as usize
    }
}

/// The settings of the mesh.
pub fn mesh() -> Value {
    json!({
        "apiVersion": "heddle.dev/v1alpha1", "kind": "Mesh",
        "metadata": {"name": "default"},
        "spec": {"trustDomain": "cluster.local", "mode": "Strict", "defaultAction": "Allow"},
    })
}

/// Calls to [`ROUTED`] go to its two backends.
pub fn split([first, second]: [u32; 2]) -> Value {
    let [a, b] = BACKENDS.map(service_name);
    let name = service_name(ROUTED);
    json!({
        "apiVersion": "heddle.dev/v1alpha1", "kind": "TrafficSplit",
        "metadata": {"name": name, "namespace": namespace_of(ROUTED)},
        "spec": {"service": name, "backends": [{"service": a, "weight": first}, {"service": b, "weight": second}]},
    })
}

/// Lets everybody at [`ROUTED`] by every path, and names one path besides, by which the policy is recognised.
pub fn policy(path: &str) -> Value {
    let name = service_name(ROUTED);
    json!({
        "apiVersion": "heddle.dev/v1alpha1", "kind": "AuthPolicy",
        "metadata": {"name": name, "namespace": namespace_of(ROUTED)},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "rules": [{"to": {"paths": ["/*"]}}, {"to": {"paths": [path]}}],
        },
    })
}

/// A node that reports it is ready.
pub fn node() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": NODE, "labels": {"kubernetes.io/hostname": NODE}},
        "status": {
            "addresses": [{"type": "InternalIP", "address": NODE_IP}],
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": SINCE, "lastHeartbeatTime": SINCE,
                "reason": "KubeletReady", "message": "kubelet is posting ready status"}],
        },
    })
}

/// A namespace in which pods get sidecars.
pub fn namespace_object(number: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": namespace(number), "labels": {"heddle.dev/inject": "enabled"}},
    })
}

/// The service account of a service's pods.
pub fn service_account(service: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": service_name(service), "namespace": namespace_of(service)},
    })
}

/// A service.
pub fn service(service: usize) -> Value {
    let (name, ip) = (service_name(service), cluster_ip(service));
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": namespace_of(service), "labels": {"app": name}},
        "spec": {
            "clusterIP": ip, "clusterIPs": [ip],
            "selector": {"app": name},
            "ports": [{"name": "http", "port": PORT, "targetPort": APP_PORT, "protocol": "TCP", "appProtocol": "http"}],
        },
    })
}

/// The endpoints of a service.
pub fn slice(service: usize, ready: Ready) -> Value {
    let name = service_name(service);
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": slice_name(service), "namespace": namespace_of(service),
            "labels": {
                "app": name,
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                "kubernetes.io/service-name": name,
            },
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": APP_PORT, "protocol": "TCP", "appProtocol": "http"}],
        "endpoints": endpoints(service, ready),
    })
}

/// The name of a service's slice.
pub fn slice_name(service: usize) -> String {
    format!("{}-1", service_name(service))
}

/// The list of a slice.
pub fn endpoints(service: usize, ready: Ready) -> Value {
    let namespace = namespace_of(service);
    (0..PODS)
        .map(|index| {
            let ready = ready.0 >> index & 1 == 1;
            json!({
                "addresses": [pod_ip(service, index)],
                "conditions": {"ready": ready, "serving": ready, "terminating": false},
                "nodeName": NODE,
                "targetRef": {"kind": "Pod", "namespace": namespace, "name": pod_name(service, index)},
            })
        })
        .collect()
}

/// A pod with its sidecar, and without its status, which the API server takes apart.
pub fn pod(service: usize, index: usize) -> Value {
    let name = service_name(service);
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": pod_name(service, index), "namespace": namespace_of(service),
            "labels": {"app": name, "pod-template-hash": HASH},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("{name}-{HASH}"),
                "uid": format!("00000000-0000-0000-0000-{service:012}"), "controller": true, "blockOwnerDeletion": true}],
        },
        "spec": {
            "serviceAccountName": name,
            "nodeName": NODE,
            "containers": [application()],
        },
    });
    inject(&mut pod);
    pod
}

fn application() -> Value {
    json!({
        "name": "app", "image": "registry.example/shop/app:1.2.3",
        "env": [{"name": "LOG_LEVEL", "value": "info"}, {"name": "DATABASE", "value": "postgres://db.shop.svc:5432/app"}],
        "ports": [{"name": "http", "containerPort": APP_PORT, "protocol": "TCP"}],
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
        "readinessProbe": {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 10},
    })
}

/// As large as the webhook's output, and with the same names.
fn inject(pod: &mut Value) {
    let image = "registry.example/heddle/sidecar:0.1.0";
    // A trust bundle of one root has about 700 bytes.
    let bundle = format!(
        "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
        "MIIB".repeat(160)
    );
    let set = |name: &str, value: &str| json!({"name": name, "value": value});
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let security = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "privileged": false,
        "readOnlyRootFilesystem": true, "runAsGroup": 1337, "runAsUser": 1337, "seccompProfile": {"type": "RuntimeDefault"}});
    let init = json!({"name": "heddle-init", "image": image, "args": ["init"], "env": [
        set("HEDDLE_PROXY_UID", "1337"), field("HEDDLE_HOST_IPS", "status.hostIPs"), set("HEDDLE_TCP_PROBE_PORTS", "")],
        "securityContext": {"capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]}, "runAsUser": 0}});
    let probe = json!({"httpGet": {"path": "/healthz/ready", "port": 15021}, "periodSeconds": 5, "timeoutSeconds": 2});
    let proxy = json!({"name": "heddle-proxy", "image": image, "restartPolicy": "Always",
        "env": [
            set("HEDDLE_CONTROL_PLANE", "heddle.heddle-system.svc"), set("HEDDLE_ADS_PORT", "15010"),
            set("HEDDLE_CA_PORT", "15011"), set("HEDDLE_TRUST_BUNDLE", &bundle), set("HEDDLE_TRUST_DOMAIN", "cluster.local"),
            set("HEDDLE_TOKEN_FILE", "/var/run/secrets/heddle.dev/token"), field("POD_NAME", "metadata.name"),
            field("POD_NAMESPACE", "metadata.namespace"), field("POD_SERVICE_ACCOUNT", "spec.serviceAccountName"),
            set("HEDDLE_CONCURRENCY", "2"), set("HEDDLE_LOG_LEVEL", "warning"), set("HEDDLE_DRAIN_SECONDS", "45")],
        "ports": [{"name": "heddle-ready", "containerPort": 15021, "protocol": "TCP"}],
        "startupProbe": probe, "readinessProbe": probe, "securityContext": security,
        "volumeMounts": [{"name": "heddle-token", "mountPath": "/var/run/secrets/heddle.dev", "readOnly": true},
            {"name": "heddle-runtime", "mountPath": "/run/heddle"}]});
    let volumes = json!([
        {"name": "heddle-token", "projected": {"sources": [
            {"serviceAccountToken": {"audience": AUDIENCE, "expirationSeconds": 3600, "path": "token"}}]}},
        {"name": "heddle-runtime", "emptyDir": {"medium": "Memory", "sizeLimit": "16Mi"}}]);
    if let Some(spec) = pod.pointer_mut("/spec").and_then(Value::as_object_mut) {
        spec.insert("initContainers".to_owned(), json!([init, proxy]));
        spec.insert("volumes".to_owned(), volumes);
    }
    if let Some(labels) = pod
        .pointer_mut("/metadata/labels")
        .and_then(Value::as_object_mut)
    {
        labels.insert("heddle.dev/meshed".to_owned(), json!("true"));
    }
}

/// The status of a pod that is ready.
pub fn pod_status(service: usize, index: usize) -> Value {
    let ip = pod_ip(service, index);
    let condition =
        |kind: &str| json!({"type": kind, "status": "True", "lastTransitionTime": SINCE});
    let conditions = ["Initialized", "PodScheduled", "ContainersReady", "Ready"].map(condition);
    let container = |name: &str| {
        json!({"name": name, "ready": true, "started": true, "restartCount": 0,
            "image": "registry.example/image:1.2.3", "imageID": format!("sha256:{}", "0".repeat(64)),
            "containerID": format!("containerd://{}", "0".repeat(64)), "state": {"running": {"startedAt": SINCE}}})
    };
    json!({"status": {
        "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "hostIP": NODE_IP, "hostIPs": [{"ip": NODE_IP}],
        "startTime": SINCE, "qosClass": "Burstable",
        "conditions": conditions,
        "containerStatuses": [container("app")],
    }})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_endpoints_are_ready_as_wanted() {
        for wanted in [Ready::all(), Ready::all_but_one(), Ready::numbered(500)] {
            let slice = slice(7, wanted).to_string();
            assert_eq!(slice.matches("\"ready\":true").count(), wanted.count());
        }
        let states: std::collections::BTreeSet<u16> =
            (0..1022).map(|number| Ready::numbered(number).0).collect();
        assert_eq!(states.len(), 1022);
        assert!(!states.contains(&0) && !states.contains(&Ready::all().0));
    }

    #[test]
    fn a_pod_has_its_sidecar_and_the_size_of_a_real_one() {
        let with = pod(0, 0).to_string();
        assert!(
            with.contains("heddle-proxy") && with.len() > 3_000,
            "{}",
            with.len()
        );
    }
}
