//! The table of docs/performance.md: the control plane's release binary against a real API server, with simulated
//! proxies over real mutual TLS and gRPC.

mod enrol;
mod figures;
mod metadata;
mod owed;
mod plan;
mod report;
mod restart;
mod rounds;
mod session;
mod spread;
pub mod stage;
mod storm;

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};

pub use figures::{Figure, Ledger};
pub use plan::{Case, Plan, Sizes};
pub use report::markdown;

use crate::cluster::Variant;
use crate::paths::ClusterParts;
use stage::Ground;

/// Runs the plan.
///
/// # Errors
/// When a part can't be started, a proxy fails, or a change does not arrive: there are no figures then.
pub async fn measure(parts: &ClusterParts, operator: &Path, plan: &Plan) -> Result<Ledger> {
    let mut ledger = Ledger::default();
    let sizes = &plan.sizes;
    let variant = Variant {
        no_streamed_lists: plan.no_watch_list,
        ..Variant::default()
    };
    if plan.has_first() || plan.has(Case::Single) || plan.has(Case::Spread) {
        let mut ground = Ground::prepare(parts, operator, sizes.services, &variant).await?;
        for run in 1..=plan.runs {
            if plan.has_first() {
                let from = started(sizes.services, sizes.proxies, run, plan.runs);
                let done = session::first(&mut ground, plan, &mut ledger).await;
                ended(done, from)?;
            }
            if plan.has(Case::Spread) {
                let from = started(sizes.services, sizes.proxies, run, plan.runs);
                ended(spread::run(&mut ground, plan, &mut ledger).await, from)?;
            }
            if plan.has(Case::Single) {
                let from = started(sizes.services, 1, run, plan.runs);
                ended(session::single(&mut ground, plan, &mut ledger).await, from)?;
            }
        }
    }
    if plan.has(Case::Large) {
        let mut ground = Ground::prepare(parts, operator, sizes.large_services, &variant).await?;
        for run in 1..=plan.runs {
            let from = started(sizes.large_services, sizes.large_proxies, run, plan.runs);
            ended(session::large(&mut ground, plan, &mut ledger).await, from)?;
        }
    }
    if plan.has(Case::Huge) {
        let mut ground = Ground::prepare(parts, operator, sizes.huge_services, &variant).await?;
        for run in 1..=plan.runs {
            let from = started(sizes.huge_services, sizes.huge_proxies, run, plan.runs);
            ended(session::huge(&mut ground, plan, &mut ledger).await, from)?;
        }
    }
    Ok(ledger)
}

fn started(services: usize, proxies: usize, run: usize, runs: usize) -> Instant {
    eprintln!("table: {services} services, {proxies} proxies, run {run} of {runs}");
    Instant::now()
}

fn ended(result: Result<()>, from: Instant) -> Result<()> {
    let took = from.elapsed().as_secs_f64();
    result.with_context(|| format!("after {took:.0} s"))?;
    eprintln!("table: done in {took:.0} s");
    Ok(())
}
