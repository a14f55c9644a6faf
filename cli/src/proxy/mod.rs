//! `heddle proxy`: the configuration that each sidecar runs.

mod merge;
mod show;
pub mod state;

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use heddle_acceptor::clean;
use heddle_xds_types::api::Endpoint;

use crate::cluster::ClusterArgs;
use crate::edges::live::Source;
use crate::findings::plural;
use crate::out::{self, say};
use crate::replicas;
pub use merge::MeshReport;
use merge::Replica;
use state::ProxyState;
pub use state::SyncSummary;

/// The states of proxies at the control plane.
const PROXIES: &str = Endpoint::Proxies.path();

/// The subject.
#[derive(Subcommand, Debug)]
pub enum ProxyCommand {
    /// Every sidecar: whether it is connected, and whether it runs the present configuration.
    #[command(
        long_about = "Asks every replica of the control plane, and prints every sidecar: which replica serves it, whether it runs all \
                      that it should or since when it is behind, what its Envoy rejected and why, and how much it was sent. Exits with 1 \
                      if one of them is not connected, behind, or rejects something, or if a replica could not be asked.\n\n\
                      A replica is asked through the API server (the rights to `get` and `create` `pods/portforward` in heddle-system) with your own \
                      token (the right to `get` /heddle/v1/proxies: ClusterRole heddle-proxy-reader). Where you have none, as with a client \
                      certificate, a token of ServiceAccount heddle-system/heddle-proxy-reader is asked for.",
        after_long_help = "Examples:\n  heddle proxy status\n  heddle proxy status shop/cart-7d9f8-x2x\n  heddle proxy status -n shop cart-7d9f8-x2x\n  heddle proxy status -o json | jq \
                           '.proxies[] | select(.inSync | not)'\n  heddle proxy status --runtime-dir /tmp/heddle-demo-1/run"
    )]
    Status(StatusArgs),
}

/// Options of `heddle proxy status`.
#[derive(Args, Debug)]
pub struct StatusArgs {
    /// Only this one, in full: `namespace/pod`, or the pod's name alone.
    #[arg(value_name = "POD")]
    pod: Option<String>,
    /// The namespace of POD; without POD, only the sidecars of this namespace.
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// The runtime folder of a standalone control plane, in place of the cluster.
    #[arg(long, value_name = "DIR")]
    runtime_dir: Option<PathBuf>,
    /// How to print.
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    output: Output,
    #[command(flatten)]
    cluster: ClusterArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    /// A table, or with POD a list.
    Text,
    /// One document for programs.
    Json,
}

/// Runs the command.
///
/// # Errors
/// The replicas or the file of a standalone control plane cannot be read, a replica could not be asked, a sidecar is not as it should be,
/// or none has the name.
pub async fn run(command: &ProxyCommand) -> Result<()> {
    let ProxyCommand::Status(args) = command;
    let replicas = match &args.runtime_dir {
        Some(folder) => vec![standalone(folder)?],
        None => replicas::ask_all(&args.cluster, PROXIES).await?,
    };
    let mut report = merge::merge(replicas);
    let wanted = args.wanted();
    if let Some(wanted) = &wanted {
        report.keep(wanted);
    }
    match args.output {
        Output::Json => out::json(&show::json(&report)?)?,
        // Without an answer there is no table: the verdict reports it.
        Output::Text if !report.is_answered() => {}
        Output::Text if args.pod.is_some() => say!("{}", show::details(&report, now())),
        Output::Text => say!("{}", show::table(&report, now())),
    }
    verdict(&report, wanted.as_deref())
}

impl StatusArgs {
    /// `namespace/pod`, a pod's name alone, or `namespace/` for all of a namespace.
    fn wanted(&self) -> Option<String> {
        match (&self.namespace, &self.pod) {
            (None, pod) => pod.clone(),
            (Some(namespace), None) => Some(format!("{namespace}/")),
            // A pod named with its namespace is one already; the option must not contradict it.
            (Some(namespace), Some(pod)) => {
                let name = pod.strip_prefix(&format!("{namespace}/")).unwrap_or(pod);
                Some(format!("{namespace}/{name}"))
            }
        }
    }
}

/// The sidecars of a cluster, or of a standalone control plane.
///
/// # Errors
/// The replicas cannot be listed, none is running, or the file of a standalone control plane cannot be read.
pub async fn report(source: &Source) -> Result<MeshReport> {
    let replicas = match source {
        Source::Standalone(folder) => vec![standalone(folder)?],
        Source::Cluster(cluster) => replicas::ask_all(cluster, PROXIES).await?,
    };
    Ok(merge::merge(replicas))
}

/// Returns the table of all sidecars.
pub fn table(report: &MeshReport) -> String {
    show::table(report, now())
}

/// Asks all replicas. Returns the sidecars, and whether every replica answered.
///
/// # Errors
/// The replicas cannot be listed, or none is running.
pub async fn states(cluster: &ClusterArgs) -> Result<(Vec<ProxyState>, bool)> {
    let report = merge::merge(replicas::ask_all(cluster, PROXIES).await?);
    let complete = report.is_complete();
    let states = report.proxies.into_iter().map(|placed| placed.state);
    Ok((states.collect(), complete))
}

/// The only replica there is writes its report into its runtime folder.
fn standalone(folder: &Path) -> Result<Replica> {
    let path = folder.join("proxies.json");
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    let proxies: Vec<ProxyState> = serde_json::from_str(&text)
        .with_context(|| format!("{} cannot be read", path.display()))?;
    Ok(Replica {
        name: "standalone".to_owned(),
        answer: Ok(proxies),
    })
}

/// The fault, if there is one: this is the exit code, and the last line of the output.
fn verdict(report: &MeshReport, wanted: Option<&str>) -> Result<()> {
    let mut wrong = Vec::new();
    match (report.amiss(), wanted) {
        (_, Some(wanted)) if report.proxies.is_empty() && report.is_answered() => {
            let what = match wanted.strip_suffix('/') {
                Some(namespace) => format!("no sidecar of namespace {namespace}"),
                None => format!("no sidecar {wanted}"),
            };
            wrong.push(format!(
                "{what} is known to the control plane; run `heddle proxy status`, which names all"
            ))
        }
        (0, _) => {}
        (1, _) => wrong.push("1 sidecar is not as it should be".to_owned()),
        (n, _) => wrong.push(format!("{n} sidecars are not as they should be")),
    }
    let unasked: Vec<String> = report
        .unasked()
        .map(|(replica, why)| clean(&format!("{replica}: {why}"), 1000))
        .collect();
    if !unasked.is_empty() {
        let what = if report.is_answered() {
            let all = plural(report.replicas.len(), "replica");
            format!(
                "this is partial, for {} of {all} could not be asked",
                unasked.len()
            )
        } else {
            "no replica of the control plane could be asked".to_owned()
        };
        wrong.push(format!("{what}\n  {}", unasked.join("\n  ")));
    }
    if wrong.is_empty() {
        Ok(())
    } else {
        bail!("{}", wrong.join("; "))
    }
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// Its output for a test of all printers.
#[cfg(test)]
pub fn printed(of: &crate::hostile::Hostile) -> String {
    let state = ProxyState {
        proxy: of.text.clone(),
        version: of.text.clone(),
        identity: of.text.clone(),
        rejected: of.texts(),
        connected: true,
        ..ProxyState::default()
    };
    let replica = |answer| Replica {
        name: of.text.clone(),
        answer,
    };
    let report = merge::merge(vec![
        replica(Ok(vec![state])),
        replica(Err(of.text.clone())),
    ]);
    format!("{}\n{}", table(&report), show::details(&report, now()))
}
