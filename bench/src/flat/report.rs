//! The curve as Markdown.

use std::fmt::Write as _;

use super::{Curve, Plan, Stage};
use crate::stats::Sample;

/// Meshes of different size may differ by so many percent.
const SPREAD: f64 = 5.0;

/// The tables; the plot is a file beside the page.
pub fn markdown(plan: &Plan, curve: &Curve, plot: &str) -> String {
    let mut out = format!(
        "### A sidecar's memory, by the size of the mesh\n\n\
         ![Private memory of Envoy by services in the mesh]({plot})\n\n\
         `RssAnon` of the real Envoy of a captured pod (two worker threads), in MB, when it no longer changes, and what its control plane sent it. \
         Services of 10 pods without sidecars; every address is called once, for the first time, by HTTP. \
         The scan tries {} addresses, the mesh's own services first, then addresses that nobody has. {} runs, each with a fresh control plane and \
         fresh sidecars; each row but the second of the services has a sidecar of its own.\n\n",
        plan.scan, plan.memory_runs
    );
    let meshes = curve.meshes();
    let mut head = String::from("| what was called |");
    let mut rule = String::from("|---|");
    for services in &meshes {
        // Writing to a String can't fail.
        let _ = write!(head, " {services} services |");
        rule.push_str("---|");
    }
    let _ = writeln!(
        out,
        "{head} largest above smallest | target | met |\n{rule}---|---|---|"
    );
    for stage in Stage::ALL {
        let cells = row(curve, |services| curve.memory(services, stage), 1);
        if let Some(cells) = cells {
            let _ = writeln!(out, "| {} |{cells}{}", stage.label(), judged(curve, stage));
        }
    }
    let parts: [(&str, Figure<'_>, usize); 4] = [
        (
            "KiB from the control plane",
            &|s, stage| curve.received(s, stage),
            0,
        ),
        (
            "first calls without an answer",
            &|s, stage| curve.failed(s, stage),
            0,
        ),
        (
            "first call, p50, ms",
            &|s, stage| curve.first_calls(s, stage, 0.5),
            1,
        ),
        (
            "first call, p99, ms",
            &|s, stage| curve.first_calls(s, stage, 0.99),
            1,
        ),
    ];
    for (title, figure, decimals) in parts {
        let _ = writeln!(out, "\n{title}:\n\n{head}\n{rule}");
        for stage in Stage::ALL {
            if let Some(cells) = row(curve, |services| figure(services, stage), decimals) {
                let _ = writeln!(out, "| {} |{cells}", stage.label());
            }
        }
    }
    out
}

type Figure<'a> = &'a dyn Fn(usize, Stage) -> Option<Sample>;

/// The cells of a row; none where nothing was measured.
fn row(curve: &Curve, figure: impl Fn(usize) -> Option<Sample>, decimals: usize) -> Option<String> {
    let mut cells = String::new();
    for services in curve.meshes() {
        let _ = write!(cells, " {} |", figure(services)?.spread(decimals));
    }
    (!cells.is_empty()).then_some(cells)
}

fn judged(curve: &Curve, stage: Stage) -> String {
    let spread = curve.spread(stage);
    let spread_text = spread.map_or(String::new(), |spread| format!("{spread:.1} %"));
    let Some(target) = stage.target() else {
        return format!(" {spread_text} | | |");
    };
    let meshes = curve.meshes().into_iter();
    let largest = Sample::new(meshes.filter_map(|s| Some(curve.memory(s, stage)?.median()))).max();
    let met = largest <= target && spread.is_none_or(|spread| spread <= SPREAD);
    let met = if met { "yes" } else { "**no**" };
    format!(" {spread_text} | {target:.0} MB, {SPREAD:.0} % | {met} |")
}

#[cfg(test)]
mod tests {
    use super::super::figures::tests::curve;
    use super::*;

    #[test]
    fn rows_are_judged_by_size_and_spread() {
        let plan = Plan {
            meshes: vec![],
            scan: 10,
            memory_runs: 3,
        };
        let text = markdown(&plan, &curve(), "flat-memory.svg");
        let row = "| 5 services | 18.1 (18.0 to 18.2) | 18.6 (18.5 to 18.7) | 19.0 (18.9 to 19.1) | 5.0 % | 20 MB, 5 % | yes |";
        assert!(text.contains(row), "{text}");
        assert!(text.contains("| 5 services | 7.0 (7.0 to 7.0) |"), "{text}");
        assert!(text.contains("| 5 services | 0 (0 to 0) |"), "{text}");
        assert!(!text.contains("50 services |"), "{text}");
    }
}
