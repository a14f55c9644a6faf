//! The part that all commands on live traffic share: asking, the output in its formats, and watching.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use heddle_xds_types::api::Endpoint;
use heddle_xds_types::edges::EdgesReport;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Health;
use super::graph::Graph;
use crate::cluster::ClusterArgs;
use crate::findings::plural;
use crate::out::{self, Format};
use crate::replicas::{self, Replica};

/// The time between two looks. Sidecars report every 5 s.
const WATCH: Duration = Duration::from_secs(5);

/// Options of the commands on live traffic.
#[derive(Args, Debug)]
pub struct LiveArgs {
    /// Only traffic from or to this namespace.
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// The seconds up to now to look at, from 5 to 900.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(5..=900), conflicts_with = "runtime_dir")]
    window: u64,
    /// Print again every 5 seconds, until Ctrl-C; JSON in one line each, YAML as several documents.
    #[arg(short, long)]
    watch: bool,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
    #[command(flatten)]
    place: PlaceArgs,
}

/// The control plane to ask.
#[derive(Args, Debug)]
pub struct PlaceArgs {
    /// The runtime folder of a standalone control plane, in place of the cluster.
    #[arg(long, value_name = "DIR")]
    runtime_dir: Option<PathBuf>,
    #[command(flatten)]
    cluster: ClusterArgs,
}

impl PlaceArgs {
    /// Returns the place that the options name.
    pub fn source(&self) -> Source {
        match &self.runtime_dir {
            Some(folder) => Source::Standalone(folder.clone()),
            None => Source::Cluster(self.cluster.clone()),
        }
    }
}

/// A table, and how each of its rows is colored.
pub struct Table {
    /// The lines, the head first.
    pub text: String,
    /// One for each row.
    pub health: Vec<Health>,
}

/// One look in all formats.
pub struct Page {
    /// For people.
    pub table: Table,
    /// For programs.
    pub document: serde_json::Result<Value>,
}

/// Where the traffic is read.
#[derive(Clone, Debug)]
pub enum Source {
    /// All replicas on a cluster.
    Cluster(ClusterArgs),
    /// The runtime folder of a standalone control plane.
    Standalone(PathBuf),
}

impl Source {
    /// Reads the traffic of the last `window` seconds; a standalone control plane chooses the window.
    ///
    /// # Errors
    /// The replicas cannot be listed, none is running, or the file of a standalone control plane cannot be read.
    pub async fn read(&self, window: u64) -> Result<Graph> {
        let path = format!("{}?window={window}", Endpoint::Edges.path());
        let replicas: Vec<Replica<EdgesReport>> = self.ask(&path, "edges.json").await?;
        Ok(Graph::of(replicas))
    }

    /// Asks all replicas for the JSON at a path; reads the file of a standalone control plane instead.
    ///
    /// # Errors
    /// The replicas cannot be listed, none is running, or the file cannot be read or is not of this form.
    pub async fn ask<T: DeserializeOwned>(
        &self,
        path: &str,
        file: &str,
    ) -> Result<Vec<Replica<T>>> {
        let folder = match self {
            Self::Cluster(cluster) => return replicas::ask_all(cluster, path).await,
            Self::Standalone(folder) => folder,
        };
        let path = folder.join(file);
        let text = tokio::fs::read_to_string(&path).await;
        let text = text.with_context(|| format!("cannot read {}", path.display()))?;
        let report = serde_json::from_str(&text)
            .with_context(|| format!("{} cannot be read", path.display()))?;
        Ok(vec![Replica {
            name: "standalone".to_owned(),
            answer: Ok(report),
        }])
    }
}

/// Prints the traffic once, or again and again.
///
/// # Errors
/// When a replica could not be asked; while watching only if none could.
pub async fn run(args: &LiveArgs, page: &dyn Fn(&Graph) -> Page) -> Result<()> {
    let source = args.place.source();
    loop {
        let mut graph = source.read(args.window).await?;
        if let Some(namespace) = &args.namespace {
            graph.keep(namespace);
        }
        if graph.is_answered() {
            print(args, &graph, page(&graph))?;
        }
        if !args.watch || !graph.is_answered() {
            return verdict(&graph);
        }
        tokio::time::sleep(WATCH).await;
    }
}

fn print(args: &LiveArgs, graph: &Graph, page: Page) -> Result<()> {
    let document = page.document?;
    let text = || text(&page.table, graph, out::has_colors());
    match args.watch {
        true => args.output.print_next(&document, text),
        false => args.output.print(&document, text),
    }
}

/// A table for people, with a last line about all of it.
pub fn text(table: &Table, graph: &Graph, colors: bool) -> String {
    format!("{}\n{}", colored(table, colors), summary(graph))
}

fn colored(table: &Table, colors: bool) -> String {
    let colors_of_rows = table.health.iter().map(|health| match health {
        Health::Good => None,
        Health::Poor => Some("33"),
        Health::Bad => Some("31"),
    });
    let head = std::iter::once(Some("1"));
    let lines = table.text.lines().zip(head.chain(colors_of_rows));
    let lines = lines.map(|(line, color)| match color.filter(|_| colors) {
        Some(color) => format!("\x1b[{color}m{line}\x1b[0m"),
        None => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The last line: the time that the figures are of, and the traffic that is missing.
fn summary(graph: &Graph) -> String {
    let mut text = format!(
        "{} over the last {} s",
        plural(graph.edges.len(), "edge"),
        graph.window_seconds
    );
    let losses = &graph.losses;
    for (count, what) in [
        (losses.by_agents, "requests could not be reported"),
        (losses.evicted, "idle edges made room"),
        (losses.refused, "edges found no room"),
    ] {
        if count > 0 {
            text.push_str(&format!("; {count} {what} since the start"));
        }
    }
    text
}

fn verdict(graph: &Graph) -> Result<()> {
    let unasked = replicas::unasked(&graph.replicas);
    if unasked.is_empty() {
        return Ok(());
    }
    let missing = match graph.is_answered() {
        true => "this is partial: some replicas could not be asked",
        false => "no replica of the control plane could be asked",
    };
    bail!("{missing}\n  {}", unasked.join("\n  "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_terminal_gets_colors() {
        let table = Table {
            text: "A\nx\ny".to_owned(),
            health: vec![Health::Good, Health::Bad],
        };
        assert_eq!(colored(&table, false), "A\nx\ny");
        assert_eq!(
            colored(&table, true),
            "\x1b[1mA\x1b[0m\nx\n\x1b[31my\x1b[0m"
        );
    }
}
