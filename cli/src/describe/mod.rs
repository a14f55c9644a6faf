//! `heddle describe`: all that is in force for a workload, a service or a policy.

pub mod look;
mod policy;
mod service;
mod text;
mod workload;

use std::path::PathBuf;
#[cfg(test)]
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use heddle_policy_compiler::NamespacedName;
use serde_json::Value;

use crate::cluster::ClusterArgs;
use crate::out::Format;
use look::Look;

/// The time between two looks. Each reads all objects.
const WATCH: Duration = Duration::from_secs(10);

/// The subject.
#[derive(Subcommand, Debug)]
pub enum DescribeCommand {
    /// A workload: its ports with protocol and mTLS, policies, callers that may call, limits, sidecars, traffic.
    #[command(
        after_long_help = "Examples:\n  heddle describe workload shop/reviews\n  heddle describe workload shop/reviews -f manifests/ -o json"
    )]
    Workload(DescribeArgs),
    /// A service: its ports, rules with weights in force by precedence, policies, endpoints, traffic.
    #[command(
        after_long_help = "Examples:\n  heddle describe service shop/reviews\n  heddle describe service shop/reviews --watch"
    )]
    Service(DescribeArgs),
    /// A policy, split or route: whether it is in force, its conditions, targets, rules.
    #[command(
        after_long_help = "Examples:\n  heddle describe policy shop/reviews\n  heddle describe policy AuthPolicy/shop/reviews -o yaml"
    )]
    Policy(DescribeArgs),
}

/// Options of `heddle describe`.
#[derive(Args, Debug)]
pub struct DescribeArgs {
    /// The namespace and the name; of a policy KIND/NAMESPACE/NAME, if several kinds have the name.
    #[arg(value_name = "NAMESPACE/NAME")]
    name: String,
    /// Files or folders of YAML in place of the cluster; `-` is standard input.
    #[arg(short = 'f', long = "filename", value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// A file with observed flows, written by `heddle edges -o json`; on a cluster the control plane is asked without it.
    #[arg(long, value_name = "FILE")]
    edges: Option<PathBuf>,
    /// Print again every 10 seconds, until Ctrl-C; JSON in one line each, YAML as several documents.
    #[arg(short, long, conflicts_with = "paths")]
    watch: bool,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// A description in both forms.
struct Described {
    text: String,
    document: Value,
}

/// Runs the command.
///
/// # Errors
/// The objects or the file of flows cannot be read, the name is not `NAMESPACE/NAME`, or the mesh has no such thing.
pub async fn run(command: &DescribeCommand) -> Result<()> {
    let (DescribeCommand::Workload(args)
    | DescribeCommand::Service(args)
    | DescribeCommand::Policy(args)) = command;
    loop {
        let look = Look::read(args).await?;
        let described = match command {
            DescribeCommand::Workload(_) => workload::describe(&look, &name(&args.name)?),
            DescribeCommand::Service(_) => service::describe(&look, &name(&args.name)?),
            DescribeCommand::Policy(_) => policy::describe(&look, &args.name),
        }?;
        let Described { text, document } = described;
        if !args.watch {
            return args.output.print(&document, || text);
        }
        args.output.print_next(&document, || text)?;
        tokio::time::sleep(WATCH).await;
    }
}

/// Describes a subject as `-o json` prints it.
///
/// # Errors
/// It is not known, or the name is not one.
pub fn document(look: &Look, subject: &str, name: &str) -> Result<Value> {
    let described = match subject {
        "workload" => workload::describe(look, &self::name(name)?),
        "service" => service::describe(look, &self::name(name)?),
        "policy" => policy::describe(look, name),
        other => anyhow::bail!("{other:?} is not a subject; use workload, service or policy"),
    };
    Ok(described?.document)
}

fn name(text: &str) -> Result<NamespacedName> {
    let parts = text.split_once('/');
    let parts = parts.filter(|(namespace, name)| {
        !namespace.is_empty() && !name.is_empty() && !name.contains('/')
    });
    let (namespace, name) =
        parts.with_context(|| format!("{text:?} is not a name; write NAMESPACE/NAME"))?;
    Ok(NamespacedName::new(namespace, name))
}

/// Its output for a test of all printers.
#[cfg(test)]
pub fn printed(of: &crate::hostile::Hostile) -> String {
    let mut look = Look::of(crate::sources::Objects::default());
    look.outcome = Arc::new(crate::hostile::Hostile::new(&of.text).outcome);
    look.flows = Some(of.flows());
    look.proxies = Some(vec![crate::proxy::state::ProxyState {
        proxy: "shop/api-0".to_owned(),
        connected: true,
        rejected: of.texts(),
        ..Default::default()
    }]);
    let status = serde_json::json!({"proxies": of.text, "conditions": [{"type": "Programmed", "status": "True", "reason": of.text, "message": of.text}]});
    let objects = look.outcome.compiled.statuses.keys().cloned();
    look.statuses = objects.map(|object| (object, status.clone())).collect();
    look.notes = of.texts();
    let statuses = look.outcome.compiled.statuses.keys();
    let policies = statuses
        .map(|object| policy::describe(&look, &format!("{}/{}", object.namespace, object.name)));
    let workloads: std::collections::BTreeSet<_> = look
        .outcome
        .compiled
        .proxies
        .values()
        .map(heddle_policy_compiler::Proxy::workload)
        .collect();
    let workloads = workloads.iter().map(|name| workload::describe(&look, name));
    let services = look
        .outcome
        .world
        .services()
        .keys()
        .map(|name| service::describe(&look, name));
    let all = policies.chain(workloads).chain(services);
    // A name with slashes of its own is not known, and the error is printed elsewhere.
    all.flatten()
        .map(|described| described.text + "\n")
        .collect()
}
