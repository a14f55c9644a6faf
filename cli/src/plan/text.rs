//! The effects of a change for people: a table for each kind of effect.

use super::report::{Caller, Condition, Permission, Report, Rerouted, Sidecars};
use crate::findings::plural;
use crate::table;

/// So many rows of a table are printed.
const ROWS: usize = 30;
/// So many callers are named.
const NAMED: usize = 3;

const RED: &str = "31";
const GREEN: &str = "32";
const BOLD: &str = "1";

/// Returns the report in words.
pub fn render(report: &Report, colors: bool) -> String {
    let paint = |text: &str, color: &str| match colors {
        true => format!("\u{1b}[{color}m{text}\u{1b}[0m"),
        false => text.to_owned(),
    };
    let mut parts = Vec::new();
    let mut part = |title: &str, color: &str, text: String| {
        if !text.is_empty() {
            parts.push(format!("{}\n{text}", paint(title, color)));
        }
    };
    part("objects", BOLD, objects(report));
    part("new findings", RED, findings(&report.new_findings));
    part(
        "resolved findings",
        GREEN,
        findings(&report.resolved_findings),
    );
    part("conditions", BOLD, conditions(&report.conditions));
    part("denied by the change", RED, permissions(&report.denied));
    part("allowed by the change", GREEN, permissions(&report.allowed));
    part("other ways", BOLD, rerouted(&report.rerouted));
    part("sidecars", BOLD, sidecars(&report.sidecars));
    part("notes", BOLD, notes(&report.notes));
    let color = if report.worse { RED } else { GREEN };
    parts.push(paint(&verdict(report), color));
    parts.join("\n\n")
}

fn objects(report: &Report) -> String {
    let objects = report.objects.iter();
    let rows = objects.map(|of| vec![of.change.to_owned(), of.object.clone()]);
    rows_of(&["CHANGE", "OBJECT"], rows.collect())
}

fn findings(findings: &[super::report::Finding]) -> String {
    let rows = findings.iter().map(|of| {
        let field = if of.field.is_empty() { "-" } else { &of.field };
        let fix = if of.fix.is_empty() {
            String::new()
        } else {
            format!(" (fix: {})", of.fix)
        };
        vec![
            of.severity.to_owned(),
            of.object.clone(),
            field.to_owned(),
            format!("{}{fix}", of.message),
        ]
    });
    rows_of(&["SEVERITY", "OBJECT", "FIELD", "MESSAGE"], rows.collect())
}

fn conditions(conditions: &[Condition]) -> String {
    let side = |side: &Option<String>| side.clone().unwrap_or_else(|| "-".to_owned());
    let rows = conditions.iter().map(|of| {
        vec![
            of.object.clone(),
            of.kind.clone(),
            side(&of.before),
            side(&of.after),
            of.message.clone(),
        ]
    });
    let head = ["OBJECT", "CONDITION", "BEFORE", "AFTER", "MESSAGE"];
    rows_of(&head, rows.collect())
}

fn permissions(permissions: &[Permission]) -> String {
    let rows = permissions.iter().map(|of| {
        let ports = of.ports.iter().map(ToString::to_string);
        let others = of.other_ports.then(|| "others".to_owned());
        let ports: Vec<String> = ports.chain(others).collect();
        vec![
            of.workload.clone(),
            ports.join(", "),
            callers(&of.callers),
            seen(
                of.callers
                    .iter()
                    .filter_map(|caller| caller.observed_per_second),
            ),
            of.request.clone(),
            of.before.clone(),
            of.after.clone(),
        ]
    });
    let head = [
        "SERVER", "PORTS", "CALLERS", "SEEN", "REQUEST", "BEFORE", "AFTER",
    ];
    rows_of(&head, rows.collect())
}

fn callers(callers: &[Caller]) -> String {
    let names = callers
        .iter()
        .map(|caller| match (&*caller.identity, &*caller.workloads) {
            ("", _) => "plain text".to_owned(),
            (_, [only]) => only.clone(),
            (identity, []) => identity.to_owned(),
            (identity, _) => identity
                .rsplit_once("/ns/")
                .map_or(identity, |(_, path)| path)
                .to_owned(),
        });
    let names: Vec<String> = names.collect();
    let more = names.len().saturating_sub(NAMED);
    let first: Vec<String> = names.into_iter().take(NAMED).collect();
    match more {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

fn seen(rates: impl Iterator<Item = f64>) -> String {
    let rates: Vec<f64> = rates.collect();
    match rates.is_empty() {
        true => "-".to_owned(),
        false => format!("{:.1}/s", rates.iter().sum::<f64>()),
    }
}

fn rerouted(rerouted: &[Rerouted]) -> String {
    let rows = rerouted.iter().map(|of| {
        vec![
            format!("{}:{}", of.service, of.port),
            of.caller_namespaces.join(", "),
            seen(of.observed_per_second.into_iter()),
            of.request.clone(),
            of.before.clone(),
            of.after.clone(),
        ]
    });
    let head = ["SERVICE", "FROM", "SEEN", "REQUEST", "BEFORE", "AFTER"];
    rows_of(&head, rows.collect())
}

fn sidecars(sidecars: &Sidecars) -> String {
    if sidecars.changed == 0 {
        return String::new();
    }
    let rows = sidecars.largest.iter().map(|of| {
        vec![
            of.workload.clone(),
            of.sidecars.to_string(),
            of.resources.to_string(),
            of.before.to_string(),
            of.after.to_string(),
        ]
    });
    let head = [
        "WORKLOAD",
        "SIDECARS",
        "RESOURCES",
        "BYTES BEFORE",
        "BYTES AFTER",
    ];
    format!(
        "{}\n{} of {} get another configuration; all: {} bytes before, {} after",
        rows_of(&head, rows.collect()),
        sidecars.changed,
        plural(sidecars.before.max(sidecars.after), "sidecar"),
        sidecars.bytes_before,
        sidecars.bytes_after
    )
}

fn notes(notes: &[String]) -> String {
    let notes = notes.iter().map(|note| heddle_acceptor::clean(note, 1000));
    notes.collect::<Vec<_>>().join("\n")
}

fn rows_of(head: &[&str], rows: Vec<Vec<String>>) -> String {
    table::first(head, rows, ROWS)
}

fn verdict(report: &Report) -> String {
    let by = match &report.flows {
        Some(flows) if flows.sufficient => format!(
            "by {} of the last {} s",
            plural(flows.flows, "observed flow"),
            flows.window_seconds
        ),
        Some(flows) => format!(
            "by all callers, for {} of {} s is too little evidence",
            plural(flows.flows, "observed flow"),
            flows.covered_seconds
        ),
        None => "by all callers, for no flow is known".to_owned(),
    };
    let mut counts = Vec::new();
    let mut count = |n: usize, what: &str| {
        if n > 0 {
            counts.push(format!("{n} {what}"));
        }
    };
    count(report.new_findings.len(), "new findings");
    count(report.denied.len(), "denials");
    count(report.allowed.len(), "permissions");
    count(report.rerouted.len(), "other ways");
    let counts = match counts.is_empty() {
        true => "no effect on calls".to_owned(),
        false => counts.join(", "),
    };
    match report.worse {
        true => format!("result: something gets worse, {by}; {counts}"),
        false => format!("result: nothing gets worse, {by}; {counts}"),
    }
}
