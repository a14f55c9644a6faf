//! `heddle mtls`: the way of a namespace to mutual TLS alone.

mod plan;
mod report;
mod text;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand};

use crate::cluster::ClusterArgs;
use crate::flows::Flows;
use crate::out::Format;
use crate::sources::Objects;
use report::Verdict;

/// The commands on mutual TLS.
#[derive(Subcommand, Debug)]
pub enum MtlsCommand {
    /// List the callers in plain text of a namespace, and those that the mode Strict would refuse.
    #[command(
        long_about = "Lists the ports of a namespace's workloads that accept plain text, with the object that lets them, and every caller \
                      without a certificate that the workloads' own sidecars have counted in the last quarter of an hour. Ends with a \
                      verdict on the mode Strict of the Mesh. Reports of callers are not believed; probes of the kubelet do not count, for \
                      they are always admitted. Sends and changes nothing.\n\n\
                      Exit codes: 0 every workload has reported calls, and Strict refuses none of them, 1 an error, 2 it would refuse callers, \
                      or a workload has reported no call.\n\n\
                      Takes the rights of `heddle edges` and `heddle analyze`.",
        after_long_help = "Examples:\n  heddle mtls plan shop\n  heddle mtls plan shop -o json | jq '.callers[]'\n  \
                           heddle edges --window 900 -o json > edges.json && heddle mtls plan shop -f manifests/ --edges edges.json"
    )]
    Plan(MtlsPlanArgs),
}

/// Options of `heddle mtls plan`.
#[derive(Args, Debug)]
pub struct MtlsPlanArgs {
    /// The namespace of the workloads that are called.
    namespace: String,
    /// Files or folders with the objects, in place of the cluster; takes --edges.
    #[arg(
        short = 'f',
        long = "filename",
        short_alias = 'd',
        alias = "dir",
        value_name = "PATH",
        requires = "edges"
    )]
    objects: Vec<PathBuf>,
    /// A file with observed flows, written by `heddle edges -o json`; without it, the control plane is asked.
    #[arg(long, value_name = "FILE")]
    edges: Option<PathBuf>,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Runs the command; returns whether Strict would refuse callers, or nothing is known about them.
pub async fn run(command: &MtlsCommand) -> Result<bool> {
    let MtlsCommand::Plan(args) = command;
    let objects = Objects::from(&args.objects, &args.cluster).await?.compile();
    let flows = Flows::from(args.edges.as_deref(), &args.cluster).await?;
    let callers = flows.callers()?;
    objects.require_pods(&args.namespace)?;
    let report = plan::plan(&objects, &flows, callers, &args.namespace);
    args.output.print(&report, || text::render(&report))?;
    Ok(report.verdict != Verdict::RefusesNobodySeen)
}
