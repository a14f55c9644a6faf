//! `heddle edges`: each caller and each service, live, as the sidecars count.

pub mod figures;
pub mod graph;
pub mod live;
pub mod names;

use anyhow::Result;
use clap::Args;

use crate::table;
use figures::{Figures, millis, percent};
use graph::{Graph, Mtls, Row};
use live::LiveArgs;

/// Options of `heddle edges`.
#[derive(Args, Debug)]
pub struct EdgesArgs {
    #[command(flatten)]
    live: LiveArgs,
}

const HEAD: [&str; 11] = [
    "SOURCE",
    "DESTINATION",
    "BACKEND",
    "PROTOCOL",
    "RATE",
    "SUCCESS",
    "403",
    "P50",
    "P99",
    "MTLS",
    "BYTES",
];

/// Runs the command.
///
/// # Errors
/// A replica could not be asked; while watching only if none could.
pub async fn run(args: &EdgesArgs) -> Result<()> {
    live::run(&args.live, &|graph| live::Page {
        table: table(graph),
        document: serde_json::to_value(graph),
    })
    .await
}

fn table(graph: &Graph) -> live::Table {
    let rows: Vec<Vec<String>> = graph.edges.iter().map(cells).collect();
    let figures = graph.edges.iter().map(|row| &row.figures);
    live::Table {
        text: table::render(&HEAD, &rows),
        health: figures.map(Health::of).collect(),
    }
}

fn cells(row: &Row) -> Vec<String> {
    let figures = &row.figures;
    let source = match row.source.namespace.is_empty() {
        true if row.source.name.is_empty() => "(outside the mesh)".to_owned(),
        _ => qualified(&row.source),
    };
    let mtls = match row.mtls {
        Mtls::Yes => "yes",
        Mtls::No => "no",
        Mtls::Unknown => "-",
    };
    let backend = match &row.backend {
        Some(backend) => qualified(backend),
        None if row.answered_by_sidecar => "(sidecar)".to_owned(),
        None => "-".to_owned(),
    };
    vec![
        source,
        qualified(&row.destination),
        backend,
        row.protocol.to_string(),
        figures.rate(),
        figures.success(),
        percent(figures.forbidden_percent),
        millis(figures.p50_ms),
        millis(figures.p99_ms),
        mtls.to_owned(),
        figures.bytes(),
    ]
}

/// `namespace/name`.
pub fn qualified(end: &graph::End) -> String {
    match &*end.namespace {
        "" => end.name.clone(),
        namespace => format!("{namespace}/{}", end.name),
    }
}

/// How a row is colored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// At least 99 of 100 succeed.
    Good,
    /// At least 90.
    Poor,
    /// Fewer.
    Bad,
}

impl Health {
    /// By the share of success.
    pub fn of(figures: &Figures) -> Self {
        match figures.success_percent {
            Some(share) if share < 90.0 => Self::Bad,
            Some(share) if share < 99.0 => Self::Poor,
            Some(_) | None => Self::Good,
        }
    }
}

/// Its output for a test of all printers.
#[cfg(test)]
pub fn printed(graph: &Graph) -> String {
    live::text(&table(graph), graph, true)
}
