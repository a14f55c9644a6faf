//! `heddle analyze`: the findings about objects, and their conditions.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, ValueEnum};
use heddle_crds::{ConditionStatus, DesiredCondition};
use heddle_policy_compiler::{Compiled, Finding, ObjectRef};
use serde_json::{Value, json};

use crate::cluster::ClusterArgs;
use crate::findings;
use crate::out::{self, say};
use crate::sources::{Objects, Outcome};
use crate::table;

/// Options of `heddle analyze`.
#[derive(Args, Debug)]
pub struct AnalyzeArgs {
    /// Files or folders of YAML in place of the cluster; `-` is standard input.
    #[arg(short = 'f', long = "filename", value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Show the conditions that are as they should be, too.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people: findings on standard error, conditions as a table.
    Text,
    /// For programs: one JSON document on standard output.
    Json,
}

/// Runs the command; gives the number of errors.
///
/// # Errors
/// A path cannot be read, or the API server does not answer.
pub async fn run(args: &AnalyzeArgs) -> Result<usize> {
    let objects = Objects::from(&args.paths, &args.cluster).await?;
    let Outcome {
        compiled,
        findings: found,
        skipped,
        ..
    } = objects.compile();
    match args.output {
        Output::Text => {
            findings::report(&found);
            if let Some(text) = conditions(&compiled, args.all) {
                say!("{text}\n");
            }
            let (objects, sidecars) = (compiled.statuses.len(), compiled.proxies.len());
            let (objects, sidecars) = (
                findings::plural(objects, "policy object"),
                findings::plural(sidecars, "sidecar"),
            );
            say!("{objects}, {sidecars}: {}", findings::summary(&found));
            if let Some(skipped) = findings::skipped(&skipped) {
                say!("{skipped}");
            }
        }
        Output::Json => out::json(&as_json(&compiled, &found))?,
    }
    Ok(findings::errors(&found))
}

/// Returns the findings and the conditions that are not as they should be, in words.
pub fn text(outcome: &Outcome) -> String {
    let findings = outcome.findings.iter().map(findings::line);
    let conditions = conditions(&outcome.compiled, false);
    let all = findings.chain(conditions);
    all.collect::<Vec<_>>().join("\n")
}

/// The conditions as a table, and how many good ones the table leaves out. `None` if there is no condition at all.
fn conditions(compiled: &Compiled, all: bool) -> Option<String> {
    let conditions = compiled.statuses.iter().flat_map(|(object, status)| {
        let conditions = status.conditions.iter();
        conditions.map(move |condition| (object, condition))
    });
    let (shown, good): (Vec<_>, Vec<_>) =
        conditions.partition(|(_, condition)| all || !is_good(condition));
    let rows: Vec<Vec<String>> = shown
        .into_iter()
        .map(|(object, condition)| row(object, condition))
        .collect();
    let mut parts = Vec::new();
    if !rows.is_empty() {
        let head = ["OBJECT", "CONDITION", "STATUS", "REASON", "MESSAGE"];
        parts.push(table::render(&head, &rows));
    }
    match good.len() {
        0 => {}
        1 => parts.push("1 condition is as it should be (--all shows it)".to_owned()),
        n => parts.push(format!(
            "{n} conditions are as they should be (--all shows them)"
        )),
    }
    (!parts.is_empty()).then(|| parts.join("\n\n"))
}

fn is_good(condition: &DesiredCondition) -> bool {
    condition.status == ConditionStatus::from(condition.kind.positive())
}

fn row(object: &ObjectRef, condition: &DesiredCondition) -> Vec<String> {
    vec![
        object.to_string(),
        condition.kind.as_str().to_owned(),
        condition.status.as_str().to_owned(),
        condition.reason.clone(),
        condition.message.clone(),
    ]
}

fn as_json(compiled: &Compiled, found: &[Finding]) -> Value {
    let findings: Vec<Value> = found
        .iter()
        .map(|finding| {
            json!({
                "severity": finding.severity.as_str(), "object": finding.object.to_string(), "field": finding.field,
                "code": finding.code, "message": finding.message, "fix": finding.fix,
            })
        })
        .collect();
    let objects: Vec<Value> = compiled
        .statuses
        .iter()
        .map(|(object, status)| {
            let conditions = status.conditions.iter().map(|c| {
                json!({"type": c.kind.as_str(), "status": c.status.as_str(), "reason": c.reason, "message": c.message})
            });
            json!({"object": object.to_string(), "conditions": conditions.collect::<Vec<_>>()})
        })
        .collect();
    json!({"findings": findings, "objects": objects})
}

/// Its output for a test of all printers.
#[cfg(test)]
pub fn printed(of: &crate::hostile::Hostile) -> String {
    let skipped = findings::skipped(&of.outcome.skipped);
    let all = conditions(&of.outcome.compiled, true);
    let parts = [Some(text(&of.outcome)), skipped, all];
    parts.into_iter().flatten().collect::<Vec<_>>().join("\n")
}
