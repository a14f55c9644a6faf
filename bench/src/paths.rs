//! Where the parts to measure are.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The binaries, and where they come from.
#[derive(Debug, Clone)]
pub struct Parts {
    /// The repository.
    pub repo: PathBuf,
    /// `heddle-operator`.
    pub operator: PathBuf,
    /// `heddle-agent`.
    pub agent: PathBuf,
    /// Stock Envoy.
    pub envoy: PathBuf,
    /// Whether the binaries were built just now, from the sources in the repository.
    pub built_now: bool,
}

impl Parts {
    /// Of this repository: binaries of a directory, or built now in the profile of this very binary.
    ///
    /// # Errors
    /// When the build fails or Envoy is missing.
    pub fn find(binaries: Option<&Path>) -> Result<Self> {
        let repo = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .context("the crate has no parent")?
            .to_owned();
        let bin = match binaries {
            Some(directory) => directory.to_owned(),
            None => build(&repo)?,
        };
        let built_now = binaries.is_none();
        let envoy = std::env::var_os("HEDDLE_ENVOY")
            .map_or_else(|| repo.join(".cache/envoy/envoy"), PathBuf::from);
        let parts = Self {
            built_now,
            operator: bin.join("heddle-operator"),
            agent: bin.join("heddle-agent"),
            envoy,
            repo,
        };
        for path in [&parts.operator, &parts.agent, &parts.envoy] {
            if !path.is_file() {
                bail!(
                    "there is no {} (Envoy: `make envoy`, or set HEDDLE_ENVOY)",
                    path.display()
                );
            }
        }
        Ok(parts)
    }
}

/// The parts of the real API server.
#[derive(Debug, Clone)]
pub struct ClusterParts {
    /// Kubernetes' and etcd's programs in one binary.
    pub kube: PathBuf,
    /// Makes the certificates.
    pub certificates: PathBuf,
    /// Heddle's own manifests.
    pub manifests: PathBuf,
    /// Where the data of filled meshes is kept.
    pub snapshots: PathBuf,
}

impl ClusterParts {
    /// Of this repository.
    ///
    /// # Errors
    /// When nothing is built yet.
    pub fn find(repo: &Path) -> Result<Self> {
        let cluster = repo.join("tests/e2e/cluster");
        let cache =
            std::env::var_os("HEDDLE_CACHE").map_or_else(|| repo.join(".cache/e2e"), PathBuf::from);
        let kube = cache.join("bin/kube");
        if !kube.is_file() {
            bail!(
                "there is no {}: run {}/build.sh",
                kube.display(),
                cluster.display()
            );
        }
        Ok(Self {
            kube,
            certificates: cluster.join("certs.sh"),
            manifests: repo.join("config/default"),
            snapshots: repo.join(".cache/bench"),
        })
    }
}

fn build(repo: &Path) -> Result<PathBuf> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(repo).args([
        "build",
        "--bins",
        "--package",
        "heddle-operator",
        "--package",
        "heddle-agent",
        "--package",
        "heddle-cli",
    ]);
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    if !cargo.status().context("cargo")?.success() {
        bail!("heddle-operator, heddle-agent and heddle could not be built");
    }
    let here = std::env::current_exe()?;
    Ok(here
        .parent()
        .context("this binary has no directory")?
        .to_owned())
}
