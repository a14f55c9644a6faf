//! The time that two sidecars add, as Markdown.

use std::fmt::Write as _;

use super::{Figures, Plan, Round, Turn};
use crate::memory::Memory;

type TurnOf = fn(&Round) -> Turn;

/// The figures as Markdown.
pub fn markdown(plan: &Plan, figures: &Figures) -> String {
    requests(plan, figures) + &processes(figures)
}

fn requests(plan: &Plan, figures: &Figures) -> String {
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

fn processes(figures: &Figures) -> String {
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

fn line(out: &mut String, text: &str) {
    // Writing to a String can't fail.
    let _ = writeln!(out, "{text}");
}
