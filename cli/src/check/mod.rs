//! `heddle check`: is the cluster fit for Heddle, and is Heddle fit in the cluster?

mod cluster_side;
mod control_plane;
mod root;
mod workloads;

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;
use kube::Client;

pub use root::strangers;

use crate::cluster::{ClusterArgs, explain, refusal};
use crate::out::say;

/// Options of `heddle check`.
#[derive(Args, Debug)]
pub struct CheckArgs {
    /// Only the requirements of an installation.
    #[arg(long)]
    pre: bool,
    /// The longest wait for a control plane that is starting or being replaced, in seconds.
    #[arg(
        long,
        default_value_t = 60,
        value_name = "SECONDS",
        conflicts_with = "pre"
    )]
    timeout: u64,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// The most bytes of a text in the report.
const MAX_TEXT: usize = 4096;

/// Between two looks at a control plane that is starting.
const POLL: Duration = Duration::from_millis(500);

/// The result of one check.
enum Outcome {
    /// Good; the text gives the observation.
    Ok(String),
    /// Not wrong, but worth a look: the observation and the fix.
    Note(String, String),
    /// Wrong: the fault and the fix.
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
///
/// # Errors
/// The kubeconfig is not usable, or a check failed.
pub async fn run(args: &CheckArgs) -> Result<()> {
    let client = args.cluster.client().await?;
    let mut failures = section("cluster", cluster_side::all(&client).await);
    if !args.pre {
        let timeout = Duration::from_secs(args.timeout);
        failures += section("control plane", settled(&client, timeout).await);
        failures += section("workloads", workloads::all(&client, &args.cluster).await);
    }
    match failures {
        0 => Ok(()),
        1 => bail!("1 check failed"),
        n => bail!("{n} checks failed"),
    }
}

/// The checks of the control plane, made again while one fails and the Deployment is still in progress.
async fn settled(client: &Client, timeout: Duration) -> Vec<Outcome> {
    let started = Instant::now();
    let mut told = false;
    loop {
        let outcomes = control_plane::all(client).await;
        let fails = outcomes.iter().any(|o| matches!(o, Outcome::Fail(..)));
        if !fails || started.elapsed() >= timeout || !control_plane::in_progress(client).await {
            return outcomes;
        }
        if !told {
            crate::out::note!(
                "heddle: the control plane is starting; waiting up to {} s",
                timeout.as_secs()
            );
            told = true;
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Makes all checks once. Returns their output.
pub async fn report(client: &Client, cluster: &ClusterArgs) -> String {
    let sections = [
        ("cluster", cluster_side::all(client).await),
        ("control plane", control_plane::all(client).await),
        ("workloads", workloads::all(client, cluster).await),
    ];
    let lines = sections.into_iter().flat_map(|(title, outcomes)| {
        let lines = outcomes.iter().map(line);
        std::iter::once(title.to_owned()).chain(lines.collect::<Vec<_>>())
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Prints a section; gives the number of failures.
fn section(title: &str, outcomes: Vec<Outcome>) -> usize {
    say!("{title}");
    for outcome in &outcomes {
        say!("{}", line(outcome));
    }
    let fails = |outcome: &&Outcome| matches!(outcome, Outcome::Fail(..));
    outcomes.iter().filter(fails).count()
}

/// A line of the report. Texts of the cluster cannot command the terminal.
fn line(outcome: &Outcome) -> String {
    let clean = |text: &str| heddle_acceptor::clean(text, MAX_TEXT);
    match outcome {
        Outcome::Ok(text) => format!("  ok    {}", clean(text)),
        Outcome::Note(text, fix) => {
            format!("  note  {}\n        fix: {}", clean(text), clean(fix))
        }
        Outcome::Fail(text, fix) => {
            format!("  FAIL  {}\n        fix: {}", clean(text), clean(fix))
        }
    }
}

/// All objects of a namespace's or the cluster's kind, or the meaning of a failed list.
async fn listed(
    client: &Client,
    api_version: &str,
    kind: &str,
    namespace: Option<&str>,
) -> Result<Vec<kube::api::DynamicObject>> {
    crate::cluster::list(client, api_version, kind, namespace).await
}

/// Its output for a test of all printers.
#[cfg(test)]
pub fn printed(of: &crate::hostile::Hostile) -> String {
    let (one, other) = (of.text.clone(), of.text.clone());
    let outcomes = [
        Outcome::Ok(one.clone()),
        Outcome::Note(one.clone(), other.clone()),
        Outcome::Fail(one, other),
    ];
    outcomes.each_ref().map(line).join("\n")
}
