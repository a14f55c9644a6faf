//! Requests per core through two sidecars, beside a hand-written Envoy pair and direct calls, by turns in one run.

mod application;
mod load;
mod report;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;

pub use report::markdown;

use crate::machine::cpu_seconds;
use crate::pair::{Pair, Ports};
use crate::paths::Parts;
use crate::sidecars::{Addresses, Sidecars};
use crate::stats::Sample;

/// The run's parameters.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Numbers of connections, each with one request at a time.
    pub connections: Vec<usize>,
    /// How often each way has its turn.
    pub rounds: usize,
    /// How long a turn lasts.
    pub turn: Duration,
    /// Envoy's worker threads, the same for both pairs.
    pub concurrency: u32,
}

/// How a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1 over a kept connection.
    Http1,
    /// HTTP/2 without TLS.
    Http2,
    /// Unary calls of gRPC.
    Grpc,
    /// 1 kB there and back over one connection of bytes.
    Bytes,
}

impl Protocol {
    const ALL: [Self; 4] = [Self::Http1, Self::Http2, Self::Grpc, Self::Bytes];

    const fn name(self) -> &'static str {
        match self {
            Self::Http1 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
            Self::Grpc => "gRPC",
            Self::Bytes => "TCP",
        }
    }
}

/// The way of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Straight to the application.
    Direct,
    /// Through the hand-written pair.
    Pair,
    /// Through Heddle's sidecars.
    Heddle,
}

impl Way {
    const ALL: [Self; 3] = [Self::Direct, Self::Pair, Self::Heddle];
}

/// One way's turn.
#[derive(Debug, Clone, Copy)]
pub struct Turn {
    way: Way,
    p50: f64,
    p99: f64,
    /// Requests for each second of CPU that the proxies took. NaN without proxies.
    per_core: f64,
}

/// The turns of a protocol and a number of connections: in each round one of every way.
#[derive(Debug, Clone)]
pub struct Case {
    protocol: Protocol,
    connections: usize,
    turns: Vec<Turn>,
}

impl Case {
    fn over(&self, way: Way, figure: fn(&Turn) -> f64) -> Sample {
        Sample::new(self.turns.iter().filter(|turn| turn.way == way).map(figure))
    }

    /// Requests per core through Heddle's sidecars to those through the pair, round by round.
    fn ratio(&self) -> Sample {
        let rounds = self.turns.chunks(Way::ALL.len());
        Sample::new(rounds.filter_map(|round| {
            let of = |way| round.iter().find(|turn| turn.way == way);
            Some(of(Way::Heddle)?.per_core / of(Way::Pair)?.per_core)
        }))
    }
}

/// The running parts.
struct Scene {
    direct: Ports,
    pair: Pair,
    sidecars: Sidecars,
}

impl Scene {
    async fn start(parts: &Parts, concurrency: u32, work: &std::path::Path) -> Result<Self> {
        let addresses = Addresses::new();
        let direct = Ports {
            requests: addresses.application()?,
            bytes: addresses.bytes()?,
        };
        application::start(direct)?;
        let pair = Pair::start(&parts.envoy, concurrency, direct, work).await?;
        let sidecars = Sidecars::start(parts, concurrency, &addresses, work).await?;
        Ok(Self {
            direct,
            pair,
            sidecars,
        })
    }

    fn at(&self, way: Way, protocol: Protocol) -> SocketAddr {
        let (requests, bytes) = match way {
            Way::Direct => (self.direct.requests, self.direct.bytes),
            Way::Pair => (self.pair.entry, self.pair.bytes),
            Way::Heddle => (self.sidecars.entry, self.sidecars.bytes),
        };
        match protocol {
            Protocol::Bytes => bytes,
            Protocol::Http1 | Protocol::Http2 | Protocol::Grpc => requests,
        }
    }

    /// The processes between client and application: of Heddle's sidecars the agents, too.
    fn processes(&self, way: Way) -> Result<Vec<u32>> {
        Ok(match way {
            Way::Direct => Vec::new(),
            Way::Pair => vec![self.pair.client.pid(), self.pair.server.pid()],
            Way::Heddle => {
                let agents = [self.sidecars.client.pid(), self.sidecars.server.pid()];
                let envoys = self.sidecars.envoys()?;
                agents.into_iter().chain(envoys).collect()
            }
        })
    }

    fn cpu(&self, way: Way) -> Result<f64> {
        let processes = self.processes(way)?;
        processes.into_iter().map(cpu_seconds).sum()
    }

    async fn turn(
        &self,
        way: Way,
        protocol: Protocol,
        connections: usize,
        lasts: Duration,
    ) -> Result<Turn> {
        let at = self.at(way, protocol);
        // Connections and their TLS handshakes are made before, at least in the pools of the proxies.
        load::run(protocol, at, connections, lasts / 10).await?;
        let before = self.cpu(way)?;
        let times = load::run(protocol, at, connections, lasts).await?;
        let spent = self.cpu(way)? - before;
        Ok(Turn {
            way,
            p50: times.median(),
            p99: times.quantile(0.99),
            per_core: if way == Way::Direct {
                f64::NAN
            } else {
                times.len() as f64 / spent
            },
        })
    }
}

/// Runs the plan.
///
/// # Errors
/// When a process or a single request fails.
pub async fn measure(parts: &Parts, plan: &Plan) -> Result<Vec<Case>> {
    let work = tempfile::tempdir()?;
    let scene = Scene::start(parts, plan.concurrency, work.path()).await?;
    let mut cases = Vec::new();
    for protocol in Protocol::ALL {
        for connections in plan.connections.iter().copied() {
            let mut turns = Vec::new();
            for round in 0..plan.rounds {
                let name = protocol.name();
                eprintln!(
                    "throughput: {name}, {connections} connections, round {}",
                    round + 1
                );
                // No way always follows the same other.
                let mut ways = Way::ALL;
                ways.rotate_left(round % Way::ALL.len());
                for way in ways {
                    turns.push(scene.turn(way, protocol, connections, plan.turn).await?);
                }
            }
            cases.push(Case {
                protocol,
                connections,
                turns,
            });
        }
    }
    Ok(cases)
}
