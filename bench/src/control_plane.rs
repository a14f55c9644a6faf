//! The control plane's own binary over a directory of YAML.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use heddle_identity::{SpiffeId, TrustDomain};

use crate::children::{Running, free_address, until};
use crate::sim::credentials::Authority;
use crate::sim::{Credentials, Server};
use crate::world::Pod;

const START: Duration = Duration::from_secs(60);
const TRUST_DOMAIN: &str = "cluster.local";
/// What both servers' certificates bear besides the SPIFFE id.
const SERVER_NAME: &str = "localhost";

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
        let (ads, ca) = (free_address("127.0.0.1")?, free_address("127.0.0.1")?);
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
        let mut process = Running::start("heddle-operator", work, command)?;
        let bundle = runtime.join("trust-bundle.pem");
        until(
            "the control plane",
            START,
            &mut [&mut process],
            async || {
                std::fs::metadata(&bundle).with_context(|| bundle.display().to_string())?;
                for address in [ads, ca] {
                    tokio::net::TcpStream::connect(address)
                        .await
                        .with_context(|| address.to_string())?;
                }
                Ok(())
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

    /// The ADS server, for simulated proxies.
    pub fn server(&self) -> Server {
        Server {
            address: self.ads.to_string(),
            server_name: SERVER_NAME.to_owned(),
        }
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

    /// Certificates for a pod: its token, a fresh key, a CSR. Tried again while the CA is busy.
    ///
    /// # Errors
    /// When the CA refuses for good.
    pub async fn enroll(&self, pod: &Pod) -> Result<Credentials> {
        let authority = Authority {
            address: self.ca.to_string(),
            server_name: SERVER_NAME.to_owned(),
            trust: std::fs::read_to_string(self.trust_bundle())?,
        };
        let token = self.token_of(pod).await?;
        let domain: TrustDomain = TRUST_DOMAIN.parse()?;
        let id = SpiffeId::new(domain, &pod.namespace, &pod.service_account)?;
        let what = format!("a certificate for {}", pod.name);
        until(&what, START, &mut [], async || {
            Credentials::enroll(&authority, &id, &token).await
        })
        .await
    }
}
