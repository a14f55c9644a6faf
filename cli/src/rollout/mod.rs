//! `heddle rollout receipt`: how each pod of a workload ended.

mod merge;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use heddle_xds_types::api::Endpoint;

use crate::edges::live::{PlaceArgs, Source};
use crate::findings::plural;
use crate::out::Format;
use crate::replicas;
use crate::table;
use merge::{PodReceipt, Receipts};

/// The namespace of a standalone control plane.
const NAMESPACE: &str = "default";

/// The longest name of a namespace, in characters.
const MAX_NAME: usize = 300;

/// The kinds of workloads, by their names in `kubectl`.
const KINDS: [&str; 11] = [
    "deploy",
    "deployment",
    "deployments",
    "sts",
    "statefulset",
    "statefulsets",
    "ds",
    "daemonset",
    "daemonsets",
    "job",
    "jobs",
];

/// The subject.
#[derive(Subcommand, Debug)]
pub enum RolloutCommand {
    /// How the pods of a workload ended: removal acknowledged by n of n callers, last request, SIGTERM.
    #[command(
        long_about = "Prints the pods of a workload that ended in the last quarter of an hour, or are ending: when they were being deleted, \
                      when no caller had them any more, how many callers acknowledged that and when, when the last request of a caller \
                      began, and when the application was signalled. Every replica is asked and the answers are added up; exits with 1 if \
                      one could not be.\n\n\
                      Takes the rights of `heddle proxy status`: ClusterRole heddle-proxy-reader.",
        after_long_help = "Examples:\n  heddle rollout receipt deploy/cart -n shop\n  heddle rollout receipt -n shop -o json | jq \
                           '.receipts[] | select(.clean | not)'\n  heddle rollout receipt cart -n shop --runtime-dir /tmp/heddle-demo-1/run"
    )]
    Receipt(ReceiptArgs),
}

/// Options of `heddle rollout receipt`.
#[derive(Args, Debug)]
pub struct ReceiptArgs {
    /// The workload, as `deploy/cart`, `sts/db` or the name alone; without it all workloads of the namespace.
    #[arg(value_name = "WORKLOAD")]
    workload: Option<String>,
    /// The namespace; without it that of the context.
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
    #[command(flatten)]
    place: PlaceArgs,
}

/// Runs the command.
///
/// # Errors
/// The argument does not name a workload, the kubeconfig is not usable, or a replica could not be asked.
pub async fn run(command: &RolloutCommand) -> Result<()> {
    let RolloutCommand::Receipt(args) = command;
    let workload = args.workload.as_deref().map(name_of).transpose()?;
    let source = args.place.source();
    let namespace = match (&args.namespace, &source) {
        (Some(namespace), _) => namespace.clone(),
        (None, Source::Cluster(cluster)) => cluster.config().await?.default_namespace,
        (None, Source::Standalone(_)) => NAMESPACE.to_owned(),
    };
    let replicas = source
        .ask(Endpoint::Receipts.path(), "receipts.json")
        .await?;
    let mut receipts = Receipts::of(replicas);
    receipts.keep(&namespace, workload);
    args.output
        .print(&receipts, || text(&receipts, &namespace))?;
    verdict(&receipts)
}

/// The name in `KIND/NAME`.
///
/// # Errors
/// The kind is not one of a workload, or the name is empty or has a `/`.
pub fn name_of(workload: &str) -> Result<&str> {
    let Some((kind, name)) = workload.split_once('/') else {
        return Ok(workload);
    };
    if !KINDS.contains(&kind) || name.is_empty() || name.contains('/') {
        bail!(
            "\"{workload}\" is not a workload; use deploy/NAME, sts/NAME, ds/NAME, job/NAME or NAME"
        );
    }
    Ok(name)
}

const HEAD: [&str; 8] = [
    "WORKLOAD",
    "POD",
    "TERMINATING",
    "REMOVED",
    "ACKNOWLEDGED",
    "LAST REQUEST",
    "SIGTERM",
    "REASON",
];

fn text(receipts: &Receipts, namespace: &str) -> String {
    let pods = &receipts.receipts;
    if pods.is_empty() {
        let time = receipts.covered_seconds;
        let namespace = heddle_acceptor::clean(namespace, MAX_NAME);
        return format!("no pod of {namespace} that matches ended in the last {time} s");
    }
    let rows: Vec<Vec<String>> = pods.iter().map(cells).collect();
    let clean = pods.iter().filter(|pod| pod.clean == Some(true)).count();
    let known = pods.iter().filter(|pod| pod.clean.is_some()).count();
    format!(
        "{}\n{} ended; {clean} of {known} with a report of the agent after every caller had acknowledged, and without a later request",
        table::render(&HEAD, &rows),
        plural(pods.len(), "pod")
    )
}

fn cells(pod: &PodReceipt) -> Vec<String> {
    let after = |at: Option<u64>| at.map_or_else(|| "-".to_owned(), |at| pod.after(at));
    let acknowledged = format!(
        "{}/{} {}",
        pod.acknowledged,
        pod.callers,
        after(pod.acknowledged_ms)
    );
    let mut reason = pod
        .reason
        .map_or_else(|| "-".to_owned(), |reason| reason.to_string());
    if !pod.missing.is_empty() {
        reason.push_str(&format!("; missing: {}", pod.missing.join(", ")));
    }
    vec![
        pod.workload.clone(),
        pod.pod.clone(),
        pod.terminating.clone(),
        after(pod.withdrawn_ms),
        acknowledged,
        after(pod.last_request_ms),
        after(pod.sigterm_ms),
        reason,
    ]
}

fn verdict(receipts: &Receipts) -> Result<()> {
    let unasked = replicas::unasked(&receipts.replicas);
    if unasked.is_empty() {
        return Ok(());
    }
    bail!(
        "this is partial: some replicas could not be asked\n  {}",
        unasked.join("\n  ")
    )
}

/// Its output for a test of all printers.
#[cfg(test)]
pub fn printed(of: &crate::hostile::Hostile) -> String {
    let receipt = heddle_xds_types::rollout::Receipt {
        namespace: of.text.clone(),
        workload: of.text.clone(),
        pod: of.text.clone(),
        uid: Some(of.text.clone()),
        terminating_at: 1,
        services: 1,
        withdrawn_at: None,
        callers: 1,
        acknowledged: 0,
        missing: of.texts(),
        acknowledged_at: None,
        asked_at: None,
        last_request_at: None,
        released_at: None,
        reason: None,
        ended_at: None,
    };
    let report = heddle_xds_types::rollout::ReceiptsReport {
        receipts: vec![receipt],
        ..Default::default()
    };
    let mut receipts = Receipts::of(vec![replicas::Replica {
        name: of.text.clone(),
        answer: Ok(report),
    }]);
    let some = text(&receipts, &of.text);
    receipts.receipts.clear();
    format!("{some}\n{}", text(&receipts, &of.text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_is_named_as_kubectl_names_it() {
        for (text, name) in [
            ("cart", Some("cart")),
            ("deploy/cart", Some("cart")),
            ("deployment/cart", Some("cart")),
            ("sts/db", Some("db")),
            ("pod/cart-1", None),
            ("deploy/", None),
            ("deploy/a/b", None),
        ] {
            assert_eq!(name_of(text).ok(), name, "{text}");
        }
    }
}
