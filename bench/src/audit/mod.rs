//! A long random series of changes, with the control plane cut off from the API server now and then, under its own
//! auditor. At the end, the proxies' endpoints are compared with the API server's objects, without the auditor.

mod auditor;
mod held;
mod report;
mod series;
mod state;
mod trouble;
mod truth;
mod writing;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;

pub use report::markdown;

use crate::cluster::Variant;
use crate::cluster::api::group;
use crate::cutter::Cutter;
use crate::mesh::{ROUTED, namespace_of, service_name};
use crate::paths::ClusterParts;
use crate::random::Random;
use crate::sim::{Fleet, Watcher};
use crate::table::stage::{self, Ground};
use auditor::{Logged, Seen};
use held::Held;
use series::Series;
use truth::{Compared, Truth};
use writing::Made;

/// Services that each proxy uses.
const USES: usize = 5;
/// Of the changes between two replacements of the API server, those that are made while the control plane is cut off.
const CUT_OFF: usize = 5;
/// After the last change, for proxies that have to come back first.
const SETTLE: Duration = Duration::from_secs(60);

/// The run's parameters.
#[derive(Debug, Clone, Args)]
#[group(id = "audit")]
pub struct Plan {
    /// Services, of 10 pods each.
    #[arg(long, default_value_t = 200)]
    pub services: usize,
    /// Proxies, each using 5 services.
    #[arg(long, default_value_t = 100)]
    pub proxies: usize,
    /// Changes.
    #[arg(long, default_value_t = 100_000)]
    pub changes: usize,
    /// How often the API server is replaced while the control plane is cut off from it.
    #[arg(long, default_value_t = 12)]
    pub replacements: usize,
    /// Another series.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// The result of the run.
#[derive(Debug)]
pub struct Findings {
    made: Made,
    /// Until the last change was acknowledged.
    took: Duration,
    cuts: usize,
    connections: u64,
    seen: Seen,
    logged: Logged,
    compared: Compared,
    proxies: usize,
    streams: u64,
}

/// Runs the plan.
///
/// # Errors
/// When a part can't be started, or the API server refuses a change. A difference is not an error here but a finding.
pub async fn measure(parts: &ClusterParts, operator: &Path, plan: &Plan) -> Result<Findings> {
    let variant = Variant {
        compaction: Some(trouble::COMPACTION),
        ..Variant::default()
    };
    let mut ground = Ground::prepare(parts, operator, plan.services, &variant).await?;
    let cutter = Cutter::start(ground.server.address).await?;
    through(&mut ground, &cutter, plan)?;
    let (mut operator, root) = ground.operator().await?;
    for plural in ["trafficsplits", "authpolicies"] {
        let collection = group(state::GROUP, &namespace_of(ROUTED), plural);
        let path = format!("{collection}/{}", service_name(ROUTED));
        ground.api.delete(&path).await?;
    }
    let members = stage::members(ground.mesh, &root, plan.proxies, USES)?;
    let held = Arc::new(Held::default());
    let watcher: Arc<dyn Watcher> = Arc::<Held>::clone(&held);
    let fleet = stage::connect_watched(&ground, members, watcher).await?;
    let scraper = ground.scraper(&root);

    let (mut seen, mut run) = (Seen::default(), Run::new(plan));
    let from = Instant::now();
    tokio::select! {
        done = run.all(&mut ground, &cutter, plan) => done?,
        () = seen.follow(&scraper) => {}
    }
    let took = from.elapsed();
    operator.alive()?;
    eprintln!("audit: the last change is made; an audit from its begin");
    let last = seen.at_last(&scraper).await;
    let log = ground.launch.log();
    let compared = settled(&ground, &held, &fleet).await?;
    let logged = auditor::logged(&log)?;
    if last.is_err() || logged.wrong > 0 || !compared.differences.is_empty() {
        let kept = std::env::temp_dir().join(format!("heddle-audit-{}.log", std::process::id()));
        std::fs::copy(&log, &kept)?;
        eprintln!(
            "audit: the control plane's log is kept in {}",
            kept.display()
        );
    }
    last?;
    fleet.all_up()?;
    Ok(Findings {
        made: run.made,
        took,
        cuts: run.cuts,
        connections: cutter.ended(),
        seen,
        logged,
        compared,
        proxies: fleet.size(),
        streams: fleet.broken(),
    })
}

/// The control plane reaches the API server by the way that can be cut.
fn through(ground: &mut Ground, cutter: &Cutter, plan: &Plan) -> Result<()> {
    let kubeconfig = &ground.launch.kubeconfig;
    let text = std::fs::read_to_string(kubeconfig)?;
    // Of the same address, so that the certificate holds.
    let url = format!("https://{}", cutter.address);
    std::fs::write(kubeconfig, text.replace(&ground.server.url, &url))?;
    ground.launch.environment = vec![
        ("HEDDLE_AUDIT_SECONDS", "1".to_owned()),
        ("HEDDLE_AUDIT_PROXIES", plan.proxies.to_string()),
    ];
    Ok(())
}

/// The changes, and the failures in the meantime.
struct Run {
    series_seed: u64,
    random: Random,
    made: Made,
    cuts: usize,
}

impl Run {
    fn new(plan: &Plan) -> Self {
        Self {
            series_seed: plan.seed,
            random: Random::new(!plan.seed),
            made: Made::default(),
            cuts: 0,
        }
    }

    async fn all(&mut self, ground: &mut Ground, cutter: &Cutter, plan: &Plan) -> Result<()> {
        let mut series = Series::new(ground.mesh, self.series_seed);
        let rounds = plan.replacements.max(1);
        for round in 0..rounds {
            let until = plan.changes * (round + 1) / rounds;
            let count = until - self.made.changes();
            let cut_off = if plan.replacements > 0 {
                count / CUT_OFF
            } else {
                0
            };
            let mut troubles = Random::new(self.random.bits());
            let (api, random, made) = (&ground.api, &mut self.random, &mut self.made);
            tokio::select! {
                done = writing::make(api, &mut series, random, count - cut_off, made) => done?,
                () = trouble::cuts(cutter, &mut troubles, &mut self.cuts) => {}
            }
            if cut_off > 0 {
                cutter.shut();
                self.cuts += 1;
                let since = Instant::now();
                writing::make(api, &mut series, random, cut_off, made).await?;
                tokio::time::sleep(trouble::FORGOTTEN.saturating_sub(since.elapsed())).await;
                trouble::forget(&mut ground.server, cutter, random, &mut self.cuts).await?;
            }
            cutter.open();
            eprintln!("audit: {} of {} changes", self.made.changes(), plan.changes);
        }
        Ok(())
    }
}

/// The comparison without the auditor, as soon as nothing differs, or at the end of the time for that.
async fn settled(ground: &Ground, held: &Held, fleet: &Fleet) -> Result<Compared> {
    let deadline = Instant::now() + SETTLE;
    loop {
        let compared = compare(ground, held, fleet.size()).await?;
        if compared.differences.is_empty() || Instant::now() >= deadline {
            return Ok(compared);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn compare(ground: &Ground, held: &Held, proxies: usize) -> Result<Compared> {
    let truth = Truth::read(&ground.api).await?;
    let mut compared = Compared::default();
    for (number, of) in ground.mesh.pods().take(proxies).enumerate() {
        // The sidecar of a pod that is deleted ends with it.
        if !truth.has(&of.pod) {
            continue;
        }
        let who = format!("{}/{}", of.pod.namespace, of.pod.name);
        match held.by(number) {
            Ok(held) => {
                let uses = ground.mesh.used_by(of.service, USES);
                truth.compare(&who, &uses, &held, &mut compared);
            }
            Err(what) => compared.differences.push(format!("{who}: {what}")),
        }
    }
    Ok(compared)
}
