//! The flat-memory curve: the memory of a real Envoy that calls a few destinations of a small, a large and a very large
//! mesh, with capture as in a pod. Everything runs in network namespaces of its own; needs root.

mod client;
mod figures;
mod net;
mod plot;
mod report;
mod sidecar;
mod world;

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Args;

pub use figures::{Curve, Stage};
pub use plot::svg;
pub use report::markdown;

use crate::control_plane::ControlPlane;
use crate::echo;
use crate::mesh::{APP_PORT, Mesh};
use crate::paths::Parts;
use client::call;
use figures::Point;
use net::{Networks, OUTSIDE_IP};
use sidecar::Sidecar;

/// A first call may have to wait for a busy machine, but not for ever.
const CALL: Duration = Duration::from_secs(15);
/// A scanner does not wait long.
const SCAN_CALL: Duration = Duration::from_secs(5);
const SCAN_AT_ONCE: usize = 64;

/// The run's parameters.
#[derive(Debug, Clone, Args)]
#[group(id = "memory")]
pub struct Plan {
    /// Services of the meshes, of 10 pods each.
    #[arg(long, value_delimiter = ',', default_value = "100,1000,10000")]
    pub meshes: Vec<usize>,
    /// Addresses that the scan tries.
    #[arg(long, default_value_t = 10_000)]
    pub scan: usize,
    /// Runs, each with a fresh control plane and fresh sidecars.
    #[arg(long, default_value_t = 3)]
    pub memory_runs: usize,
}

/// Services that the first workload calls, and then in all.
const CALLS: [usize; 2] = [5, 50];

/// Runs the plan.
///
/// # Errors
/// When a process ends, or a scan does harm.
pub async fn measure(parts: &Parts, plan: &Plan) -> Result<Curve> {
    let mut curve = Curve::default();
    let [_, most] = CALLS;
    ensure!(
        plan.meshes.iter().all(|services| *services >= most),
        "the meshes need the {most} services that are called"
    );
    for &services in &plan.meshes {
        for run in 1..=plan.memory_runs {
            eprintln!(
                "memory: {services} services, run {run} of {}",
                plan.memory_runs
            );
            let from = Instant::now();
            one(parts, plan, Mesh::new(services)?, &mut curve).await?;
            eprintln!("memory: done in {:.0} s", from.elapsed().as_secs_f64());
        }
    }
    Ok(curve)
}

async fn one(parts: &Parts, plan: &Plan, mesh: Mesh, curve: &mut Curve) -> Result<()> {
    let work = tempfile::tempdir()?;
    let dir = work.path().join("world");
    std::fs::create_dir(&dir)?;
    let workloads = ["few", "pods", "scan"].map(world::pod);
    let [few, pods, scan] = &workloads;
    world::write(&dir, mesh, &workloads)?;
    let networks = Networks::new()?;
    echo::start_at(&networks.outside, ([0, 0, 0, 0], APP_PORT).into())?;
    let control_plane = ControlPlane::start_at(
        &networks.outside,
        OUTSIDE_IP,
        &parts.operator,
        &dir,
        work.path(),
    )
    .await?;
    let start =
        async |pod| Sidecar::start(parts, &control_plane, &networks.pod, pod, work.path()).await;
    let mut note = |stage, held, calls| curve.note(mesh.services(), stage, Point { held, calls });
    {
        let mut sidecar = start(few).await?;
        note(Stage::Started, sidecar.settled().await?, None);
        let [first, all] = CALLS;
        for (stage, from, to) in [(Stage::Few, 0, first), (Stage::Many, first, all)] {
            // Spread over the whole mesh, and not only its first namespace.
            let step = mesh.services() / all;
            let addresses: Vec<String> = (from..to)
                .map(|number| world::service_address(number * step))
                .collect();
            let calls = call(&networks.pod, &addresses, 1, CALL).await?;
            note(stage, sidecar.settled().await?, Some(calls));
        }
    }
    {
        let mut sidecar = start(pods).await?;
        let addresses: Vec<String> = (0..world::PEERS).map(world::peer_address).collect();
        let calls = call(&networks.pod, &addresses, 1, CALL).await?;
        note(Stage::Pods, sidecar.settled().await?, Some(calls));
    }
    let mut sidecar = start(scan).await?;
    let known: Vec<String> = (0..CALLS[0]).map(world::service_address).collect();
    call(&networks.pod, &known, 1, CALL).await?;
    let scanned = world::scanned(mesh, plan.scan);
    let calls = call(&networks.pod, &scanned, SCAN_AT_ONCE, SCAN_CALL).await?;
    note(Stage::Scan, sidecar.settled().await?, Some(calls));
    // It does no harm: destinations that were in use still are.
    let after = call(&networks.pod, &known, 1, CALL).await?;
    ensure!(after.failed == 0, "after the scan not all services answer");
    Ok(())
}
