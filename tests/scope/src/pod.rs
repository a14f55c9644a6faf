//! Pods.

use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::apps::App;
use crate::client::Client;
use crate::envoy::Envoy;
use crate::net::{GATEWAY, Node, Wire};
use crate::process::{Process, binary, envoy, run};
use crate::world::{NAMESPACE, PodSpec};

/// The sidecar's user: capture leaves its connections alone.
const PROXY: u32 = 1337;

/// A pod with a sidecar. All of it ends when dropped.
#[derive(Debug)]
pub struct Pod {
    /// As the API shows it, when it was made.
    pub spec: PodSpec,
    /// The client of its application.
    pub client: Client,
    /// Its sidecar.
    pub envoy: Envoy,
    // In the order in which they end.
    _app: App,
    agent: Process,
    _wire: Wire,
}

impl Pod {
    /// Makes the network, captures it, starts the agent, and returns once the sidecar is ready.
    pub(crate) async fn start(
        node: &Node,
        directory: &Path,
        token: &Path,
        bundle: &str,
        spec: PodSpec,
    ) -> Result<Self> {
        let wire = node.attach(&spec.ips)?;
        let home = directory.join(&spec.name);
        std::fs::DirBuilder::new().mode(0o700).create(&home)?;
        let own_token = home.join("token");
        std::fs::copy(token, &own_token)?;
        for path in [&home, &own_token] {
            chown(path, Some(PROXY), Some(PROXY))?;
        }
        let agent = binary("heddle-agent")?;
        run(wire.netns.command(&agent.to_string_lossy()).arg("init"))?;

        let app = App::start(&wire.netns, &[spec.listens], &spec.name)?;
        let mut command = wire.netns.command("setpriv");
        let user = PROXY.to_string();
        command
            // Ends with the thread that runs the test, also if the test fails.
            .args([
                "--reuid",
                &user,
                "--regid",
                &user,
                "--clear-groups",
                "--pdeathsig",
                "KILL",
            ])
            .arg(agent)
            .arg("run")
            .env("HEDDLE_CONTROL_PLANE", GATEWAY)
            .env("HEDDLE_TRUST_BUNDLE", bundle)
            .env("HEDDLE_TRUST_DOMAIN", "cluster.local")
            .env("HEDDLE_TOKEN_FILE", &own_token)
            .env("POD_NAME", &spec.name)
            .env("POD_NAMESPACE", NAMESPACE)
            .env("POD_SERVICE_ACCOUNT", &spec.account)
            .env("HEDDLE_WORKLOAD", &spec.workload)
            .env("HEDDLE_ENVOY", envoy()?)
            .env("HEDDLE_RUNTIME_DIR", &home)
            .env("HEDDLE_DRAIN_SECONDS", "2");
        let mut agent =
            Process::start(&mut command, &directory.join(format!("{}.log", spec.name)))?;
        let client = Client::new(wire.netns.clone());
        ready(&client, &mut agent).await?;
        let envoy = Envoy {
            admin: home.join("admin.sock"),
            pid: child(agent.pid()?)?,
        };
        Ok(Self {
            spec,
            client,
            envoy,
            _app: app,
            agent,
            _wire: wire,
        })
    }

    /// Kills Envoy, and returns the time until its replacement is ready.
    ///
    /// # Errors
    /// When the agent starts no replacement.
    pub async fn kill_envoy(&mut self) -> Result<Duration> {
        let (agent, killed) = (self.agent.pid()?, self.envoy.pid);
        kill(killed, Signal::SIGKILL)?;
        let start = Instant::now();
        let (pid, _) = crate::eventually("another Envoy runs", async || {
            let pid = child(agent)?;
            ensure!(pid != killed, "Envoy {killed} is not replaced");
            Ok(pid)
        })
        .await?;
        self.envoy.pid = pid;
        ready(&self.client, &mut self.agent).await?;
        Ok(start.elapsed())
    }

    /// A port of it, by its own address.
    ///
    /// # Errors
    /// When it has no address.
    pub fn at(&self, port: u16) -> Result<SocketAddr> {
        address(&self.spec.ips, port, IpAddr::is_ipv4)
    }

    /// The same by IPv6.
    ///
    /// # Errors
    /// When it has no such address.
    pub fn at_v6(&self, port: u16) -> Result<SocketAddr> {
        address(&self.spec.ips, port, IpAddr::is_ipv6)
    }
}

async fn ready(client: &Client, agent: &mut Process) -> Result<()> {
    let health: SocketAddr = "127.0.0.1:15021".parse()?;
    crate::eventually("the sidecar is ready", async || {
        let mut http = client.http(health).await?;
        let status = http.send("/healthz/ready", "pod").await?.status();
        ensure!(status == 200, "it says {status}");
        Ok(())
    })
    .await?;
    agent.check()
}

/// The agent's only child.
fn child(agent: Pid) -> Result<Pid> {
    let children = std::fs::read_to_string(format!("/proc/{agent}/task/{agent}/children"))?;
    Ok(Pid::from_raw(children.trim().parse()?))
}

/// An application without a sidecar, at the node. It ends when dropped.
#[derive(Debug)]
pub struct Plain {
    /// As the API shows it, when it was made.
    pub spec: PodSpec,
    _app: App,
}

impl Plain {
    pub(crate) fn start(node: &Node, spec: PodSpec) -> Result<Self> {
        Ok(Self {
            _app: App::start(&node.netns, &spec.ips, &spec.name)?,
            spec,
        })
    }

    /// A port of it, by its own address.
    ///
    /// # Errors
    /// When it has no address.
    pub fn at(&self, port: u16) -> Result<SocketAddr> {
        address(&self.spec.ips, port, IpAddr::is_ipv4)
    }

    /// The same by IPv6.
    ///
    /// # Errors
    /// When it has no such address.
    pub fn at_v6(&self, port: u16) -> Result<SocketAddr> {
        address(&self.spec.ips, port, IpAddr::is_ipv6)
    }
}

pub(crate) fn address(
    ips: &[IpAddr],
    port: u16,
    family: fn(&IpAddr) -> bool,
) -> Result<SocketAddr> {
    let ip = ips
        .iter()
        .find(|ip| family(ip))
        .context("no such address")?;
    Ok(SocketAddr::new(*ip, port))
}
