//! The result of the audit, as Markdown, and whether it passes.

use std::fmt::Write as _;

use anyhow::{Result, ensure};

use super::{Findings, Plan, USES};

/// Differences that are printed.
const SHOWN: usize = 10;

/// The table.
pub fn markdown(plan: &Plan, findings: &Findings) -> String {
    let kinds = findings.made.kinds.iter();
    let kinds: Vec<String> = kinds
        .map(|(kind, count)| format!("{kind} {count}"))
        .collect();
    let mut out = format!(
        "### Random changes under audit\n\n\
         {} services of 10 pods, {} proxies that use {USES} services each, seed {}. Changes: {}.\n\n\
         | what | |\n|---|---|\n",
        plan.services,
        findings.proxies,
        plan.seed,
        kinds.join(", ")
    );
    for (what, value) in done(plan, findings).into_iter().chain(found(findings)) {
        // Writing to a String can't fail.
        let _ = writeln!(out, "| {what} | {value} |");
    }
    for difference in findings.compared.differences.iter().take(SHOWN) {
        let _ = writeln!(out, "\n- {difference}");
    }
    out
}

type Row = (&'static str, String);

fn done(plan: &Plan, findings: &Findings) -> [Row; 7] {
    let Findings { made, logged, .. } = findings;
    let rate = made.changes() as f64 / findings.took.as_secs_f64().max(0.001);
    [
        (
            "changes",
            format!("{} by {} writes", made.changes(), made.calls),
        ),
        (
            "changes a second, with all pauses and replacements of the API server",
            format!("{rate:.0}"),
        ),
        (
            "times the control plane was cut off",
            format!(
                "{}, {} connections ended",
                findings.cuts, findings.connections
            ),
        ),
        (
            "replacements of the API server meanwhile",
            plan.replacements.to_string(),
        ),
        ("watches that were told 410 Gone", logged.gone.to_string()),
        (
            "lists that broke off, and were read once more",
            logged.torn.to_string(),
        ),
        (
            "streams of proxies that broke",
            findings.streams.to_string(),
        ),
    ]
}

fn found(findings: &Findings) -> [Row; 5] {
    let Findings {
        seen,
        logged,
        compared,
        ..
    } = findings;
    [
        (
            "audits, and proxies audited in all of them",
            format!("{}, {}", seen.audits, seen.audited),
        ),
        (
            "the auditor's metric, the most it ever said",
            format!("**{}** ({} looks)", seen.worst, seen.looks),
        ),
        (
            "proxies that its log called wrong",
            logged.wrong.to_string(),
        ),
        (
            "endpoints' resources compared without it in the end",
            compared.resources.to_string(),
        ),
        (
            "of these other than the API server's objects say, or lacking",
            format!("**{}**", compared.differences.len()),
        ),
    ]
}

impl Findings {
    /// Whether nothing differed, and all planned failures happened.
    ///
    /// # Errors
    /// When not.
    pub fn verdict(&self, plan: &Plan) -> Result<()> {
        ensure!(
            self.seen.worst == 0.0 && self.logged.wrong == 0,
            "the auditor found differences"
        );
        ensure!(
            self.compared.differences.is_empty(),
            "{} endpoints' resources are not as the API server's objects say",
            self.compared.differences.len()
        );
        ensure!(
            self.compared.resources > 0 && self.seen.audits > 0.0,
            "nothing was compared"
        );
        ensure!(
            plan.replacements == 0 || self.logged.gone > 0,
            "no watch was told 410 Gone: what was to be tried was not"
        );
        Ok(())
    }
}
