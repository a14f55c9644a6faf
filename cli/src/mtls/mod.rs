//! `heddle mtls`: the way of a namespace to mutual TLS alone.

mod guard;
mod plan;
mod report;
mod strict;
mod target;
mod text;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand};

use crate::cluster::ClusterArgs;
use crate::flows::Flows;
use crate::out::Format;
use crate::sources::Objects;
use plan::Planner;
use report::Verdict;
use strict::MtlsStrictArgs;
use time::OffsetDateTime;

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
    /// Make a namespace, or the mesh, accept mutual TLS alone, unless that cuts off a caller.
    #[command(
        long_about = "Compiles the objects without and with the flip, and judges it by the callers that sidecars have observed in the last \
                      quarter of an hour (`heddle mtls plan`). Refuses it, with the list, if it cuts off a caller in plain text that was seen, \
                      if a workload has reported no call, if the callers were observed for less than a quarter of an hour or not by all \
                      replicas, if no pod of the mesh has a sidecar (--mesh) or no sidecar is connected, if the sidecars are not known, or if one of them has not acknowledged its configuration within --timeout; \
                      after that wait it makes the plan again. A namespace without a sidecar is an error, and so is --mesh in mode Observe, \
                      which would also enforce every policy: set spec.mode to Permissive first. Else writes the \
                      object by server-side apply as field manager `heddle-mtls`: AuthPolicy `zz-mtls-strict` of the namespace, or spec.mode \
                      of the Mesh (--mesh). Then waits until every sidecar that needs it has acknowledged it. Servers accept both until \
                      then. Ports that another AuthPolicy keeps Permissive stay so, and are listed. --force writes it in any case, and names the callers that \
                      it cuts off.\n\n\
                      Exit codes: 0 it is in force (with --dry-run: it would not be refused), 1 an error, or written and not known to be in force \
                      within --timeout (the change stays, and the undo command is printed), 2 refused.\n\n\
                      Takes the rights of `heddle mtls plan` and of `heddle proxy status`, and the right to `patch` authpolicies in the \
                      namespace, or the Mesh.",
        after_long_help = "Examples:\n  heddle mtls strict shop --dry-run\n  heddle mtls strict shop\n  heddle mtls strict --mesh\n  \
                           heddle mtls strict shop --force -o json | jq .reasons"
    )]
    Strict(MtlsStrictArgs),
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

/// Runs a command; returns whether Strict refuses callers or is refused, or nothing is known about them.
///
/// # Errors
/// The objects or the file of flows cannot be read, a replica could not be asked, the namespace has no pods, or a written change is not in
/// force in time.
pub async fn run(command: &MtlsCommand) -> Result<bool> {
    let args = match command {
        MtlsCommand::Plan(args) => args,
        MtlsCommand::Strict(args) => return strict::run(args).await,
    };
    let before = Objects::from(&args.objects, &args.cluster).await?;
    let after = plan::strict_mesh(&before)?.compile().compiled;
    let before = before.compile();
    let flows = Flows::from(args.edges.as_deref(), &args.cluster).await?;
    let callers = flows.callers()?;
    before.require_pods(&args.namespace)?;
    let now = args.edges.is_none().then(OffsetDateTime::now_utc);
    let planner = Planner::new(&before, &after, &flows, callers, now);
    let report = planner.plan(&args.namespace);
    args.output.print(&report, || text::render(&report))?;
    Ok(report.verdict != Verdict::RefusesNobodySeen)
}

/// Its output for a test of all printers.
#[cfg(test)]
pub fn printed(of: &crate::hostile::Hostile) -> String {
    let (flows, outcome) = (of.flows(), &of.outcome);
    let planner = Planner::new(outcome, &outcome.compiled, &flows, &[], None);
    let mut report = planner.plan("shop");
    let text = || of.text.clone();
    report.namespace = text();
    report.open_ports.push(report::OpenPort {
        workload: text(),
        port: None,
        protocol: "http",
        reason: text(),
        stays: false,
    });
    report.callers.push(report::PlainCaller {
        workload: text(),
        service: Some(text()),
        ports: vec![80],
        protocol: text(),
        count: 1,
        first_seconds_ago: None,
        last_seconds_ago: None,
        under_strict: report::Effect::Refused,
    });
    report.without_report = of.texts();
    report.without_sidecar.push(report::Unmeshed {
        workload: text(),
        pods: 1,
        addresses: of.texts(),
    });
    report.notes = of.texts();
    let verdicts = [
        Verdict::RefusesNobodySeen,
        Verdict::NothingSeen,
        Verdict::RefusesCallers,
    ];
    let texts = verdicts.map(|verdict| {
        report.verdict = verdict;
        text::render(&report)
    });
    texts.join("\n")
}
