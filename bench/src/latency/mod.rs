//! The time that two sidecars add to a request: direct calls, a hand-written Envoy pair and Heddle's sidecars, by turns in one run.

mod report;

use std::net::SocketAddr;

use anyhow::Result;

pub use report::markdown;

use crate::echo;
use crate::load::{Load, Times};
use crate::memory::{self, Memory};
use crate::pair::{Pair, Ports};
use crate::paths::Parts;
use crate::sidecars::{Addresses, Sidecars};
use crate::stats::Sample;

/// The run's parameters.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The load, the same for all three ways.
    pub load: Load,
    /// How often each way has its turn.
    pub rounds: usize,
    /// Envoy's worker threads, the same for both pairs.
    pub concurrency: u32,
}

/// The quantiles of one turn, in microseconds.
#[derive(Debug, Clone, Copy)]
pub struct Turn {
    /// From the scheduled time.
    pub p50: f64,
    /// From the scheduled time.
    pub p99: f64,
    /// From the time of sending, without the wait behind another request.
    pub sent_p50: f64,
    /// From the time of sending.
    pub sent_p99: f64,
}

/// One round: each way had its turn.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    /// Straight to the application.
    pub direct: Turn,
    /// Through the hand-written pair.
    pub pair: Turn,
    /// Through Heddle's sidecars.
    pub heddle: Turn,
}

/// Everything measured.
#[derive(Debug, Clone)]
pub struct Figures {
    /// The rounds.
    pub rounds: Vec<Round>,
    /// Requests counted in each turn.
    pub requests: usize,
    /// The hand-written Envoys: client's side, server's side.
    pub pair: [Memory; 2],
    /// The sidecars' Envoys.
    pub envoys: [Memory; 2],
    /// The agents.
    pub agents: [Memory; 2],
    /// The control plane of this small mesh.
    pub control_plane: Memory,
}

impl Figures {
    /// A figure of each round, over the rounds.
    pub fn over_rounds(&self, figure: impl Fn(&Round) -> f64) -> Sample {
        Sample::new(self.rounds.iter().map(figure))
    }
}

/// Runs the plan.
///
/// # Errors
/// When a process or a single request fails.
pub async fn measure(parts: &Parts, plan: &Plan) -> Result<Figures> {
    let work = tempfile::tempdir()?;
    let addresses = Addresses::new();
    let application = addresses.application()?;
    echo::start(application)?;
    let behind = Ports {
        requests: application,
        bytes: addresses.bytes()?,
    };
    let pair = Pair::start(&parts.envoy, plan.concurrency, behind, work.path()).await?;
    let sidecars = Sidecars::start(parts, plan.concurrency, &addresses, work.path()).await?;
    let ways = Ways {
        load: &plan.load,
        direct: application,
        pair: pair.entry,
        heddle: sidecars.entry,
    };
    let mut rounds = Vec::new();
    let mut requests = usize::MAX;
    for number in 0..plan.rounds {
        eprintln!("latency: round {} of {}", number + 1, plan.rounds);
        let (round, counted) = ways.round(number).await?;
        rounds.push(round);
        requests = requests.min(counted);
    }
    let [client_envoy, server_envoy] = sidecars.envoys()?;
    Ok(Figures {
        rounds,
        requests,
        pair: both(pair.client.pid(), pair.server.pid())?,
        envoys: both(client_envoy, server_envoy)?,
        agents: both(sidecars.client.pid(), sidecars.server.pid())?,
        control_plane: memory::of(sidecars.control_plane.pid())?,
    })
}

fn both(client: u32, server: u32) -> Result<[Memory; 2]> {
    Ok([memory::of(client)?, memory::of(server)?])
}

struct Ways<'a> {
    load: &'a Load,
    direct: SocketAddr,
    pair: SocketAddr,
    heddle: SocketAddr,
}

impl Ways<'_> {
    /// Each way once. The first way changes from round to round, so that no way always follows the same other.
    async fn round(&self, number: usize) -> Result<(Round, usize)> {
        let run = async |address| self.load.run(address).await;
        let (direct, pair, heddle) = match number % 3 {
            0 => {
                let direct = run(self.direct).await?;
                let pair = run(self.pair).await?;
                (direct, pair, run(self.heddle).await?)
            }
            1 => {
                let heddle = run(self.heddle).await?;
                let direct = run(self.direct).await?;
                (direct, run(self.pair).await?, heddle)
            }
            _ => {
                let pair = run(self.pair).await?;
                let heddle = run(self.heddle).await?;
                (run(self.direct).await?, pair, heddle)
            }
        };
        let counted = [&direct, &pair, &heddle]
            .iter()
            .map(|times| times.sent.len())
            .min()
            .unwrap_or_default();
        Ok((
            Round {
                direct: turn(&direct),
                pair: turn(&pair),
                heddle: turn(&heddle),
            },
            counted,
        ))
    }
}

fn turn(times: &Times) -> Turn {
    Turn {
        p50: times.scheduled.median(),
        p99: times.scheduled.quantile(0.99),
        sent_p50: times.sent.median(),
        sent_p99: times.sent.quantile(0.99),
    }
}
