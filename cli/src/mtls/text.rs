//! The plan for people.

use heddle_acceptor::clean;

use super::report::{Effect, Report, Verdict};
use crate::findings::plural;
use crate::table;

/// So many rows of a table are printed.
const ROWS: usize = 30;
/// So many workloads without a sidecar are printed.
const BARE: usize = 10;
/// The longest note, in characters.
const MAX_NOTE: usize = 2000;
/// The longest list of names, in characters.
const MAX_NAMES: usize = 8000;

/// Returns the plan in words.
pub fn render(report: &Report) -> String {
    let mut parts = Vec::new();
    let mut part = |title: &str, text: String| {
        if !text.is_empty() {
            parts.push(format!("{title}\n{text}"));
        }
    };
    part("ports that accept plain text", ports(report));
    let seen = report.seen.as_ref();
    let seen = seen.map_or_else(String::new, |of| format!(", {} to {}", of.from, of.to));
    part(&format!("callers in plain text{seen}"), callers(report));
    let silent = shortened(&report.without_report);
    part("workloads that reported no call", silent);
    part("workloads without a sidecar", bare(report));
    let notes = report.notes.iter().map(|note| clean(note, MAX_NOTE));
    part("notes", notes.collect::<Vec<_>>().join("\n"));
    parts.push(verdict(report));
    parts.join("\n\n")
}

fn ports(report: &Report) -> String {
    let rows = report.open_ports.iter().map(|of| {
        let port = of
            .port
            .map_or_else(|| "others".to_owned(), |port| port.to_string());
        let stays = if of.stays { "yes" } else { "no" };
        vec![
            of.workload.clone(),
            port,
            of.protocol.to_owned(),
            stays.to_owned(),
            of.reason.clone(),
        ]
    });
    let head = ["WORKLOAD", "PORT", "PROTOCOL", "STAYS", "FOR"];
    table::first(&head, rows.collect(), ROWS)
}

fn callers(report: &Report) -> String {
    let rows = report.callers.iter().map(|of| {
        let ports: Vec<String> = of.ports.iter().map(ToString::to_string).collect();
        let ports = match &*ports {
            [] => "-".to_owned(),
            some => some.join(" or "),
        };
        let effect = match of.under_strict {
            Effect::Refused => "refused",
            Effect::Stays => "stays, by an AuthPolicy",
            Effect::RefusedAlready => "refused already",
        };
        vec![
            of.workload.clone(),
            ports,
            of.service.clone().unwrap_or_else(|| "-".to_owned()),
            of.protocol.clone(),
            of.count.to_string(),
            ago(of.first_seconds_ago),
            ago(of.last_seconds_ago),
            effect.to_owned(),
        ]
    });
    let head = [
        "SERVER",
        "PORT",
        "SERVICE",
        "PROTOCOL",
        "COUNT",
        "FIRST",
        "LAST",
        "UNDER STRICT",
    ];
    table::first(&head, rows.collect(), ROWS)
}

/// The first names, and the number of the others.
fn shortened(names: &[String]) -> String {
    let (first, others) = names.split_at(names.len().min(ROWS));
    let first = clean(&first.join(", "), MAX_NAMES);
    match others.len() {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

fn bare(report: &Report) -> String {
    let rows = report.without_sidecar.iter().map(|of| {
        let addresses = of.addresses.join(", ");
        vec![of.workload.clone(), of.pods.to_string(), addresses]
    });
    table::first(&["WORKLOAD", "PODS", "ADDRESSES"], rows.collect(), BARE)
}

/// A time before now.
pub fn ago(seconds: Option<u64>) -> String {
    match seconds {
        None => "-".to_owned(),
        Some(few) if few < 120 => format!("{few} s ago"),
        Some(many) => format!("{} min ago", many / 60),
    }
}

fn verdict(report: &Report) -> String {
    let of = |effect| {
        report
            .callers
            .iter()
            .filter(move |of| of.under_strict == effect)
    };
    let (refused, stay) = (of(Effect::Refused), of(Effect::Stays).count());
    let window = report.covered_seconds;
    let text = match report.verdict {
        Verdict::RefusesNobodySeen if report.open_ports.iter().all(|of| of.stays) => {
            format!("Strict changes nothing here; callers of the last {window} s were looked at")
        }
        Verdict::RefusesNobodySeen => format!("Strict refuses nobody seen in {window} s"),
        Verdict::NothingSeen => format!(
            "not known: {} of {} reported no call in {window} s ({})",
            plural(report.without_report.len(), "workload"),
            report.namespace,
            shortened(&report.without_report)
        ),
        Verdict::RefusesCallers => {
            let mut servers: Vec<&str> = refused.map(|of| &*of.workload).collect();
            servers.dedup();
            format!(
                "Strict would refuse callers in plain text of {} ({})",
                plural(servers.len(), "workload"),
                servers.join(", ")
            )
        }
    };
    let text = clean(&text, MAX_NAMES);
    match stay {
        0 => format!("result: {text}"),
        _ => format!("result: {text}; those of ports that an AuthPolicy keeps open stay"),
    }
}
