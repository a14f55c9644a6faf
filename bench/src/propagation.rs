//! From a change of a file to the last proxy's ACK.

use std::time::Duration;

use anyhow::Result;
use futures::{StreamExt, TryStreamExt, stream};

use crate::change::Change;
use crate::control_plane::ControlPlane;
use crate::machine::cpu_seconds;
use crate::memory::{self, Memory};
use crate::sim::fleet::Synced;
use crate::sim::proxy::Proxy;
use crate::sim::{Arrivals, Fleet, Member};
use crate::simulate::fill_hour;
use crate::stats::Sample;
use crate::world::{PODS, Pod, Staged, World};

const SYNC: Duration = Duration::from_secs(300);
const CHANGE: Duration = Duration::from_secs(60);
/// Certificates are asked for by a few at once; this is not what is measured.
const ENROLLING: usize = 16;
/// What follows a change (removals, ACKs under way) is over by then.
const REST: Duration = Duration::from_millis(300);

/// What to run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Services of the mesh.
    pub services: usize,
    /// Numbers of proxies.
    pub proxies: Vec<usize>,
    /// Fresh control planes for each number.
    pub runs: usize,
    /// Changes of each kind in each run.
    pub rounds: usize,
    /// The directory source looks this often; changes fall evenly over it.
    pub poll: Duration,
}

/// One run: a fresh control plane and so many proxies.
#[derive(Debug, Clone)]
pub struct Run {
    /// The first synchronisation.
    pub sync: Synced,
    /// Endpoint changes.
    pub endpoints: Rounds,
    /// Split changes.
    pub split: Rounds,
    /// The control plane's memory when all proxies were synchronised.
    pub synced: Memory,
    /// The same after all changes.
    pub after: Memory,
}

/// All changes of one kind in one run.
#[derive(Debug, Clone)]
pub struct Rounds {
    /// Milliseconds until the last ACK, one for each change.
    pub last: Sample,
    /// Milliseconds until the ACK, one for each change and proxy.
    pub all: Sample,
    /// CPU milliseconds of the control plane for each change, polling included.
    pub cpu: f64,
    /// Message bytes for each change and proxy.
    pub bytes: u64,
}

/// The runs for one number of proxies.
#[derive(Debug, Clone)]
pub struct Figures {
    /// How many proxies.
    pub proxies: usize,
    /// The runs.
    pub runs: Vec<Run>,
}

/// Runs the plan.
///
/// # Errors
/// When a proxy fails, or a change does not arrive: there are no figures then.
pub async fn measure(operator: &std::path::Path, plan: &Plan) -> Result<Vec<Figures>> {
    let mut figures = Vec::new();
    for &proxies in &plan.proxies {
        let mut runs = Vec::new();
        for number in 0..plan.runs {
            eprintln!(
                "propagation: {proxies} proxies, run {} of {}",
                number + 1,
                plan.runs
            );
            runs.push(run(operator, plan, proxies).await?);
        }
        figures.push(Figures { proxies, runs });
    }
    Ok(figures)
}

async fn run(operator: &std::path::Path, plan: &Plan, proxies: usize) -> Result<Run> {
    let work = tempfile::tempdir()?;
    let dir = work.path().join("world");
    std::fs::create_dir(&dir)?;
    let world = World::write(&dir, plan.services)?;
    let control_plane = ControlPlane::start(operator, &dir, work.path()).await?;
    let members = members(&control_plane, &world, proxies).await?;
    let mut fleet = Fleet::start(&control_plane.server(), members);
    let sync = fleet.synced(SYNC).await?;
    let synced = memory::of(control_plane.pid())?;
    let bench = Bench {
        plan,
        control_plane: &control_plane,
        fleet: &fleet,
    };
    let name = World::first_resource();
    let endpoints = bench
        .rounds(|round| {
            let ready = if round % 2 == 0 { PODS - 1 } else { PODS };
            Ok((
                Change::Endpoints {
                    name: name.clone(),
                    healthy: ready,
                },
                world.stage_ready(ready)?,
            ))
        })
        .await?;
    let split = bench
        .rounds(|round| {
            let first = 50 + u32::try_from(round % 40)?;
            let weights = vec![first, 100 - first];
            Ok((
                Change::Weights {
                    name: name.clone(),
                    weights,
                },
                world.stage_weights(first, 100 - first)?,
            ))
        })
        .await?;
    let after = memory::of(control_plane.pid())?;
    Ok(Run {
        sync,
        endpoints,
        split,
        synced,
        after,
    })
}

async fn members(
    control_plane: &ControlPlane,
    world: &World,
    proxies: usize,
) -> Result<Vec<Member>> {
    let names: Vec<String> = world
        .destinations()
        .map(|to| fill_hour(&format!("dst|{to}|{{hour}}")))
        .collect();
    let enroll = |pod: Pod| {
        let names = names.clone();
        async move {
            let credentials = Some(control_plane.enroll(&pod).await?);
            let node = format!("{}/{}", pod.namespace, pod.name);
            Ok::<_, anyhow::Error>(Member {
                proxy: Proxy::new(&node, &pod.service_account, names),
                credentials,
            })
        }
    };
    stream::iter(world.pods().take(proxies))
        .map(enroll)
        .buffered(ENROLLING)
        .try_collect()
        .await
}

struct Bench<'a> {
    plan: &'a Plan,
    control_plane: &'a ControlPlane,
    fleet: &'a Fleet,
}

impl Bench<'_> {
    async fn rounds(
        &self,
        mut stage: impl FnMut(usize) -> Result<(Change, Staged)>,
    ) -> Result<Rounds> {
        let (mut last, mut all) = (Vec::new(), Vec::new());
        // The first is not counted: caches and connections are cold.
        self.one(0, stage(0)?).await?;
        let (cpu, bytes) = (
            cpu_seconds(self.control_plane.pid())?,
            self.fleet.observer().bytes(),
        );
        for round in 1..=self.plan.rounds {
            let arrivals = self.one(round, stage(round)?).await?;
            last.push(arrivals.last().as_secs_f64() * 1e3);
            all.extend(arrivals.0.iter().map(|time| time.as_secs_f64() * 1e3));
        }
        let changes = self.plan.rounds.max(1);
        let cpu = cpu_seconds(self.control_plane.pid())? - cpu;
        let bytes = self.fleet.observer().bytes() - bytes;
        Ok(Rounds {
            last: Sample::new(last),
            all: Sample::new(all),
            cpu: cpu * 1e3 / changes as f64,
            bytes: bytes / (changes * self.fleet.size().max(1)) as u64,
        })
    }

    async fn one(&self, round: usize, (change, staged): (Change, Staged)) -> Result<Arrivals> {
        tokio::time::sleep(REST + phase(round, self.plan.poll)).await;
        let armed = self.fleet.observer().arm(change, self.fleet.size());
        staged.commit()?;
        let arrivals = armed.arrivals(CHANGE).await?;
        self.fleet.all_up()?;
        Ok(arrivals)
    }
}

/// Spreads changes evenly over the poll interval, in an order that never falls into step with it.
fn phase(round: usize, poll: Duration) -> Duration {
    const GOLDEN: f64 = 0.618_033_988_749_895;
    poll.mul_f64((round as f64 * GOLDEN).fract())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_fall_all_over_the_interval() {
        let poll = Duration::from_millis(1000);
        let tenths: std::collections::BTreeSet<u128> =
            (0..30).map(|r| phase(r, poll).as_millis() / 100).collect();
        assert_eq!(tenths.len(), 10);
    }
}
