//! Brings the mesh up: control plane, then an agent and an Envoy beside every application.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::apps::Net;
use super::children::Children;
use super::client;
use super::edges::Sidecar;
use super::status::StatusFile;
use super::term::Term;
use super::world::WorkDir;

/// On a busy machine five Envoys take their time.
const READY_TIMEOUT: Duration = Duration::from_secs(40);
const POLL: Duration = Duration::from_millis(30);
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// The host part of each pod's address, its name and service account, as `demo/world/*.yaml` have them.
const PODS: [(&str, &str, u8); 5] = [
    ("frontend-1", "frontend", 11),
    ("batch-1", "batch", 12),
    ("reviews-v1-1", "reviews", 21),
    ("reviews-v2-1", "reviews", 22),
    ("ratings-1", "ratings", 31),
];

/// The programs that the demo starts.
pub struct Binaries {
    operator: PathBuf,
    agent: PathBuf,
    envoy: PathBuf,
}

impl Binaries {
    /// Finds the programs.
    ///
    /// # Errors
    /// The operator, the agent or Envoy is not there; the error has the command that gets it.
    pub fn find(folder: Option<&Path>, envoy: Option<&Path>) -> Result<Self> {
        let own = std::env::current_exe().context("where is this binary?")?;
        let folder = folder
            .or_else(|| own.parent())
            .context("where is this binary?")?;
        let program = |name: &str| {
            let path = folder.join(name);
            if path.is_file() {
                Ok(path)
            } else {
                bail!(
                    "{} is not there; run cargo build --bins, or use --bin-dir",
                    path.display()
                )
            }
        };
        Ok(Self {
            operator: program("heddle-operator")?,
            agent: program("heddle-agent")?,
            envoy: find_envoy(envoy, &own)?,
        })
    }
}

fn find_envoy(given: Option<&Path>, own: &Path) -> Result<PathBuf> {
    if let Some(given) = given {
        return given.canonicalize().with_context(|| {
            format!(
                "{} is not there; run make envoy, or set HEDDLE_ENVOY",
                given.display()
            )
        });
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|folder| folder.join("envoy"));
    // target/debug/heddle: the repository is three steps up.
    let cached = own
        .ancestors()
        .nth(3)
        .map(|repository| repository.join(".cache/envoy/envoy"));
    on_path
        .chain(cached)
        .find(|candidate| candidate.is_file())
        .context("no Envoy found; run make envoy, or set HEDDLE_ENVOY")
}

/// A running mesh.
pub struct Mesh<'a> {
    /// Its processes.
    pub children: &'a mut Children,
    /// Its folder.
    pub dir: &'a WorkDir,
    /// Its addresses.
    pub net: &'a Net,
    /// Its objects' status.
    pub status: StatusFile,
}

impl<'a> Mesh<'a> {
    /// Starts everything and waits until every sidecar is ready.
    ///
    /// # Errors
    /// A program cannot be run or ends, or a file or the readiness of a sidecar does not come in time.
    pub async fn start(
        term: &mut Term,
        children: &'a mut Children,
        dir: &'a WorkDir,
        net: &'a Net,
        binaries: &Binaries,
    ) -> Result<Self> {
        term.step("A mesh on this machine");
        term.note(&format!("objects in {}", dir.world().display()));
        children.start("control-plane", &control_plane(dir, net, binaries))?;
        let status = StatusFile::new(dir.runtime().join("status.yaml"));
        let mut mesh = Mesh {
            children,
            dir,
            net,
            status,
        };
        let bundle = mesh
            .wait_for_file(&dir.runtime().join("trust-bundle.pem"))
            .await?;
        for (pod, account, host) in PODS {
            let token = dir.runtime().join("tokens").join(format!("shop_{pod}"));
            mesh.wait_for_file(&token).await?;
            mesh.children.start(
                pod,
                &agent(&mesh, binaries, (pod, account, host), &token, &bundle)?,
            )?;
        }
        for (pod, _, host) in PODS {
            mesh.wait_ready(pod, host).await?;
        }
        let text = format!(
            "control plane and {} sidecars (stock Envoy) ready after {:.1} s",
            PODS.len(),
            term.elapsed()
        );
        term.expect(true, &text);
        Ok(mesh)
    }

    /// The sidecars with readable metrics.
    pub fn sidecars(&self) -> Vec<Sidecar> {
        PODS.iter()
            .map(|(pod, ..)| Sidecar {
                pod: (*pod).to_owned(),
                metrics: self.dir.sidecar(pod).join("metrics.sock"),
            })
            .collect()
    }

    /// Prints the addresses and files that `--keep` leaves to the user.
    pub fn say_what_to_play_with(&self, term: &mut Term) {
        let net = self.net;
        term.step("It is yours until Ctrl-C");
        term.note(&format!(
            "edit or add objects in {}; their status is in {}",
            self.dir.world().display(),
            self.dir.runtime().join("status.yaml").display()
        ));
        term.block(&format!(
            "vi {}",
            self.dir.world().join("split.yaml").display()
        ));
        term.note("call as frontend, as batch, and without an identity:");
        term.block(&format!(
            "curl http://{}/reviews\ncurl -i http://{}/ratings\ncurl -i http://{}/reviews",
            net.at(51, 9080),
            net.at(53, 8080),
            net.at(21, 9080)
        ));
        term.note("what the sidecars run, and one Envoy's own view:");
        term.block(&format!(
            "heddle proxy status --runtime-dir {}\ncurl --unix-socket {}/admin.sock http://admin/config_dump",
            self.dir.runtime().display(),
            self.dir.sidecar("frontend-1").display()
        ));
        term.note(&format!("logs are in {}", self.dir.logs().display()));
    }

    /// Waits for a file that the control plane writes; gives its text.
    async fn wait_for_file(&mut self, path: &Path) -> Result<String> {
        let started = std::time::Instant::now();
        loop {
            match tokio::fs::read_to_string(path).await {
                Ok(text) if !text.is_empty() => return Ok(text),
                Ok(_) | Err(_) => self.still_coming(started, &path.display().to_string())?,
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn wait_ready(&mut self, pod: &str, host: u8) -> Result<()> {
        let url = format!("http://{}/healthz/ready", self.net.at(host, 15021));
        let (client, started) = (client::fresh(), std::time::Instant::now());
        loop {
            if client::get(&client, &url, "agent", PROBE_TIMEOUT)
                .await
                .is_ok_and(|reply| reply.status == 200)
            {
                return Ok(());
            }
            self.still_coming(started, &format!("readiness of {pod}"))?;
            tokio::time::sleep(POLL).await;
        }
    }

    fn still_coming(&mut self, started: std::time::Instant, what: &str) -> Result<()> {
        self.children.all_alive()?;
        if started.elapsed() > READY_TIMEOUT {
            bail!(
                "{what} did not come in {} s; see {}",
                READY_TIMEOUT.as_secs(),
                self.dir.logs().display()
            );
        }
        Ok(())
    }
}

fn control_plane(dir: &WorkDir, net: &Net, binaries: &Binaries) -> Command {
    let mut command = Command::new(&binaries.operator);
    command
        .arg("standalone")
        .arg("--dir")
        .arg(dir.world())
        .arg("--runtime-dir")
        .arg(dir.runtime())
        .env("HEDDLE_ENVOY", &binaries.envoy);
    command.args([
        "--ads-address",
        &net.at(1, 15010),
        "--ca-address",
        &net.at(1, 15011),
    ]);
    command
}

fn agent(
    mesh: &Mesh<'_>,
    binaries: &Binaries,
    (pod, account, host): (&str, &str, u8),
    token: &Path,
    bundle: &str,
) -> Result<Command> {
    let runtime = mesh.dir.sidecar(pod);
    std::fs::create_dir_all(&runtime)
        .with_context(|| format!("cannot make {}", runtime.display()))?;
    let mut command = Command::new(&binaries.agent);
    command
        .env("HEDDLE_CONTROL_PLANE", mesh.net.ip(1))
        .env("HEDDLE_ADS_PORT", "15010")
        .env("HEDDLE_CA_PORT", "15011")
        .env("HEDDLE_TRUST_BUNDLE", bundle)
        .env("HEDDLE_TRUST_DOMAIN", "cluster.local")
        .env("HEDDLE_TOKEN_FILE", token)
        .env("POD_NAME", pod)
        .env("POD_NAMESPACE", "shop")
        .env("POD_SERVICE_ACCOUNT", account)
        .env("HEDDLE_ENVOY", &binaries.envoy)
        .env("HEDDLE_RUNTIME_DIR", runtime)
        .env("HEDDLE_READY_ADDR", mesh.net.at(host, 15021))
        .env("HEDDLE_CONCURRENCY", "1")
        .env("HEDDLE_DRAIN_SECONDS", "1");
    Ok(command)
}
