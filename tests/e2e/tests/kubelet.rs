//! The requests of the kubelet on a real node, and node ports beside them.
#![allow(missing_docs)]

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use heddle_e2e::{Namespace, eventually};

const PATIENCE: Duration = Duration::from_secs(120);

/// The application as a native sidecar, which listens before the other container starts and its hook is called. The ledger has the ids
/// of the requests that reach the application: the kubelet does not look at the status of a hook.
const HOOKED: &str = "apiVersion: v1
kind: Pod
metadata: {name: hooked, labels: {app: hooked}}
spec:
  initContainers:
  - name: app
    image: heddle.dev/echo:dev
    imagePullPolicy: IfNotPresent
    restartPolicy: Always
    env: [{name: LEDGER, value: /ledger}]
    volumeMounts: [{name: ledger, mountPath: /ledger}]
    ports: [{containerPort: 8080, name: http}]
    startupProbe: {httpGet: {path: /healthz, port: http}, periodSeconds: 1, failureThreshold: 60}
    readinessProbe: {httpGet: {path: /healthz, port: http}, periodSeconds: 1}
  containers:
  - name: hook
    image: heddle.dev/echo:dev
    imagePullPolicy: IfNotPresent
    args: ['-http', ':18080', '-grpc', ':18090', '-tcp', ':18306', '-tls', ':18443']
    lifecycle: {postStart: {httpGet: {path: /started, port: 8080, httpHeaders: [{name: x-e2e-id, value: hook}]}}}
  volumes: [{name: ledger, emptyDir: {}}]
---
apiVersion: v1
kind: Service
metadata: {name: hooked}
spec: {type: NodePort, selector: {app: hooked}, ports: [{name: http, port: 80, targetPort: 8080}]}
";

/// The status of a request from the node itself; empty if the connection ends without an answer.
fn from_node(address: &str, path: &str) -> Result<String> {
    let node = std::env::var("HEDDLE_E2E_NODE");
    let node = node.context("HEDDLE_E2E_NODE must say how to run a command on the node")?;
    let request = format!("GET {path} HTTP/1.1\\r\\nhost: node\\r\\nx-e2e-id: {path}\\r\\n");
    let script = format!(
        "exec 3<>/dev/tcp/{address} && printf '{request}connection: close\\r\\n\\r\\n' >&3 && head -n 1 <&3"
    );
    let mut words = node.split_whitespace();
    let output = Command::new(words.next().unwrap_or("true"))
        .args(words)
        .args(["timeout", "10", "bash", "-c", &script])
        .output()?;
    let line = String::from_utf8_lossy(&output.stdout);
    Ok(line
        .split_whitespace()
        .nth(1)
        .unwrap_or_default()
        .to_owned())
}

/// The node's requests have the same source address as those of the kubelet, so that the declared path passes by a node port, too
/// (docs/limits.md): it shows that the port leads to the pod.
#[test]
fn hooks_pass_under_strict_and_deny_and_node_ports_lead_past_no_policy() -> Result<()> {
    let ns = Namespace::meshed("hooks")?;
    ns.kubectl.apply(
        "{apiVersion: heddle.dev/v1alpha1, kind: AuthPolicy, metadata: {name: none}, spec: {mtls: {mode: Strict}, rules: [{from: {identities: [nowhere/none]}}]}}",
    )?;
    ns.kubectl.apply(HOOKED)?;
    ns.kubectl.wait("condition=Ready", "pod/hooked")?;
    ns.kubectl.wait("condition=Programmed", "authpolicy/none")?;
    let text = |object, path: &str| {
        let path = format!("jsonpath={{{path}}}");
        ns.kubectl.run(&["get", object, "-o", &path])
    };
    let ip = text("pod/hooked", ".status.hostIP")?;
    let port = text("service/hooked", ".spec.ports[0].nodePort")?;
    let address = format!("{ip}/{port}");
    eventually("the probe's path by the node port", PATIENCE, || {
        Ok((from_node(&address, "/healthz")? == "200").then_some(()))
    })?;
    for path in ["/", "/healthz?verbose", "/healthz/", "/admin"] {
        let status = from_node(&address, path)?;
        anyhow::ensure!(["", "403"].contains(&&*status), "{path}: {status}");
    }
    let ids = ns
        .kubectl
        .exec("pod/hooked", "app", &["/echo", "ledger", "/ledger"])?;
    assert!(
        ids.contains("\"ids\":2,"),
        "the hook's and the probe's: {ids}"
    );
    Ok(())
}
