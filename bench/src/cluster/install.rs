//! Heddle's own objects in the API server, and the tokens of its callers.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::api::{core, group};
use super::{Api, ApiServer};
use crate::children::until;
use crate::mesh::{Pod, ROUTED, namespace_of, service_name};
use crate::objects::{self, AUDIENCE};
use crate::paths::ClusterParts;

/// The control plane's namespace.
pub const NAMESPACE: &str = "heddle-system";
/// The control plane's pod, which nothing runs.
pub const POD: &str = "heddle-operator-bench";
/// Its other replica's.
pub const OTHER_POD: &str = "heddle-operator-bench-other";
const ESTABLISHED: Duration = Duration::from_secs(60);
/// Longer than any measurement.
const TOKEN_SECONDS: u32 = 24 * 3600;
const GROUP: &str = "heddle.dev/v1alpha1";

/// Applies the manifests of `config/default`, then the objects that the measurement changes.
///
/// # Errors
/// When one is refused.
pub async fn install(parts: &ClusterParts, server: &ApiServer, api: &Api) -> Result<()> {
    kubectl(parts, server)?;
    let mesh = async || {
        let path = format!("/apis/{GROUP}/meshes");
        api.put(&path, "default", &objects::mesh()).await
    };
    // A kind is served some moments after its definition is there.
    until("the kind of meshes", ESTABLISHED, &mut [], mesh).await?;
    until("the kinds", ESTABLISHED, &mut [], async || {
        routed(api).await
    })
    .await?;
    own(api).await
}

/// Puts the split and the policy as they are before any change.
///
/// # Errors
/// When one is refused.
pub async fn routed(api: &Api) -> Result<()> {
    let (namespace, name) = (namespace_of(ROUTED), service_name(ROUTED));
    let path = |plural| group(GROUP, &namespace, plural);
    let split = objects::split([100, 0]);
    api.put(&path("trafficsplits"), &name, &split).await?;
    let policy = objects::policy("/mark-0");
    api.put(&path("authpolicies"), &name, &policy).await
}

/// The control plane's pods, and the account that reads its metrics.
async fn own(api: &Api) -> Result<()> {
    let pod = |name| {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": NAMESPACE,
                "labels": {"app.kubernetes.io/name": "heddle", "app.kubernetes.io/component": "operator"}},
            "spec": {"serviceAccountName": "heddle-operator", "nodeName": objects::NODE,
                "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
                "containers": [{"name": "operator", "image": "heddle.dev/heddle:dev",
                    "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}]},
        })
    };
    for name in [POD, OTHER_POD] {
        api.put(&core(NAMESPACE, "pods"), name, &pod(name)).await?;
    }
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": "heddle-bench", "namespace": NAMESPACE}});
    api.put(
        &core(NAMESPACE, "serviceaccounts"),
        "heddle-bench",
        &account,
    )
    .await?;
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": "heddle-bench"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "heddle-metrics-reader"},
        "subjects": [{"kind": "ServiceAccount", "name": "heddle-bench", "namespace": NAMESPACE}],
    });
    let bindings = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    api.put(bindings, "heddle-bench", &binding).await
}

fn kubectl(parts: &ClusterParts, server: &ApiServer) -> Result<()> {
    let applied = Command::new(&parts.kube)
        .args([
            "kubectl",
            "apply",
            "--server-side",
            "--force-conflicts",
            "-k",
        ])
        .arg(&parts.manifests)
        .env("KUBECONFIG", &server.kubeconfig)
        .output()
        .context("kubectl")?;
    if !applied.status.success() {
        bail!(
            "kubectl apply: {}",
            String::from_utf8_lossy(&applied.stderr)
        );
    }
    Ok(())
}

/// A kubeconfig of the control plane's own service account: its rights are those of the manifests.
///
/// # Errors
/// When there is no token to be had.
pub async fn operator_kubeconfig(server: &ApiServer, api: &Api, work: &Path) -> Result<PathBuf> {
    let token = token(api, NAMESPACE, "heddle-operator", json!({})).await?;
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "bench",
        "clusters": [{"name": "bench", "cluster": {"server": server.url, "certificate-authority": server.ca}}],
        "users": [{"name": "operator", "user": {"token": token}}],
        "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "operator"}}],
    });
    let path = work.join("operator.kubeconfig");
    std::fs::write(&path, config.to_string())?;
    Ok(path)
}

/// A token of an account that may read the control plane's metrics.
///
/// # Errors
/// When there is none to be had.
pub async fn metrics_token(api: &Api) -> Result<String> {
    token(api, NAMESPACE, "heddle-bench", json!({})).await
}

/// The token that a pod's sidecar would find in its volume.
///
/// # Errors
/// When the pod is not there.
pub async fn pod_token(api: &Api, pod: &Pod) -> Result<String> {
    let path = format!("{}/{}", core(&pod.namespace, "pods"), pod.name);
    let object = api.get(&path).await?;
    let uid = object.pointer("/metadata/uid").and_then(Value::as_str);
    let bound = json!({
        "audiences": [AUDIENCE],
        "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": pod.name, "uid": uid.context("a pod has no uid")?},
    });
    token(api, &pod.namespace, &pod.service_account, bound).await
}

async fn token(api: &Api, namespace: &str, account: &str, mut spec: Value) -> Result<String> {
    if let Some(fields) = spec.as_object_mut() {
        fields.insert("expirationSeconds".to_owned(), json!(TOKEN_SECONDS));
    }
    let path = format!("{}/{account}/token", core(namespace, "serviceaccounts"));
    let request =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
    let answer: Value = serde_json::from_str(&api.create(&path, &request).await?)?;
    let token = answer.pointer("/status/token").and_then(Value::as_str);
    Ok(token.context("a TokenRequest without a token")?.to_owned())
}
