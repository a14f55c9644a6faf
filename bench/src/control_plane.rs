//! The control plane's own binary over a directory of YAML.

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::children::{Running, free_addresses, until};
use crate::mesh::Pod;
use crate::place::Place;

/// A directory of many thousand objects is read before it serves.
const START: Duration = Duration::from_secs(300);

/// A running control plane.
#[derive(Debug)]
pub struct ControlPlane {
    process: Running,
    runtime: PathBuf,
    /// Where ADS is served.
    pub ads: SocketAddr,
    /// Where certificates are issued.
    pub ca: SocketAddr,
}

impl ControlPlane {
    /// Starts it over a directory, and waits until it serves.
    ///
    /// # Errors
    /// When it ends, or does not serve in time.
    pub async fn start(operator: &Path, world: &Path, work: &Path) -> Result<Self> {
        Self::start_at(&Place::here(), "127.0.0.1", operator, world, work).await
    }

    /// The same at an address of another network.
    ///
    /// # Errors
    /// When it ends, or does not serve in time.
    pub async fn start_at(
        place: &Place,
        ip: &str,
        operator: &Path,
        world: &Path,
        work: &Path,
    ) -> Result<Self> {
        let [ads, ca] = place.run(|| free_addresses(ip))?;
        let runtime = work.join("run");
        let mut command = Command::new(operator);
        command
            .arg("standalone")
            .arg("--dir")
            .arg(world)
            .arg("--runtime-dir")
            .arg(&runtime)
            .args([
                "--ads-address",
                &ads.to_string(),
                "--ca-address",
                &ca.to_string(),
            ]);
        let mut process = place.run(|| Running::start("heddle-operator", work, command))?;
        let bundle = runtime.join("trust-bundle.pem");
        until(
            "the control plane",
            START,
            &mut [&mut process],
            async || {
                std::fs::metadata(&bundle).with_context(|| bundle.display().to_string())?;
                place.run(|| {
                    for address in [ads, ca] {
                        TcpStream::connect(address).with_context(|| address.to_string())?;
                    }
                    Ok(())
                })
            },
        )
        .await?;
        Ok(Self {
            process,
            runtime,
            ads,
            ca,
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The process itself.
    pub fn process(&mut self) -> &mut Running {
        &mut self.process
    }

    /// Where the trust bundle is.
    pub fn trust_bundle(&self) -> PathBuf {
        self.runtime.join("trust-bundle.pem")
    }

    /// Where a pod's token is.
    pub fn token(&self, pod: &Pod) -> PathBuf {
        self.runtime
            .join("tokens")
            .join(format!("{}_{}", pod.namespace, pod.name))
    }

    /// Waits until a pod has a token, which is after the first compile.
    ///
    /// # Errors
    /// When it has none in time.
    pub async fn token_of(&self, pod: &Pod) -> Result<String> {
        let path = self.token(pod);
        let read =
            async || std::fs::read_to_string(&path).with_context(|| path.display().to_string());
        until("a token", START, &mut [], read).await
    }
}
