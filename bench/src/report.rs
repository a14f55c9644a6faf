//! The figures as Markdown, put between two markers of a page whose other text is written by hand.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};

use crate::latency::{self, Round};
use crate::memory::Memory;
use crate::propagation::{self, Run};
use crate::stats::Sample;

const BEGIN: &str = "<!-- begin: written by `cargo xtask bench` -->";
const END: &str = "<!-- end -->";

/// Load average up to which the machine counts as idle.
const IDLE: f64 = 0.5;

type RoundsOf = fn(&Run) -> &propagation::Rounds;
type TurnOf = fn(&Round) -> latency::Turn;

/// All that one run of the bench has to say.
#[derive(Debug)]
pub struct Report {
    /// Under what conditions.
    pub conditions: Vec<(&'static str, String)>,
    /// Load averages: before, after.
    pub load: [String; 2],
    /// Seconds for the fixed piece of work: before, after.
    pub work: [Sample; 2],
    /// Changes.
    pub propagation: Option<(propagation::Plan, Vec<propagation::Figures>)>,
    /// Requests.
    pub latency: Option<(latency::Plan, latency::Figures)>,
}

impl Report {
    /// The Markdown.
    pub fn markdown(&self) -> String {
        let mut out = String::from("### Conditions\n\n");
        for (name, what) in &self.conditions {
            line(&mut out, &format!("- {name}: {what}"));
        }
        let [before, after] = &self.load;
        line(
            &mut out,
            &format!("- load average (1, 5, 15 min): {before} before, {after} after"),
        );
        out.push_str(&busy(before));
        let [before, after] = &self.work;
        let work = format!("{} before, {} after", before.spread(2), after.spread(2));
        line(
            &mut out,
            &format!("- fixed work, SHA-256 over 1 GiB on one core, s: {work}"),
        );
        line(
            &mut out,
            "- every figure of several runs is `median (min to max)`",
        );
        if let Some((plan, figures)) = &self.propagation {
            out.push_str(&changes(plan, figures));
        }
        if let Some((plan, figures)) = &self.latency {
            out.push_str(&requests(plan, figures));
            out.push_str(&processes(figures));
        }
        out
    }

    /// Puts it into the page.
    ///
    /// # Errors
    /// When the page has no markers.
    pub fn write(&self, page: &Path) -> Result<()> {
        let text = std::fs::read_to_string(page).with_context(|| page.display().to_string())?;
        std::fs::write(page, between(&text, &self.markdown())?)?;
        Ok(())
    }
}

fn between(page: &str, text: &str) -> Result<String> {
    let (head, rest) = page
        .split_once(BEGIN)
        .with_context(|| format!("the page has no `{BEGIN}`"))?;
    let (_, tail) = rest
        .split_once(END)
        .with_context(|| format!("the page has no `{END}`"))?;
    Ok(format!("{head}{BEGIN}\n\n{}\n\n{END}{tail}", text.trim()))
}

/// A busy machine is said to have been one: what others did is in the figures.
fn busy(load: &str) -> String {
    let last_minute = load
        .split(' ')
        .next()
        .and_then(|word| word.parse::<f64>().ok());
    match last_minute {
        Some(load) if load <= IDLE => String::new(),
        _ => "- **the machine was not idle when the run began: 99th percentiles, and differences and ratios of them, are not to be relied on**\n"
            .to_owned(),
    }
}

fn line(out: &mut String, text: &str) {
    // Writing to a String can't fail.
    let _ = writeln!(out, "{text}");
}

fn changes(plan: &propagation::Plan, all: &[propagation::Figures]) -> String {
    let mut out = format!(
        "\n### From a change to the last ACK\n\n\
         {} services of 10 endpoints; every proxy holds all of them, by on-demand names. {} runs with a fresh control plane, {} changes of \
         each kind in each. Times in ms from the rename of the YAML file; the directory source looks every {} ms, \
         and what passes until it looks is in the figures: the changes fall evenly over that time.\n\n",
        plan.services,
        plan.runs,
        plan.rounds,
        plan.poll.as_millis()
    );
    line(
        &mut out,
        "| proxies | change | last ACK p50 | last ACK p99 | any ACK p50 | any ACK p99 | control plane CPU ms per change | bytes per proxy and change |",
    );
    line(&mut out, "|---|---|---|---|---|---|---|---|");
    for figures in all {
        let kinds: [(&str, RoundsOf); 2] = [
            ("endpoint", |run| &run.endpoints),
            ("split", |run| &run.split),
        ];
        for (kind, of) in kinds {
            let over = |figure: &dyn Fn(&propagation::Rounds) -> f64, decimals| {
                Sample::new(figures.runs.iter().map(|run| figure(of(run)))).spread(decimals)
            };
            line(
                &mut out,
                &format!(
                    "| {} | {kind} | {} | {} | {} | {} | {} | {} |",
                    figures.proxies,
                    over(&|r| r.last.median(), 0),
                    over(&|r| r.last.quantile(0.99), 0),
                    over(&|r| r.all.median(), 0),
                    over(&|r| r.all.quantile(0.99), 0),
                    over(&|r| r.cpu, 1),
                    over(&|r| r.bytes as f64, 0),
                ),
            );
        }
    }
    out.push_str(&synchronisation(all));
    out
}

fn synchronisation(all: &[propagation::Figures]) -> String {
    let mut out = String::from(
        "\nFirst synchronisation (all proxies connect at once), and the control plane's memory, MiB of `RssAnon`:\n\n\
         | proxies | all synchronised, s | resources per proxy | KiB per proxy | memory when synchronised | memory after all changes |\n\
         |---|---|---|---|---|---|\n",
    );
    for figures in all {
        let over = |figure: &dyn Fn(&Run) -> f64, decimals| {
            Sample::new(figures.runs.iter().map(figure)).spread(decimals)
        };
        line(
            &mut out,
            &format!(
                "| {} | {} | {} | {} | {} | {} |",
                figures.proxies,
                over(&|run| run.sync.took.as_secs_f64(), 2),
                over(&|run| run.sync.resources as f64, 0),
                over(&|run| run.sync.bytes as f64 / 1024.0, 0),
                over(&|run| run.synced.anonymous, 1),
                over(&|run| run.after.anonymous, 1),
            ),
        );
    }
    out
}

fn requests(plan: &latency::Plan, figures: &latency::Figures) -> String {
    let mut out = format!(
        "\n### What two sidecars add\n\n\
         HTTP/1.1 over {} kept connections, {} requests a second, open loop, times in µs from when each request should have gone out \
         (in brackets after the ratios: from when it went out). {} rounds of {} requests each way, by turns. All Envoys with {} worker threads. \
         Heddle: Strict mTLS, default Deny and one AuthPolicy by identity and method. Hand-written: mTLS with one exact identity, no policy.\n\n",
        plan.load.connections, plan.load.rate, plan.rounds, figures.requests, plan.concurrency
    );
    line(
        &mut out,
        "| way | p50 | p99 | added to direct, p50 | added to direct, p99 |",
    );
    line(&mut out, "|---|---|---|---|---|");
    let rows: [(&str, TurnOf); 3] = [
        ("direct", |r| r.direct),
        ("hand-written Envoy pair", |r| r.pair),
        ("Heddle's sidecars", |r| r.heddle),
    ];
    for (name, of) in rows {
        let over = |figure: &dyn Fn(&Round) -> f64| figures.over_rounds(figure).spread(0);
        line(
            &mut out,
            &format!(
                "| {name} | {} | {} | {} | {} |",
                over(&|r| of(r).p50),
                over(&|r| of(r).p99),
                over(&|r| of(r).p50 - r.direct.p50),
                over(&|r| of(r).p99 - r.direct.p99),
            ),
        );
    }
    let ratio = |figure: &dyn Fn(&Round) -> f64| figures.over_rounds(figure).spread(2);
    line(
        &mut out,
        &format!(
            "\nHeddle to the hand-written pair, round by round: whole latency p50 {} [{}], p99 {} [{}]; added latency p50 {}, p99 {}.",
            ratio(&|r| r.heddle.p50 / r.pair.p50),
            ratio(&|r| r.heddle.sent_p50 / r.pair.sent_p50),
            ratio(&|r| r.heddle.p99 / r.pair.p99),
            ratio(&|r| r.heddle.sent_p99 / r.pair.sent_p99),
            ratio(&|r| (r.heddle.p50 - r.direct.p50) / (r.pair.p50 - r.direct.p50)),
            ratio(&|r| (r.heddle.p99 - r.direct.p99) / (r.pair.p99 - r.direct.p99)),
        ),
    );
    out
}

fn processes(figures: &latency::Figures) -> String {
    let mut out = String::from(
        "\n### Memory of the processes of that run\n\n\
         After the load, in MiB: one measurement each, the client's side / the server's side.\n\n\
         | process | `RssAnon` | private |\n|---|---|---|\n",
    );
    let row = |name: &str, [client, server]: &[Memory; 2]| {
        format!(
            "| {name} | {:.1} / {:.1} | {:.1} / {:.1} |\n",
            client.anonymous, server.anonymous, client.private, server.private
        )
    };
    out.push_str(&row("agent", &figures.agents));
    out.push_str(&row("sidecar's Envoy", &figures.envoys));
    out.push_str(&row("hand-written pair's Envoy", &figures.pair));
    let control_plane = figures.control_plane;
    line(
        &mut out,
        &format!(
            "| control plane of these two proxies | {:.1} | {:.1} |",
            control_plane.anonymous, control_plane.private
        ),
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_machine_is_named() {
        assert!(busy("0.40 3.00 5.00").is_empty());
        assert!(busy("2.83 4.49 6.45").contains("not idle") && busy("").contains("not idle"));
    }

    #[test]
    fn only_what_is_between_the_markers_changes() {
        let page = format!("# a\n{BEGIN}\nold\n{END}\nz\n");
        let once = between(&page, "new\n").unwrap();
        assert_eq!(once, format!("# a\n{BEGIN}\n\nnew\n\n{END}\nz\n"));
        assert_eq!(between(&once, "new").unwrap(), once);
        assert!(between("# a", "new").is_err());
    }
}
