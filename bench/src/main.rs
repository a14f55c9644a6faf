//! `heddle-bench`: the figures of `docs/performance.md`, and the load program alone.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Args, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use heddle_bench::load::Load;
use heddle_bench::paths::Parts;
use heddle_bench::report::Report;
use heddle_bench::simulate::Simulate;
use heddle_bench::{latency, machine, propagation};

#[derive(Debug, Parser)]
#[command(about = "Measures Heddle on real parts")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// All figures, into docs/performance.md.
    All(Options),
    /// From a change to the last ACK; printed only.
    Propagation(Options),
    /// What two sidecars add, and memory; printed only.
    Latency(Options),
    /// The fixed piece of work alone.
    Work,
    /// Simulated proxies against any ADS server.
    Simulate(Simulate),
}

#[derive(Debug, Clone, Args)]
struct Options {
    /// Services of the mesh, of 10 endpoints each.
    #[arg(long, default_value_t = 100)]
    services: usize,
    /// Numbers of simulated proxies.
    #[arg(long, value_delimiter = ',', default_value = "1,100,500")]
    proxies: Vec<usize>,
    /// Runs with a fresh control plane for each number.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Changes of each kind in each run.
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// The poll interval of the directory source, in milliseconds.
    #[arg(long, default_value_t = 200)]
    poll_ms: u64,
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
    /// Where heddle-operator and heddle-agent are; default: they are built now.
    #[arg(long)]
    bin_dir: Option<PathBuf>,
    /// The page to write, of `all`; default: docs/performance.md of the repository.
    #[arg(long)]
    page: Option<PathBuf>,
}

impl Options {
    fn propagation(&self) -> propagation::Plan {
        propagation::Plan {
            services: self.services,
            proxies: self.proxies.clone(),
            runs: self.runs,
            rounds: self.rounds,
            poll: Duration::from_millis(self.poll_ms),
        }
    }

    fn latency(&self) -> latency::Plan {
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

/// A debug build would hash for minutes; its figures are worth nothing anyway.
const WORK_TIMES: usize = if cfg!(debug_assertions) { 0 } else { 3 };

#[tokio::main]
async fn main() -> Result<()> {
    // Told to stop, it still ends the processes it has started.
    let mut stop = signal(SignalKind::terminate())?;
    tokio::select! {
        done = run(Cli::parse().command) => done,
        _ = stop.recv() => bail!("told to stop"),
        _ = tokio::signal::ctrl_c() => bail!("told to stop"),
    }
}

async fn run(command: Command) -> Result<()> {
    match command {
        Command::All(options) => {
            let (report, parts) = report(&options, true, true).await?;
            let page = options
                .page
                .unwrap_or_else(|| parts.repo.join("docs/performance.md"));
            report.write(&page)?;
            println!("{}\nwritten to {}", report.markdown(), page.display());
        }
        Command::Propagation(options) => {
            println!("{}", report(&options, true, false).await?.0.markdown())
        }
        Command::Latency(options) => {
            println!("{}", report(&options, false, true).await?.0.markdown())
        }
        Command::Work => println!(
            "SHA-256 over 1 GiB, s: {}",
            machine::fixed_work(WORK_TIMES).spread(2)
        ),
        Command::Simulate(simulate) => simulate.run().await?,
    }
    Ok(())
}

async fn report(
    options: &Options,
    with_propagation: bool,
    with_latency: bool,
) -> Result<(Report, Parts)> {
    let parts = Parts::find(options.bin_dir.as_deref())?;
    let before = (machine::load_average(), machine::fixed_work(WORK_TIMES));
    let mut report = Report {
        conditions: machine::conditions(&parts),
        load: [before.0, String::new()],
        work: [before.1, heddle_bench::stats::Sample::default()],
        propagation: None,
        latency: None,
    };
    if with_propagation {
        let plan = options.propagation();
        let figures = propagation::measure(&parts.operator, &plan).await?;
        report.propagation = Some((plan, figures));
    }
    if with_latency {
        let plan = options.latency();
        let figures = latency::measure(&parts, &plan).await?;
        report.latency = Some((plan, figures));
    }
    let [_, load] = &mut report.load;
    *load = machine::load_average();
    let [_, work] = &mut report.work;
    *work = machine::fixed_work(WORK_TIMES);
    Ok((report, parts))
}
