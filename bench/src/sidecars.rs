//! Two real sidecars (agent and stock Envoy each) and their control plane, without capture: one client, one server.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::children::{Running, until};
use crate::control_plane::ControlPlane;
use crate::load;
use crate::memory;
use crate::mesh::Pod;
use crate::paths::Parts;

const START: Duration = Duration::from_secs(60);
const APPLICATION_PORT: u16 = 8080;
/// The port that declares bytes.
const BYTES_PORT: u16 = 9090;

/// The running mesh.
#[derive(Debug)]
pub struct Sidecars {
    /// The client's agent.
    pub client: Running,
    /// The server's agent.
    pub server: Running,
    /// The control plane of both.
    pub control_plane: ControlPlane,
    /// Where the client's sidecar listens for the service.
    pub entry: SocketAddr,
    /// The same for the port of the service that declares bytes.
    pub bytes: SocketAddr,
}

/// Loopback addresses of one run.
#[derive(Debug, Clone)]
pub struct Addresses {
    net: String,
}

impl Addresses {
    /// A block of 127/8 that follows from the process id, so that runs side by side don't meet.
    pub fn new() -> Self {
        let id = std::process::id();
        Self {
            net: format!("127.{}.{}", 64 + id / 250 % 128, id % 250 + 1),
        }
    }

    /// Where the application listens.
    pub fn application(&self) -> Result<SocketAddr> {
        self.at(131, APPLICATION_PORT)
    }

    /// Where the application listens for bytes.
    pub fn bytes(&self) -> Result<SocketAddr> {
        self.at(131, BYTES_PORT)
    }

    fn at(&self, host: u8, port: u16) -> Result<SocketAddr> {
        Ok(format!("{}.{host}:{port}", self.net).parse()?)
    }
}

impl Default for Addresses {
    fn default() -> Self {
        Self::new()
    }
}

impl Sidecars {
    /// Starts all, and waits until a request passes; then checks that the server takes nothing in plain text.
    ///
    /// # Errors
    /// When a process ends, no request passes in time, or plain text passes.
    pub async fn start(
        parts: &Parts,
        concurrency: u32,
        addresses: &Addresses,
        work: &Path,
    ) -> Result<Self> {
        let dir = work.join("world");
        std::fs::create_dir_all(&dir)?;
        std::fs::write(
            dir.join("world.yaml"),
            WORLD.replace("${NET}", &addresses.net),
        )?;
        let mut control_plane = ControlPlane::start(&parts.operator, &dir, work).await?;
        for account in ["server", "client"] {
            control_plane.token_of(&pod_of(account)).await?;
        }
        let ready = |host| addresses.at(host, 15021);
        let agent =
            |account: &str, ready| agent(parts, &control_plane, concurrency, account, ready, work);
        let (mut server, mut client) = (agent("server", ready(31)?)?, agent("client", ready(11)?)?);
        let entry = addresses.at(51, APPLICATION_PORT)?;
        let processes = &mut [control_plane.process(), &mut server, &mut client];
        until("the sidecars", START, processes, async || {
            load::once(entry, "echo", Duration::from_secs(1)).await
        })
        .await?;
        if load::once(
            addresses.at(31, APPLICATION_PORT)?,
            "echo",
            Duration::from_secs(2),
        )
        .await
        .is_ok()
        {
            bail!(
                "the server's sidecar takes plain text: this would not be mutual TLS that is measured"
            );
        }
        Ok(Self {
            client,
            server,
            control_plane,
            entry,
            bytes: addresses.at(51, BYTES_PORT)?,
        })
    }

    /// The Envoys' process ids: the client's, the server's.
    ///
    /// # Errors
    /// When one is not there.
    pub fn envoys(&self) -> Result<[u32; 2]> {
        Ok([
            memory::descendant(self.client.pid(), "envoy")?,
            memory::descendant(self.server.pid(), "envoy")?,
        ])
    }
}

fn pod_of(account: &str) -> Pod {
    Pod {
        namespace: "bench".to_owned(),
        name: format!("{account}-1"),
        service_account: account.to_owned(),
    }
}

fn agent(
    parts: &Parts,
    control_plane: &ControlPlane,
    concurrency: u32,
    account: &str,
    ready: SocketAddr,
    work: &Path,
) -> Result<Running> {
    let pod = pod_of(account);
    let runtime = work.join(account);
    std::fs::create_dir_all(&runtime)?;
    let mut command = Command::new(&parts.agent);
    command
        .env("HEDDLE_CONTROL_PLANE", control_plane.ads.ip().to_string())
        .env("HEDDLE_ADS_PORT", control_plane.ads.port().to_string())
        .env("HEDDLE_CA_PORT", control_plane.ca.port().to_string())
        .env(
            "HEDDLE_TRUST_BUNDLE",
            std::fs::read_to_string(control_plane.trust_bundle())?,
        )
        .env("HEDDLE_TRUST_DOMAIN", "cluster.local")
        .env("HEDDLE_TOKEN_FILE", control_plane.token(&pod))
        .env("POD_NAMESPACE", &pod.namespace)
        .env("POD_NAME", &pod.name)
        .env("POD_SERVICE_ACCOUNT", &pod.service_account)
        .env("HEDDLE_ENVOY", &parts.envoy)
        .env("HEDDLE_RUNTIME_DIR", &runtime)
        .env("HEDDLE_READY_ADDR", ready.to_string())
        .env("HEDDLE_CONCURRENCY", concurrency.to_string())
        .env("HEDDLE_LOG_LEVEL", "warning")
        .env("HEDDLE_DRAIN_SECONDS", "0");
    Running::start(&format!("agent-{account}"), work, command)
}

const WORLD: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: bench, labels: {heddle.dev/inject: enabled}}
---
apiVersion: heddle.dev/v1alpha1
kind: Mesh
metadata: {name: default}
spec: {trustDomain: cluster.local, mode: Strict, defaultAction: Deny}
---
apiVersion: heddle.dev/v1alpha1
kind: AuthPolicy
metadata: {name: callers, namespace: bench}
spec:
  selector: {matchLabels: {app: server}}
  rules:
    - from: {identities: [bench/client]}
      to: {methods: [GET, POST], ports: [8080]}
    - from: {identities: [bench/client]}
      to: {ports: [9090]}
---
apiVersion: v1
kind: Service
metadata: {name: server, namespace: bench}
spec:
  clusterIP: 10.96.0.1
  clusterIPs: [10.96.0.1]
  selector: {app: server}
  ports:
    - {name: http, port: 8080, targetPort: 8080, appProtocol: http}
    - {name: bytes, port: 9090, targetPort: 9090, appProtocol: tcp}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: server-1, namespace: bench, labels: {kubernetes.io/service-name: server}}
addressType: IPv4
ports:
  - {name: http, port: 8080, protocol: TCP, appProtocol: http}
  - {name: bytes, port: 9090, protocol: TCP, appProtocol: tcp}
endpoints:
  - addresses: ["${NET}.31"]
    conditions: {ready: true, serving: true, terminating: false}
    targetRef: {kind: Pod, namespace: bench, name: server-1}
---
apiVersion: v1
kind: Pod
metadata:
  name: server-1
  namespace: bench
  labels: {app: server, heddle.dev/inject: enabled}
  annotations: {heddle.dev/standalone-app: "${NET}.131"}
spec:
  serviceAccountName: server
  containers: [{name: app, image: app, ports: [{containerPort: 8080}, {containerPort: 9090}]}]
status:
  phase: Running
  podIP: "${NET}.31"
  podIPs: [{ip: "${NET}.31"}]
  conditions: [{type: Ready, status: "True"}]
---
apiVersion: v1
kind: Pod
metadata:
  name: client-1
  namespace: bench
  labels: {app: client, heddle.dev/inject: enabled}
  annotations:
    heddle.dev/standalone-app: "${NET}.111"
    heddle.dev/standalone-upstreams: "bench/server:8080=${NET}.51:8080, bench/server:9090=${NET}.51:9090"
spec:
  serviceAccountName: client
  containers: [{name: app, image: app, ports: [{name: http, containerPort: 8080}]}]
status:
  phase: Running
  podIP: "${NET}.11"
  podIPs: [{ip: "${NET}.11"}]
  conditions: [{type: Ready, status: "True"}]
"#;
