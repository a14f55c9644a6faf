//! `heddle check`: is the cluster fit for Heddle, and is Heddle fit in the cluster?

mod cluster_side;
mod control_plane;
mod workloads;

use anyhow::{Result, bail};
use clap::Args;
use kube::Client;

use crate::cluster::{ClusterArgs, explain, refusal};
use crate::out::say;

/// Options of `heddle check`.
#[derive(Args, Debug)]
pub struct CheckArgs {
    /// Only what must hold before an installation.
    #[arg(long)]
    pre: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// What one check found.
enum Outcome {
    /// As it should be; the text says what was seen.
    Ok(String),
    /// Not wrong, but worth a look: what, and what to do.
    Note(String, String),
    /// Wrong: what, and what to do.
    Fail(String, String),
}

impl Outcome {
    /// A check that could not be made is a note if the caller merely lacks rights, a failure else.
    fn of(result: Result<Self>, what: &str) -> Self {
        result.unwrap_or_else(|error| {
            let why = explain(&error);
            match refusal(&error) {
                Some(403) => Self::Note(
                    format!("{what}: not allowed to look ({why})"),
                    "run it with more rights to see this too".to_owned(),
                ),
                _ => Self::Fail(
                    format!("{what}: {why}"),
                    "see whether the API server answers".to_owned(),
                ),
            }
        })
    }
}

/// Runs the command.
pub async fn run(args: &CheckArgs) -> Result<()> {
    let client = args.cluster.client().await?;
    let mut failures = section("cluster", cluster_side::all(&client).await);
    if !args.pre {
        failures += section("control plane", control_plane::all(&client).await);
        failures += section("workloads", workloads::all(&client).await);
    }
    match failures {
        0 => Ok(()),
        1 => bail!("1 check failed"),
        n => bail!("{n} checks failed"),
    }
}

/// Prints a section; gives the number of failures.
fn section(title: &str, outcomes: Vec<Outcome>) -> usize {
    say!("{title}");
    let mut failures = 0;
    for outcome in outcomes {
        match outcome {
            Outcome::Ok(text) => say!("  ok    {text}"),
            Outcome::Note(text, fix) => say!("  note  {text}\n        fix: {fix}"),
            Outcome::Fail(text, fix) => {
                failures += 1;
                say!("  FAIL  {text}\n        fix: {fix}");
            }
        }
    }
    failures
}

/// All objects of a namespace's or the cluster's kind, or what a failed list means.
async fn listed(
    client: &Client,
    api_version: &str,
    kind: &str,
    namespace: Option<&str>,
) -> Result<Vec<kube::api::DynamicObject>> {
    crate::cluster::list(client, api_version, kind, namespace).await
}
