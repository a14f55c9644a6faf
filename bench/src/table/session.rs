//! One control plane's life: its proxies connect, then one case after another.

use std::time::Duration;

use anyhow::Result;
use heddle_identity::Ca;

use super::figures::{Figure, Ledger};
use super::plan::{Case, Plan};
use super::rounds::{self, Kind, Rounds};
use super::stage::{Ground, connect, members, users};
use super::{enrol, metadata, restart, storm};
use crate::machine::cpu_seconds;
use crate::memory;
use crate::mesh::{CHANGING, PODS};
use crate::metrics::{COMPILE_SECONDS, COMPILES};
use crate::operator::Operator;
use crate::sim::Fleet;
use crate::sim::fleet::Synced;

/// The first mesh: everything but the larger ones.
///
/// # Errors
/// When a proxy fails or a change does not arrive: there are no figures then.
pub async fn first(ground: &mut Ground, plan: &Plan, ledger: &mut Ledger) -> Result<()> {
    let sizes = &plan.sizes;
    let (mut operator, root) = ground.operator().await?;
    if plan.has(Case::Enrol) {
        enrol::run(ground, &operator, &root, sizes.proxies, ledger).await?;
    }
    let all = members(ground.mesh, &root, sizes.proxies, sizes.uses)?;
    let cpu = cpu_seconds(operator.pid())?;
    let (fleet, synced) = connect(ground, all).await?;
    let cpu = cpu_seconds(operator.pid())? - cpu;
    note_connect(&synced, cpu, ledger);
    settled(&fleet).await;
    let memory = memory::of(operator.pid())?.anonymous;
    ledger.note(Figure::MemorySynced, memory);

    let size = fleet.size();
    if plan.has(Case::Endpoint) {
        let changes = repeat(Kind::Endpoint(CHANGING), size, plan);
        let rounds = rounds::run(ground, &fleet, operator.pid(), changes).await?;
        note_endpoint(&rounds, ledger);
    }
    routes(ground, plan, &operator, &fleet, ledger).await?;
    if plan.has(Case::Metadata) {
        metadata::run(ground, &fleet, &root, plan.rounds, ledger).await?;
    }
    if plan.has(Case::Storm) {
        storm::run(ground, &fleet, operator.pid(), plan, ledger).await?;
    }
    ledger.note(Figure::MemoryPeak, memory::peak(operator.pid())?);
    if plan.has(Case::Restart) {
        operator = restart::run(ground, operator, &fleet, ledger).await?;
    }
    operator.alive()
}

/// The on-demand clusters leave some seconds after a destination was first called, which no change causes: waits until
/// nothing comes for longer than that takes.
async fn settled(fleet: &Fleet) {
    const QUIET: Duration = Duration::from_secs(15);
    let mut before = None;
    while before != Some(fleet.observer().total().bytes) {
        before = Some(fleet.observer().total().bytes);
        tokio::time::sleep(QUIET).await;
    }
}

/// The split and the policy.
async fn routes(
    ground: &Ground,
    plan: &Plan,
    operator: &Operator,
    fleet: &Fleet,
    ledger: &mut Ledger,
) -> Result<()> {
    if plan.has(Case::Split) {
        let changes = repeat(Kind::Split, fleet.size(), plan);
        let rounds = rounds::run(ground, fleet, operator.pid(), changes).await?;
        ledger.note(Figure::SplitP50, rounds.acknowledged.median());
        ledger.note(Figure::SplitP99, rounds.acknowledged.quantile(0.99));
        ledger.note(Figure::SplitCpu, rounds.cpu);
    }
    if plan.has(Case::Policy) {
        let concerned = fleet.size().min(PODS);
        let changes = repeat(Kind::Policy, concerned, plan);
        let rounds = rounds::run(ground, fleet, operator.pid(), changes).await?;
        ledger.note(Figure::PolicyP50, rounds.acknowledged.median());
        ledger.note(Figure::PolicyP99, rounds.acknowledged.quantile(0.99));
    }
    Ok(())
}

/// One proxy alone.
///
/// # Errors
/// As [`first`].
pub async fn single(ground: &mut Ground, plan: &Plan, ledger: &mut Ledger) -> Result<()> {
    let (mut operator, root) = ground.operator().await?;
    let one = members(ground.mesh, &root, 1, plan.sizes.uses)?;
    let (fleet, _) = connect(ground, one).await?;
    let changes = repeat(Kind::Endpoint(CHANGING), 1, plan);
    let rounds = rounds::run(ground, &fleet, operator.pid(), changes).await?;
    ledger.note(Figure::SingleP50, rounds.acknowledged.median());
    ledger.note(Figure::SingleP99, rounds.acknowledged.quantile(0.99));
    operator.alive()
}

/// The large mesh with a few proxies.
///
/// # Errors
/// As [`first`].
pub async fn large(ground: &mut Ground, plan: &Plan, ledger: &mut Ledger) -> Result<()> {
    let (mut operator, root) = ground.operator().await?;
    let all = members(
        ground.mesh,
        &root,
        plan.sizes.large_proxies,
        plan.sizes.uses,
    )?;
    let (fleet, _) = connect(ground, all).await?;
    let memory = memory::of(operator.pid())?.anonymous;
    ledger.note(Figure::LargeMemory, memory);
    let changes = repeat(Kind::Split, fleet.size(), plan);
    let rounds = rounds::run(ground, &fleet, operator.pid(), changes).await?;
    ledger.note(Figure::LargeSplitP50, rounds.acknowledged.median());
    ledger.note(Figure::LargeSplitP99, rounds.acknowledged.quantile(0.99));
    operator.alive()
}

/// The very large mesh with many proxies.
///
/// # Errors
/// As [`first`].
pub async fn huge(ground: &mut Ground, plan: &Plan, ledger: &mut Ledger) -> Result<()> {
    let (mut operator, root) = ground.operator().await?;
    let ready = operator.ready_after.as_secs_f64();
    ledger.note(Figure::HugeReady, ready);
    let (proxies, uses) = (plan.sizes.huge_proxies, plan.sizes.huge_uses);
    let (fleet, synced) = connect(ground, members(ground.mesh, &root, proxies, uses)?).await?;
    ledger.note(Figure::HugeConnectAll, synced.took().as_secs_f64());
    let memory = memory::of(operator.pid())?.anonymous;
    ledger.note(Figure::HugeMemory, memory);

    let compiled = compiles(ground, &root).await;
    // Each service in turn goes down and comes back.
    let users = users(ground, proxies, uses);
    let few = users.iter().enumerate().skip(PODS).filter(|(_, n)| **n > 0);
    let changes: Vec<(Kind, usize)> = few
        .flat_map(|(service, users)| [(Kind::Endpoint(service), *users); 2])
        .take(plan.rounds + 1)
        .collect();
    let rounds = rounds::run(ground, &fleet, operator.pid(), changes).await?;
    ledger.note(Figure::HugeEndpointP50, rounds.acknowledged.median());
    ledger.note(Figure::HugeEndpointP99, rounds.acknowledged.quantile(0.99));
    note_compiles(compiled, compiles(ground, &root).await, ledger);

    let changes = repeat(Kind::Endpoint(CHANGING), fleet.size(), plan);
    let rounds = rounds::run(ground, &fleet, operator.pid(), changes).await?;
    ledger.note(Figure::HugeCommonP99, rounds.acknowledged.quantile(0.99));
    ledger.note(Figure::HugePeak, memory::peak(operator.pid())?);
    operator.alive()
}

fn repeat(kind: Kind, expected: usize, plan: &Plan) -> impl Iterator<Item = (Kind, usize)> {
    std::iter::repeat_n((kind, expected), plan.rounds + 1)
}

/// Seconds and number of compiles so far; none where the control plane does not count them.
async fn compiles(ground: &Ground, root: &Ca) -> Option<(f64, f64)> {
    match ground.scraper(root).scrape().await {
        Ok(metrics) => Some((metrics.sum(COMPILE_SECONDS)?, metrics.sum(COMPILES)?)),
        Err(error) => {
            eprintln!("no metrics: {error:#}");
            None
        }
    }
}

fn note_compiles(before: Option<(f64, f64)>, after: Option<(f64, f64)>, ledger: &mut Ledger) {
    let (Some((seconds, count)), Some((all_seconds, all_count))) = (before, after) else {
        return;
    };
    // Nearly all of the time spent before the first change is the first compile.
    ledger.note(Figure::ColdCompile, seconds);
    if all_count > count {
        let each = (all_seconds - seconds) / (all_count - count);
        ledger.note(Figure::ChangeCompile, each * 1e3);
    }
}

fn note_connect(synced: &Synced, cpu: f64, ledger: &mut Ledger) {
    let proxies = synced.times.len().max(1) as f64;
    ledger.note(Figure::ConnectAll, synced.took().as_secs_f64());
    ledger.note(Figure::ConnectCpu, cpu * 1e3 / proxies);
    ledger.note(Figure::ConnectBytes, synced.bytes as f64 / 1024.0);
    ledger.note(Figure::ConnectResources, synced.resources as f64);
}

fn note_endpoint(rounds: &Rounds, ledger: &mut Ledger) {
    ledger.note(Figure::EndpointP50, rounds.acknowledged.median());
    ledger.note(Figure::EndpointP99, rounds.acknowledged.quantile(0.99));
    ledger.note(Figure::EndpointMax, rounds.acknowledged.max());
    ledger.note(Figure::EndpointSentP50, rounds.sent.median());
    ledger.note(Figure::EndpointSentP99, rounds.sent.quantile(0.99));
    ledger.note(Figure::EndpointCpu, rounds.cpu);
    ledger.note(Figure::EndpointBytes, rounds.bytes);
    ledger.note(Figure::EndpointClient, rounds.client);
}
