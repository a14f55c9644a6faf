//! `heddle plan`: the effects of a change before it is made.

pub mod change;
mod permissions;
mod report;
mod routes;
mod sizes;
mod text;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use heddle_crds::{ConditionStatus, DesiredCondition};
use heddle_policy_compiler::{Compiled, Finding, KubeObject, Severity};

use crate::cluster::ClusterArgs;
use crate::flows::{self, Flows, Servers};
use crate::out::{self, Format};
use crate::sources::{Objects, Outcome};
use change::{Named, Touched};
use report::{Condition, Object, Observed, Report};

/// Options of `heddle plan`.
#[derive(Args, Debug)]
pub struct PlanArgs {
    /// Files or folders of the change; `-` is standard input.
    #[arg(
        short = 'f',
        long = "filename",
        value_name = "PATH",
        required_unless_present = "deleted"
    )]
    paths: Vec<PathBuf>,
    /// An object that the change deletes; may be repeated.
    #[arg(long = "delete", value_name = "KIND/NAMESPACE/NAME")]
    deleted: Vec<Named>,
    /// Files or folders with the objects before, in place of the cluster.
    #[arg(short = 'd', long = "dir", value_name = "PATH")]
    before: Vec<PathBuf>,
    /// A file with observed flows, written by `heddle edges -o json`; on a cluster the control plane is asked without it.
    #[arg(long, value_name = "FILE")]
    edges: Option<PathBuf>,
    /// Ask for no flows: judge all callers alike.
    #[arg(long, conflicts_with = "edges")]
    no_edges: bool,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Runs the command; returns whether something gets worse.
///
/// # Errors
/// The objects, the change or the file of flows cannot be read, or an object to delete is not there.
pub async fn run(args: &PlanArgs) -> Result<bool> {
    let before = Objects::from(&args.before, &args.cluster).await?;
    let change = Objects::from_paths(&args.paths)?;
    let (after, touched) = change::apply(&before, &change, &args.deleted)?;
    let (flows, missing) = flows(args).await?;
    let mut notes: Vec<String> = missing.into_iter().collect();
    let gaps = flows.iter().flat_map(gaps);
    notes.extend(gaps.map(|reason| format!("all callers are judged alike: {reason}")));
    let before = before.compile();
    notes.extend(stand_ins(&change, &before));
    let report = report(&before, &after.compile(), &touched, flows, notes);
    let text = || text::render(&report, out::has_colors());
    args.output.print(&report, text)?;
    Ok(report.worse)
}

/// The observed flows, and the reason why there are none. A file that was named must be readable; a control plane may be missing.
async fn flows(args: &PlanArgs) -> Result<(Option<Flows>, Option<String>)> {
    if let Some(path) = &args.edges {
        return Ok((Some(Flows::read(path)?), None));
    }
    if args.no_edges || !args.before.is_empty() {
        return Ok((None, None));
    }
    match flows::observed(&args.cluster).await {
        Ok(flows) => Ok((Some(flows), None)),
        Err(error) => {
            let error = crate::cluster::explain(&error);
            let note = format!("no flows are known, so all callers are judged alike: {error}");
            Ok((None, Some(note)))
        }
    }
}

/// The reasons for which observed flows are not evidence that other callers do not exist.
fn gaps(flows: &Flows) -> Vec<String> {
    let mut reasons = flows.gaps();
    if flows.all.is_empty() {
        reasons.push("no flow was observed".to_owned());
    }
    reasons
}

/// A pod template counts only while none of its pods is known.
fn stand_ins(change: &Objects, before: &Outcome) -> Option<String> {
    let pods = before.world.pods().values();
    let with_pods: BTreeSet<_> = pods.map(|pod| pod.template.workload()).collect();
    let templates = change.all().iter().filter_map(|object| match object {
        KubeObject::Template(template) => Some(&template.metadata),
        _ => None,
    });
    let ignored = templates.filter(|metadata| {
        let namespace = metadata.namespace.as_deref().unwrap_or("default");
        let name = metadata.name.as_deref().unwrap_or_default();
        with_pods.contains(&heddle_policy_compiler::NamespacedName::new(
            namespace, name,
        ))
    });
    let names: Vec<&str> = ignored
        .filter_map(|metadata| metadata.name.as_deref())
        .collect();
    (!names.is_empty()).then(|| {
        let names = names.join(", ");
        format!("the new pod templates of {names} are not in the plan: the workloads have pods, which stay as they are")
    })
}

fn report(
    before: &Outcome,
    after: &Outcome,
    touched: &[Touched],
    flows: Option<Flows>,
    notes: Vec<String>,
) -> Report {
    let is_observed = flows.is_some();
    let flows = flows.unwrap_or_default();
    let servers = Servers::of(&flows, &before.world);
    let permissions = permissions::compare(&before.compiled, &after.compiled, &flows, &servers);
    let (old, new) = (findings(before), findings(after));
    let objects = touched.iter().map(|touched| Object {
        change: touched.verb.as_str(),
        object: touched.object.to_string(),
    });
    let mut report = Report {
        objects: objects.collect(),
        new_findings: new.difference(&old).map(|of| finding(of)).collect(),
        resolved_findings: old.difference(&new).map(|of| finding(of)).collect(),
        conditions: conditions(&before.compiled, &after.compiled),
        denied: permissions.denied,
        allowed: permissions.allowed,
        rerouted: routes::compare(before, after, &flows),
        sidecars: sizes::compare(before, after, &flows),
        flows: is_observed.then_some(Observed {
            window_seconds: flows.window_seconds,
            covered_seconds: flows.observed_seconds(),
            flows: flows.all.len(),
            sufficient: gaps(&flows).is_empty(),
        }),
        notes,
        worse: false,
    };
    report.worse = is_worse(&report);
    report
}

/// With observed flows that are evidence of all callers only they count, else all callers.
fn is_worse(report: &Report) -> bool {
    let all = report.flows.as_ref().is_none_or(|of| !of.sufficient);
    let error = Severity::Error.as_str();
    report.new_findings.iter().any(|of| of.severity == error)
        || report.conditions.iter().any(|of| of.worse)
        || report.denied.iter().any(|of| all || of.is_observed())
        || report
            .rerouted
            .iter()
            .any(|of| of.cut && (all || of.observed_per_second.is_some()))
}

fn findings(outcome: &Outcome) -> BTreeSet<&Finding> {
    outcome.findings.iter().collect()
}

fn finding(of: &Finding) -> report::Finding {
    report::Finding {
        severity: of.severity.as_str(),
        object: of.object.to_string(),
        field: of.field.clone(),
        code: of.code.to_owned(),
        message: of.message.clone(),
        fix: of.fix.clone(),
    }
}

/// The conditions with another status or reason.
fn conditions(before: &Compiled, after: &Compiled) -> Vec<Condition> {
    let (old, new) = (by_object(before), by_object(after));
    let keys: BTreeSet<&(String, &str)> = old.keys().chain(new.keys()).collect();
    let changed = keys.into_iter().filter_map(|key| {
        let (before, after) = (old.get(key), new.get(key));
        let side = |of: Option<&&DesiredCondition>| {
            of.map(|of| format!("{} {}", of.status.as_str(), of.reason))
        };
        let (was, is) = (side(before), side(after));
        if was == is {
            return None;
        }
        let good = |of: &&&DesiredCondition| of.status == ConditionStatus::from(of.kind.positive());
        // The conditions of an object that goes go with it, and a new one has good ones.
        if after.is_none_or(|of| before.is_none() && good(&of)) {
            return None;
        }
        Some(Condition {
            object: key.0.clone(),
            kind: key.1.to_owned(),
            worse: before.is_none_or(|of| good(&of)) && after.is_some_and(|of| !good(&of)),
            before: was,
            after: is,
            message: after.map(|of| of.message.clone()).unwrap_or_default(),
        })
    });
    changed.collect()
}

fn by_object(compiled: &Compiled) -> BTreeMap<(String, &str), &DesiredCondition> {
    let all = compiled.statuses.iter().flat_map(|(object, status)| {
        let of = |condition| ((object.to_string(), kind(condition)), condition);
        status.conditions.iter().map(of)
    });
    all.collect()
}

const fn kind(condition: &DesiredCondition) -> &'static str {
    condition.kind.as_str()
}

/// Its output for a test of all printers.
#[cfg(test)]
pub fn printed(of: &crate::hostile::Hostile) -> String {
    text::render(&report::hostile(&of.text), true)
}
