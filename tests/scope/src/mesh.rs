//! The control plane and the directory that it reads.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::apps::App;
use crate::client::Client;
use crate::eventually;
use crate::net::{GATEWAY, Node};
use crate::pod::{Plain, Pod, address};
use crate::process::{Process, binary};
use crate::world::{NAMESPACE, PodSpec, Service, World, port};

/// So much of a log is shown when a test fails.
const LINES: usize = 40;

/// Runs a test with a mesh of its own; when it fails, shows the logs of the processes.
///
/// # Errors
/// Those of the test.
pub fn scope(test: impl AsyncFnOnce(&mut Mesh) -> Result<()>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut mesh = Mesh::start().await?;
        let verdict = test(&mut mesh).await;
        if verdict.is_err() {
            mesh.show_logs();
        }
        verdict
    })
}

/// A mesh: control plane, node, and the objects of the API.
#[derive(Debug)]
pub struct Mesh {
    /// The objects that [`Mesh::write`] passes to the control plane.
    pub world: World,
    /// For the control plane, from its next start on.
    pub environment: Vec<(&'static str, &'static str)>,
    control_plane: Option<Process>,
    markers: usize,
    node: Node,
    directory: TempDir,
}

impl Mesh {
    async fn start() -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("hs-").tempdir()?;
        // The sidecars' user gets through.
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
        let mut mesh = Self {
            world: World::default(),
            environment: Vec::new(),
            control_plane: None,
            markers: 0,
            node: Node::new()?,
            directory,
        };
        fs::create_dir(mesh.path("world"))?;
        // The answer of a request that failed does not have Envoy's reason; the line in the sidecar's log has it.
        let failures = json!({"accessLogs": {"percent": 0, "failures": {"fromStatus": 500}}});
        mesh.world.put("Telemetry", "failures", failures);
        mesh.write()?;
        mesh.start_control_plane().await?;
        Ok(mesh)
    }

    /// Starts the control plane.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start_control_plane(&mut self) -> Result<()> {
        let operator = binary("heddle-operator")?;
        let mut command = self.node.netns.command("setpriv");
        command
            .args(["--pdeathsig", "KILL"])
            .arg(operator)
            .arg("standalone")
            .args(["--dir".as_ref(), self.path("world").as_os_str()])
            .args(["--runtime-dir".as_ref(), self.path("run").as_os_str()])
            .args(["--ads-address", &format!("{GATEWAY}:15010")])
            .args(["--ca-address", &format!("{GATEWAY}:15011")])
            .envs(self.environment.iter().copied());
        self.control_plane = Some(Process::start(&mut command, &self.path("operator.log"))?);
        let ca: SocketAddr = format!("{GATEWAY}:15011").parse()?;
        let client = Client::new(self.node.netns.clone());
        eventually("the control plane listens", async || {
            client.connect(ca).await
        })
        .await?;
        Ok(())
    }

    /// Ends the control plane as a crash would.
    pub fn kill_control_plane(&mut self) {
        self.control_plane = None;
    }

    /// Passes the present objects to the control plane, all of them at once.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self) -> Result<()> {
        let beside = self.path("world.json");
        fs::write(&beside, self.world.documents())?;
        Ok(fs::rename(beside, self.path("world/world.yaml"))?)
    }

    /// Adds a pod with a sidecar; returns once that is ready.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn pod(&mut self, spec: PodSpec) -> Result<Pod> {
        let spec = self.world.pod(spec);
        self.write()?;
        let token = self.path(&format!("run/tokens/{NAMESPACE}_{}", spec.name));
        eventually("the pod's token is there", async || {
            ensure!(token.is_file(), "{} is not there", token.display());
            Ok(())
        })
        .await?;
        let bundle = fs::read_to_string(self.path("run/trust-bundle.pem"))?;
        Pod::start(&self.node, self.directory.path(), &token, &bundle, spec).await
    }

    /// Adds an application without a sidecar.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn plain(&mut self, spec: PodSpec) -> Result<Plain> {
        let spec = self.world.pod(spec);
        self.write()?;
        Plain::start(&self.node, spec)
    }

    /// An application at an address that is not in the API. It ends with the test.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn stranger(&self, ip: IpAddr, name: &str) -> Result<impl Sized + use<>> {
        App::start(&self.node.netns, &[ip], name)
    }

    /// Ends a pod, and has the API forget it.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn delete(&mut self, pod: Pod) -> Result<()> {
        self.world.pods.remove(&pod.spec.name);
        self.write()
    }

    /// A port of a service, by IPv4.
    ///
    /// # Errors
    /// When it has no address.
    pub fn at(&self, service: &str, port: u16) -> Result<SocketAddr> {
        address(&self.service(service)?.ips, port, IpAddr::is_ipv4)
    }

    /// The same by IPv6.
    ///
    /// # Errors
    /// When it has no address.
    pub fn at_v6(&self, service: &str, port: u16) -> Result<SocketAddr> {
        address(&self.service(service)?.ips, port, IpAddr::is_ipv6)
    }

    /// Returns when the control plane has read all that was written, and the client's sidecar is served from it: another
    /// service is there by then, that only the client calls.
    ///
    /// # Errors
    /// When that takes too long.
    pub async fn settled(&mut self, client: &Client) -> Result<()> {
        self.markers += 1;
        let name = format!("marker{}", self.markers);
        let _app = self.plain(PodSpec::plain(&format!("{name}-1")))?;
        self.world.service(Service {
            ports: vec![("http".to_owned(), 80, port::HTTP)],
            ..Service::new(&name)
        });
        self.write()?;
        let to = self.at(&name, 80)?;
        eventually("the sidecar gets what was written", async || {
            client.call(to).await
        })
        .await?;
        self.world.pods.remove(&format!("{name}-1"));
        Ok(())
    }

    /// The statuses of all objects that have one.
    ///
    /// # Errors
    /// When it has said nothing yet.
    pub fn statuses(&self) -> Result<String> {
        Ok(fs::read_to_string(self.path("run/status.yaml"))?)
    }

    /// The states of the sidecars.
    ///
    /// # Errors
    /// When it has said nothing yet.
    pub fn proxies(&self) -> Result<Value> {
        let path = self.path("run/proxies.json");
        Ok(serde_json::from_str(&fs::read_to_string(path)?)?)
    }

    /// A caller outside of the mesh, from an address that is not the node of any pod.
    pub fn outside(&self) -> Client {
        Client::new(self.node.netns.clone())
    }

    /// A caller with the address of the pods' node: its kubelet, or a client that the node masquerades.
    pub fn kubelet(&self) -> Client {
        Client::from_node(self.node.netns.clone())
    }

    fn service(&self, name: &str) -> Result<&Service> {
        self.world
            .services
            .get(name)
            .with_context(|| format!("no service {name}"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn show_logs(&self) {
        for path in fs::read_dir(self.directory.path())
            .into_iter()
            .flatten()
            .flatten()
        {
            let path = path.path();
            if path.extension().is_some_and(|extension| extension == "log") {
                show(&path);
            }
        }
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.show_logs();
        }
    }
}

fn show(log: &Path) {
    let text = fs::read_to_string(log).unwrap_or_default();
    // Envoy begins with a hundred lines about its extensions.
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.contains("envoy::main"))
        .collect();
    let tail = lines.iter().skip(lines.len().saturating_sub(LINES));
    eprintln!("--- {}", log.display());
    tail.for_each(|line| eprintln!("{line}"));
}
