//! A captured pod's sidecar: the real agent and Envoy, as the sidecar's own user.

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::net::{TcpStream, UnixStream};

use super::net::OUTSIDE_IP;
use crate::children::{Running, until};
use crate::control_plane::ControlPlane;
use crate::http;
use crate::memory;
use crate::mesh::Pod;
use crate::paths::Parts;
use crate::place::Place;

/// The sidecar's user.
const UID: u32 = 1337;
const START: Duration = Duration::from_secs(60);
/// As long as a sidecar keeps the clusters of its first calls at most (10 to 20 s).
const STILL: Duration = Duration::from_secs(20);
/// A sidecar that has not come to rest by then is reported as it is.
const PATIENCE: Duration = Duration::from_secs(150);
const READY: &str = "127.0.0.1:15021";
/// Bytes from the control plane.
const RECEIVED: &str = "cluster.heddle-control-plane.upstream_cx_rx_bytes_total";

/// A running sidecar; dropped, it ends.
#[derive(Debug)]
pub struct Sidecar {
    agent: Running,
    envoy: u32,
    admin: PathBuf,
}

/// The memory that it holds, and the bytes that it was sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Held {
    /// `RssAnon` of Envoy, in MB.
    pub memory: f64,
    /// Bytes from the control plane since its start.
    pub received: u64,
}

impl Sidecar {
    /// Sets up capture and starts the sidecar of a pod, and waits until it is ready.
    ///
    /// # Errors
    /// When it ends, or is not ready in time.
    pub async fn start(
        parts: &Parts,
        control_plane: &ControlPlane,
        place: &Place,
        pod: &Pod,
        work: &Path,
    ) -> Result<Self> {
        let token = control_plane.token_of(pod).await?;
        let runtime = own_directory(work, &pod.name)?;
        let token_file = runtime.join("token");
        std::fs::write(&token_file, token)?;
        std::fs::set_permissions(&token_file, std::fs::Permissions::from_mode(0o600))?;
        chown(&token_file, Some(UID), Some(UID))?;
        let mut command = Command::new(&parts.agent);
        command
            .env("HEDDLE_CONTROL_PLANE", OUTSIDE_IP)
            .env("HEDDLE_ADS_PORT", control_plane.ads.port().to_string())
            .env("HEDDLE_CA_PORT", control_plane.ca.port().to_string())
            .env(
                "HEDDLE_TRUST_BUNDLE",
                std::fs::read_to_string(control_plane.trust_bundle())?,
            )
            .env("HEDDLE_TRUST_DOMAIN", "cluster.local")
            .env("HEDDLE_TOKEN_FILE", &token_file)
            .env("POD_NAMESPACE", &pod.namespace)
            .env("POD_NAME", &pod.name)
            .env("POD_SERVICE_ACCOUNT", &pod.service_account)
            // The deployments of this mesh are called as their service accounts.
            .env("HEDDLE_WORKLOAD", &pod.service_account)
            .env("HEDDLE_ENVOY", &parts.envoy)
            .env("HEDDLE_RUNTIME_DIR", &runtime)
            .env("HEDDLE_CONCURRENCY", "2")
            .env("HEDDLE_LOG_LEVEL", "warning")
            .env("HEDDLE_DRAIN_SECONDS", "0")
            .uid(UID)
            .gid(UID);
        let agent = parts.agent.clone();
        let name = format!("agent-{}", pod.name);
        let mut agent = place.run(|| {
            capture(&agent)?;
            Running::start(&name, work, command)
        })?;
        let ready = async || {
            place
                .wait(|| async {
                    let stream = TcpStream::connect(READY).await?;
                    http::get(stream, "/healthz/ready", &[]).await.map(drop)
                })
                .await
        };
        until("the sidecar", START, &mut [&mut agent], ready).await?;
        Ok(Self {
            envoy: memory::descendant(agent.pid(), "envoy")?,
            admin: runtime.join("admin.sock"),
            agent,
        })
    }

    /// The memory that it holds now.
    ///
    /// # Errors
    /// When it has ended.
    pub async fn held(&mut self) -> Result<Held> {
        self.agent.alive()?;
        let socket = UnixStream::connect(&self.admin)
            .await
            .with_context(|| self.admin.display().to_string())?;
        let stats = http::get(socket, &format!("/stats?filter=^{RECEIVED}$"), &[]).await?;
        let received = stats
            .trim()
            .strip_prefix(RECEIVED)
            .and_then(|rest| rest.strip_prefix(": ")?.parse().ok())
            .with_context(|| format!("Envoy does not count {RECEIVED}"))?;
        let mebibytes = memory::of(self.envoy)?.anonymous;
        Ok(Held {
            memory: mebibytes * 1.048_576,
            received,
        })
    }

    /// The memory that it holds once that no longer changes.
    ///
    /// # Errors
    /// When it has ended.
    pub async fn settled(&mut self) -> Result<Held> {
        let mut still = self.held().await?;
        let (began, mut since) = (Instant::now(), Instant::now());
        while since.elapsed() < STILL && began.elapsed() < PATIENCE {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let now = self.held().await?;
            if (now.memory - still.memory).abs() >= 0.1 || now.received - still.received >= 1000 {
                (still, since) = (now, Instant::now());
            }
        }
        self.held().await
    }
}

/// A directory that only the sidecar's user can enter, as it would find it in a pod.
fn own_directory(work: &Path, name: &str) -> Result<PathBuf> {
    std::fs::set_permissions(work, std::fs::Permissions::from_mode(0o711))?;
    let runtime = work.join(name);
    std::fs::create_dir(&runtime)?;
    chown(&runtime, Some(UID), Some(UID))?;
    Ok(runtime)
}

/// The init container's part.
fn capture(agent: &Path) -> Result<()> {
    let done = Command::new(agent)
        .arg("init")
        .env("HEDDLE_PROXY_UID", UID.to_string())
        .output()
        .with_context(|| agent.display().to_string())?;
    if !done.status.success() {
        bail!(
            "heddle-agent init: {}",
            String::from_utf8_lossy(&done.stderr)
        );
    }
    Ok(())
}
