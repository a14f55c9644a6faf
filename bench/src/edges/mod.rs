//! The cost of the traffic of edges: the bytes of an agent's reports, the store of the control plane, and the commands on many flows.

mod commands;
mod reports;
mod store;

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use commands::Cost;
use store::Store;

/// The run's parameters.
#[derive(Debug, Clone, Args)]
#[group(id = "edges")]
pub struct Plan {
    /// Numbers of active edges of a sidecar.
    #[arg(long, value_delimiter = ',', default_value = "5,100")]
    pub active_edges: Vec<usize>,
    /// Edges in the store of a replica.
    #[arg(long, default_value_t = 10_000)]
    pub kept_edges: usize,
    /// Numbers of flows for the commands; each is a square number.
    #[arg(long, value_delimiter = ',', default_value = "1024,10000")]
    pub flows: Vec<usize>,
    /// The program `heddle`; default: that of the directory of this program. Without one the commands are left out.
    #[arg(long)]
    pub heddle: Option<PathBuf>,
}

/// The figures.
#[derive(Debug)]
pub struct Figures {
    reports: Vec<(usize, reports::Bytes)>,
    store: Store,
    commands: Vec<Cost>,
}

/// Measures everything.
///
/// # Errors
/// When a command fails.
pub fn measure(plan: &Plan) -> Result<Figures> {
    let reports = plan.active_edges.iter();
    let beside = std::env::current_exe()?.with_file_name("heddle");
    let program = plan.heddle.clone().unwrap_or(beside);
    let mut commands = Vec::new();
    if program.is_file() {
        for flows in &plan.flows {
            commands.extend(commands::measure(&program, *flows)?);
        }
    }
    Ok(Figures {
        reports: reports
            .map(|edges| (*edges, reports::bytes(*edges)))
            .collect(),
        store: store::measure(plan.kept_edges)?,
        commands,
    })
}

/// As a section of the page.
pub fn markdown(figures: &Figures) -> String {
    let mut out = String::from(
        "### Edges\n\nReports of an agent as it encodes them, every 5 s, all edges with traffic in 3 buckets of durations; the store of a replica in this \
         process, filled for a quarter of an hour with traffic on all edges in every 5 s, which is its largest; the release build of `heddle` on files.\n\n\
         | what | unit | target | Heddle |\n|---|---|---|---|\n",
    );
    let mut row = |what: &str, unit: &str, target: &str, value: String| {
        // Writing to a String can't fail.
        let _ = writeln!(out, "| {what} | {unit} | {target} | {value} |");
    };
    for (edges, bytes) in &figures.reports {
        let what = format!("a sidecar with {edges} active edges, a report");
        row(&what, "bytes", "", bytes.each.to_string());
        row(
            "the same, the first report of a stream, with names",
            "bytes",
            "",
            bytes.first.to_string(),
        );
        row(
            "the same, each second",
            "bytes",
            "",
            (bytes.each / reports::SECONDS).to_string(),
        );
    }
    let store = &figures.store;
    let what = format!("{} edges in a replica, memory", store.edges);
    row(&what, "MB", "100", format!("{:.1}", store.megabytes));
    row(
        "the same, taking the reports",
        "% of a core",
        "",
        format!("{:.2}", store.cpu_percent),
    );
    row(
        "the same, an answer over 900 s",
        "ms of CPU",
        "",
        format!("{:.0}", store.answer_ms),
    );
    row(
        "the same, its JSON",
        "MB",
        "",
        format!("{:.1}", store.answer_megabytes),
    );
    for of in &figures.commands {
        let what = format!("`heddle {}`, {} flows", of.command, of.flows);
        row(&what, "s of CPU", "", format!("{:.2}", of.cpu_seconds));
        row(
            "the same, memory at its peak",
            "MB",
            "",
            format!("{:.0}", of.megabytes),
        );
    }
    out
}
