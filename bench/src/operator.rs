//! The control plane's own binary against a real API server.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::children::{Running, until};
use crate::cluster::install::{NAMESPACE, POD};
use crate::http;
use crate::metrics::Metrics;
use crate::sim::Server;
use crate::sim::credentials::Authority;

/// All pods of a large mesh are read before it is ready.
const START: Duration = Duration::from_secs(600);
/// A name in the certificates of all its listeners.
const SERVER_NAME: &str = "localhost";
const ADS: u16 = 15010;
const ISSUING: u16 = 15011;
const METRICS: u16 = 15014;
const HEALTH: u16 = 15021;

/// How to start it, again and again.
#[derive(Debug, Clone)]
pub struct Launch {
    /// The binary.
    pub binary: PathBuf,
    /// The operator's account at the API server.
    pub kubeconfig: PathBuf,
    /// Where its log goes.
    pub logs: PathBuf,
    /// Where it listens; its ports are fixed.
    pub ip: Ipv4Addr,
    /// Its pod, which nothing runs.
    pub pod: String,
    /// Further variables of its environment.
    pub environment: Vec<(&'static str, String)>,
}

impl Launch {
    /// With an address of 127/8 that follows from the process id, so that runs side by side don't meet.
    pub fn new(binary: &Path, kubeconfig: &Path, logs: &Path) -> Self {
        let [_, a, b, c] = std::process::id().to_be_bytes();
        Self {
            binary: binary.to_owned(),
            kubeconfig: kubeconfig.to_owned(),
            logs: logs.to_owned(),
            ip: Ipv4Addr::new(127, 64 + (a ^ b) % 128, c, 1 + b % 200),
            pod: POD.to_owned(),
            environment: Vec::new(),
        }
    }

    /// Another replica, which is another pod.
    pub fn another(&self, pod: &str) -> Self {
        let [a, b, c, d] = self.ip.octets();
        Self {
            // The last octet of the first is 200 at most.
            ip: Ipv4Addr::new(a, b, c, d + 40),
            pod: pod.to_owned(),
            ..self.clone()
        }
    }

    /// Its log.
    pub fn log(&self) -> PathBuf {
        self.logs.join(format!("{}.log", self.pod))
    }

    /// Where it serves proxies.
    pub fn server(&self) -> Server {
        Server {
            address: format!("{}:{ADS}", self.ip),
            server_name: SERVER_NAME.to_owned(),
        }
    }

    /// Where it issues certificates.
    pub fn authority(&self, trust: &str) -> Authority {
        Authority {
            address: format!("{}:{ISSUING}", self.ip),
            server_name: SERVER_NAME.to_owned(),
            trust: trust.to_owned(),
        }
    }

    fn at(&self, port: u16) -> SocketAddr {
        (self.ip, port).into()
    }
}

/// A running control plane; dropped, it ends.
#[derive(Debug)]
pub struct Operator {
    process: Running,
    /// From its start until it was ready.
    pub ready_after: Duration,
}

impl Operator {
    /// Starts it, and waits until it is ready.
    ///
    /// # Errors
    /// When it ends, or is not ready in time.
    pub async fn start(launch: &Launch) -> Result<Self> {
        let mut command = Command::new(&launch.binary);
        command
            .env("KUBECONFIG", &launch.kubeconfig)
            .envs(launch.environment.iter().map(|(name, value)| (name, value)))
            .env("POD_NAME", &launch.pod)
            .env("POD_NAMESPACE", NAMESPACE)
            .env("POD_IP", launch.ip.to_string())
            .env("HEDDLE_SIDECAR_IMAGE", "heddle.dev/sidecar:dev")
            .env("HEDDLE_LISTEN", launch.ip.to_string())
            // All simulated proxies connect from this machine.
            .env("HEDDLE_SHARED_ADDRESS", "true");
        let started = Instant::now();
        let mut process = Running::start(&launch.pod, &launch.logs, command)?;
        let health = launch.at(HEALTH);
        until(
            "the control plane",
            START,
            &mut [&mut process],
            async || {
                let stream = TcpStream::connect(health).await?;
                http::get(stream, "/readyz", &[]).await.map(drop)
            },
        )
        .await?;
        Ok(Self {
            process,
            ready_after: started.elapsed(),
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Fails when it has ended.
    ///
    /// # Errors
    /// With the end of its log.
    pub fn alive(&mut self) -> Result<()> {
        self.process.alive()
    }

    /// Ends it as a crash would.
    pub fn kill(self) {
        self.process.kill();
    }
}

/// Reads the control plane's metrics.
#[derive(Debug, Clone)]
pub struct Scraper {
    address: SocketAddr,
    trust: String,
    token: String,
}

impl Scraper {
    /// By a token of an account that may read the metrics.
    pub fn new(launch: &Launch, trust: &str, token: String) -> Self {
        Self {
            address: launch.at(METRICS),
            trust: trust.to_owned(),
            token,
        }
    }

    /// All of them, now.
    ///
    /// # Errors
    /// When they can't be had.
    pub async fn scrape(&self) -> Result<Metrics> {
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(self.trust.as_bytes()) {
            roots.add(root?)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from(SERVER_NAME)?;
        let tcp = TcpStream::connect(self.address).await?;
        let stream = TlsConnector::from(Arc::new(config))
            .connect(name, tcp)
            .await
            .context("the metrics' TLS")?;
        let bearer = format!("Bearer {}", self.token);
        let text = http::get(stream, "/metrics", &[("authorization", &bearer)]).await?;
        Ok(Metrics::read(&text))
    }
}
