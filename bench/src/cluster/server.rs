//! etcd and kube-apiserver as child processes.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::Api;
use crate::children::{Running, free_addresses, until};
use crate::paths::ClusterParts;

const START: Duration = Duration::from_secs(120);
/// A full mesh has some hundred thousand objects, and their revisions.
const ETCD_QUOTA: u64 = 8 << 30;
/// Pods here name service accounts and carry their sidecars already; the webhook's own cost is not measured.
const NO_ADMISSION: &str = "ServiceAccount,MutatingAdmissionWebhook,ValidatingAdmissionWebhook";

/// How an API server differs from one as Kubernetes sets it up.
#[derive(Debug, Clone, Default)]
pub struct Variant {
    /// Without the feature gate WatchList: lists are read in pages, as from Kubernetes before 1.32.
    pub no_streamed_lists: bool,
    /// The interval of etcd's compaction; 5 minutes if `None`.
    pub compaction: Option<Duration>,
}

/// A running API server; dropped, it ends.
#[derive(Debug)]
pub struct ApiServer {
    // In the order in which they end.
    process: Running,
    etcd: Running,
    /// By which it is started again.
    kube: PathBuf,
    arguments: Vec<String>,
    logs: PathBuf,
    /// The administrator's kubeconfig.
    pub kubeconfig: PathBuf,
    /// `https://host:port`.
    pub url: String,
    /// The same as an address.
    pub address: SocketAddr,
    /// The CA of its certificate, as a file.
    pub ca: PathBuf,
}

impl ApiServer {
    /// Starts both over etcd's data directory, and waits until the API answers.
    ///
    /// # Errors
    /// When one ends, or does not answer in time.
    pub async fn start(
        parts: &ClusterParts,
        data: &Path,
        work: &Path,
        variant: &Variant,
    ) -> Result<Self> {
        let pki = work.join("pki");
        certificates(&parts.certificates, &pki)?;
        let [client, peer, api] = free_addresses("127.0.0.1")?;
        let url = format!("https://{api}");
        let kubeconfig = pki.join("admin.kubeconfig");
        let text = std::fs::read_to_string(&kubeconfig)?;
        std::fs::write(&kubeconfig, text.replace("https://127.0.0.1:6443", &url))?;

        let (client, peer) = (format!("http://{client}"), format!("http://{peer}"));
        let mut etcd = Command::new(&parts.kube);
        etcd.args([
            "etcd",
            "--name=bench",
            "--unsafe-no-fsync",
            "--log-level=warn",
        ])
        .arg(format!("--data-dir={}", data.display()))
        .arg(format!("--listen-client-urls={client}"))
        .arg(format!("--advertise-client-urls={client}"))
        .arg(format!("--listen-peer-urls={peer}"))
        .arg(format!("--initial-advertise-peer-urls={peer}"))
        .arg(format!("--initial-cluster=bench={peer}"))
        .arg(format!("--quota-backend-bytes={ETCD_QUOTA}"));
        let etcd = Running::start("etcd", work, etcd)?;
        let mut arguments = arguments(&pki, &client, api.port());
        arguments.extend(own(variant));
        let process = serve(&parts.kube, &arguments, work)?;
        let mut server = Self {
            process,
            etcd,
            kube: parts.kube.clone(),
            arguments,
            logs: work.to_owned(),
            kubeconfig,
            url,
            address: api,
            ca: pki.join("ca.crt"),
        };
        server.ready().await?;
        Ok(server)
    }

    /// Ends the API server as a crash would, and starts it again at the same address. etcd goes on.
    ///
    /// # Errors
    /// When it does not come back.
    pub async fn restart(&mut self) -> Result<()> {
        self.process.end();
        self.process = serve(&self.kube, &self.arguments, &self.logs)?;
        self.ready().await
    }

    async fn ready(&mut self) -> Result<()> {
        let kubeconfig = &self.kubeconfig;
        let processes = &mut [&mut self.etcd, &mut self.process];
        until("the API server", START, processes, async || {
            let api = Api::connect(kubeconfig).await?;
            api.text("/readyz").await.map(drop)
        })
        .await
    }

    /// Fails when one of the two has ended.
    ///
    /// # Errors
    /// With the end of its log.
    pub fn alive(&mut self) -> Result<()> {
        self.etcd.alive()?;
        self.process.alive()
    }
}

fn serve(kube: &Path, arguments: &[String], logs: &Path) -> Result<Running> {
    let mut command = Command::new(kube);
    command.arg("kube-apiserver").args(arguments);
    Running::start("kube-apiserver", logs, command)
}

fn own(variant: &Variant) -> Vec<String> {
    let mut own = Vec::new();
    if variant.no_streamed_lists {
        own.push("--feature-gates=WatchList=false".to_owned());
    }
    if let Some(every) = variant.compaction {
        own.push(format!("--etcd-compaction-interval={}s", every.as_secs()));
    }
    own
}

fn certificates(script: &Path, pki: &Path) -> Result<()> {
    let made = Command::new("bash")
        .arg(script)
        .arg(pki)
        .args(["bench", "127.0.0.2", "10.96.0.1"])
        .output()
        .with_context(|| script.display().to_string())?;
    if !made.status.success() {
        bail!(
            "{}: {}",
            script.display(),
            String::from_utf8_lossy(&made.stderr)
        );
    }
    Ok(())
}

fn arguments(pki: &Path, etcd: &str, port: u16) -> Vec<String> {
    let file = |name: &str| pki.join(name).display().to_string();
    vec![
        format!("--etcd-servers={etcd}"),
        "--bind-address=127.0.0.1".to_owned(),
        "--advertise-address=127.0.0.2".to_owned(),
        format!("--secure-port={port}"),
        format!("--tls-cert-file={}", file("apiserver.crt")),
        format!("--tls-private-key-file={}", file("apiserver.key")),
        format!("--client-ca-file={}", file("ca.crt")),
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
        format!("--service-account-key-file={}", file("sa.pub")),
        format!("--service-account-signing-key-file={}", file("sa.key")),
        "--authorization-mode=RBAC".to_owned(),
        format!("--disable-admission-plugins={NO_ADMISSION}"),
        "--service-cluster-ip-range=10.96.0.0/12".to_owned(),
    ]
}
