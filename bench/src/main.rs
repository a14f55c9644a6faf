//! `heddle-bench`: the figures of `docs/performance.md`, and the load program alone.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Args, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use heddle_bench::load::Load;
use heddle_bench::page::{self, Conditions};
use heddle_bench::paths::{ClusterParts, Parts};
use heddle_bench::simulate::Simulate;
use heddle_bench::{edges, flat, latency, machine, streams, table, throughput};

#[derive(Debug, Parser)]
#[command(about = "Measures Heddle on real parts")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Everything.
    All {
        #[command(flatten)]
        table: table::Plan,
        #[command(flatten)]
        memory: flat::Plan,
        #[command(flatten)]
        requests: Requests,
        #[command(flatten)]
        throughput: PerCore,
        #[command(flatten)]
        streams: streams::Plan,
        #[command(flatten)]
        edges: edges::Plan,
        #[command(flatten)]
        common: Common,
    },
    /// The control plane with simulated proxies on a real API server.
    Table {
        #[command(flatten)]
        table: table::Plan,
        #[command(flatten)]
        common: Common,
    },
    /// A real sidecar's memory by the size of the mesh (root).
    Memory {
        #[command(flatten)]
        memory: flat::Plan,
        #[command(flatten)]
        common: Common,
    },
    /// The time that two sidecars add to a request.
    Latency {
        #[command(flatten)]
        requests: Requests,
        #[command(flatten)]
        common: Common,
    },
    /// Requests per core through two sidecars, beside a minimal pair of Envoys.
    Throughput {
        #[command(flatten)]
        throughput: PerCore,
        #[command(flatten)]
        common: Common,
    },
    /// The cost of TLS for the discovery streams.
    Streams {
        #[command(flatten)]
        streams: streams::Plan,
        #[command(flatten)]
        common: Common,
    },
    /// The reports on the traffic of edges, their store, and the commands on many flows.
    Edges {
        #[command(flatten)]
        edges: edges::Plan,
        #[command(flatten)]
        common: Common,
    },
    /// The fixed piece of work alone.
    Work,
    /// Simulated proxies against any ADS server.
    Simulate(Simulate),
}

#[derive(Debug, Clone, Args)]
struct Common {
    /// Where heddle-operator and heddle-agent are; default: they are built now.
    #[arg(long)]
    bin_dir: Option<PathBuf>,
    /// The page to write; default: docs/performance.md of the repository. The plot goes beside it.
    #[arg(long)]
    page: Option<PathBuf>,
    /// Print only.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Clone, Args)]
struct Requests {
    /// Requests a second.
    #[arg(long, default_value_t = 500)]
    rate: u32,
    /// Kept connections of the load generator.
    #[arg(long, default_value_t = 8)]
    connections: u32,
    /// Turns of each way.
    #[arg(long, default_value_t = 9)]
    turns: usize,
    /// Seconds counted of each turn.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Worker threads of every Envoy.
    #[arg(long, default_value_t = 2)]
    concurrency: u32,
}

impl Requests {
    fn plan(&self) -> latency::Plan {
        let load = Load {
            rate: self.rate,
            connections: self.connections,
            warm_up: Duration::from_secs(1),
            counted: Duration::from_secs(self.seconds),
            host: "echo".to_owned(),
        };
        latency::Plan {
            load,
            rounds: self.turns,
            concurrency: self.concurrency,
        }
    }
}

#[derive(Debug, Clone, Args)]
struct PerCore {
    /// Numbers of connections, each with one request at a time.
    #[arg(long, value_delimiter = ',', default_value = "1,16,64")]
    at_once: Vec<usize>,
    /// Turns of each way, for each protocol and number of connections.
    #[arg(
        id = "throughput-rounds",
        long = "throughput-rounds",
        default_value_t = 3
    )]
    rounds: usize,
    /// Seconds of each of these turns.
    #[arg(long, default_value_t = 3)]
    turn_seconds: u64,
    /// Worker threads of every Envoy of this measurement.
    #[arg(long, default_value_t = 1)]
    workers: u32,
}

impl PerCore {
    fn plan(&self) -> throughput::Plan {
        throughput::Plan {
            connections: self.at_once.clone(),
            rounds: self.rounds,
            turn: Duration::from_secs(self.turn_seconds),
            concurrency: self.workers,
        }
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    // Told to stop, it still ends the processes it has started.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    machine::raise_file_limit()?;
    tokio::select! {
        done = run(Cli::parse().command) => done,
        _ = terminate.recv() => bail!("told to stop"),
        _ = interrupt.recv() => bail!("told to stop"),
    }
}

async fn run(command: Command) -> Result<()> {
    match command {
        Command::All {
            table,
            memory,
            requests,
            throughput,
            streams,
            edges,
            common,
        } => {
            let output = Output::new(common)?;
            output.table(&table).await?;
            output.memory(&memory).await?;
            output.latency(&requests).await?;
            output.throughput(&throughput).await?;
            output.streams(&streams).await?;
            output.edges(&edges).await
        }
        Command::Table { table, common } => Output::new(common)?.table(&table).await,
        Command::Memory { memory, common } => Output::new(common)?.memory(&memory).await,
        Command::Latency { requests, common } => Output::new(common)?.latency(&requests).await,
        Command::Throughput { throughput, common } => {
            Output::new(common)?.throughput(&throughput).await
        }
        Command::Streams { streams, common } => Output::new(common)?.streams(&streams).await,
        Command::Edges { edges, common } => Output::new(common)?.edges(&edges).await,
        Command::Work => {
            let work = machine::fixed_work(machine::WORK_TIMES)?;
            println!("{}: {}", machine::WORK, work.spread(2));
            Ok(())
        }
        Command::Simulate(simulate) => simulate.run().await,
    }
}

/// Where sections go.
struct Output {
    parts: Parts,
    page: Option<PathBuf>,
}

impl Output {
    fn new(common: Common) -> Result<Self> {
        let parts = Parts::find(common.bin_dir.as_deref())?;
        let page = common
            .page
            .unwrap_or_else(|| parts.repo.join("docs/performance.md"));
        Ok(Self {
            page: (!common.dry_run).then_some(page),
            parts,
        })
    }

    async fn table(&self, plan: &table::Plan) -> Result<()> {
        let cluster = ClusterParts::find(&self.parts.repo)?;
        let conditions = Conditions::now(&self.parts).await?;
        let ledger = table::measure(&cluster, &self.parts.operator, plan).await?;
        let text = table::markdown(plan, &ledger);
        self.write("table", &text, &conditions).await
    }

    async fn memory(&self, plan: &flat::Plan) -> Result<()> {
        const PLOT: &str = "sidecar-memory.svg";
        let conditions = Conditions::now(&self.parts).await?;
        let curve = flat::measure(&self.parts, plan).await?;
        if let Some(page) = &self.page {
            std::fs::write(page.with_file_name(PLOT), flat::svg(&curve))?;
        }
        let text = flat::markdown(plan, &curve, PLOT);
        self.write("memory", &text, &conditions).await
    }

    async fn streams(&self, plan: &streams::Plan) -> Result<()> {
        let conditions = Conditions::now(&self.parts).await?;
        let figures = streams::measure(plan).await?;
        let text = streams::markdown(plan, &figures);
        self.write("streams", &text, &conditions).await
    }

    async fn latency(&self, requests: &Requests) -> Result<()> {
        let conditions = Conditions::now(&self.parts).await?;
        let plan = requests.plan();
        let figures = latency::measure(&self.parts, &plan).await?;
        let text = latency::markdown(&plan, &figures);
        self.write("latency", &text, &conditions).await
    }

    async fn edges(&self, plan: &edges::Plan) -> Result<()> {
        let conditions = Conditions::now(&self.parts).await?;
        let figures = edges::measure(plan)?;
        let text = edges::markdown(&figures);
        self.write("edges", &text, &conditions).await
    }

    async fn throughput(&self, throughput: &PerCore) -> Result<()> {
        let conditions = Conditions::now(&self.parts).await?;
        let plan = throughput.plan();
        let cases = throughput::measure(&self.parts, &plan).await?;
        let text = throughput::markdown(&plan, &cases);
        self.write("throughput", &text, &conditions).await
    }

    async fn write(&self, section: &str, text: &str, conditions: &Conditions) -> Result<()> {
        let text = format!("{text}\n{}", conditions.markdown().await?);
        println!("{text}");
        if let Some(page) = &self.page {
            page::write(page, section, &text)?;
            println!("written to {}", page.display());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_options_of_all_commands_fit_together() {
        Cli::command().debug_assert();
    }
}
