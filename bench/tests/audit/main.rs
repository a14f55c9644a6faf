//! A long random series of changes, with the control plane cut off from the API server now and then, under its own
//! auditor. At the end, the proxies' endpoints are compared with the API server's objects, without the auditor.
//!
//! Changes are drawn by a seed: readiness of endpoints, pods, labels, services and their ports, splits and policies, also
//! faulty ones, and metadata alone. 16 writers make them as fast as the API server takes them, in bursts; those of one
//! service go one after another. The control plane reaches the API server through a TCP proxy that cuts its connections in
//! the middle of TLS, a quarter of the times for up to 4 s.
//!
//! *410 Gone*: the control plane is cut off, changes go on, etcd is compacted twice, and kube-apiserver is killed and started
//! again. The watches then ask for a revision that it does not have. The test fails if none was answered by 410.
//!
//! `HEDDLE_AUDIT_CHANGES` (5,000) and `HEDDLE_AUDIT_SEED` (1) choose the series. `tests/e2e/network.sh` runs the test, once the
//! API server's programs and the control plane are built.

#![allow(
    clippy::unwrap_used,
    reason = "a mistake in a test's own parts may fail the test"
)]

mod auditor;
#[path = "../built/mod.rs"]
mod built;
mod cutter;
mod held;
mod series;
mod state;
mod trouble;
mod truth;
mod writing;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use heddle_bench::cluster::Variant;
use heddle_bench::cluster::api::group;
use heddle_bench::mesh::{ROUTED, namespace_of, service_name};
use heddle_bench::paths::ClusterParts;
use heddle_bench::random::Random;
use heddle_bench::sim::{Fleet, Watcher};
use heddle_bench::table::stage::{self, Ground};

use auditor::Seen;
use cutter::Cutter;
use held::Held;
use series::Series;
use truth::{Compared, Truth};
use writing::Made;

/// Services, of 10 pods each.
const SERVICES: usize = 200;
const PROXIES: usize = 100;
/// Services that each proxy uses.
const USES: usize = 5;
/// Changes for each replacement of the API server.
const CHANGES_PER_REPLACEMENT: usize = 8_000;
/// Of the changes between two replacements of the API server, those that are made while the control plane is cut off.
const CUT_OFF: usize = 5;
/// After the last change, for proxies that have to come back first.
const SETTLE: Duration = Duration::from_secs(60);
/// Differences that are printed.
const SHOWN: usize = 10;

/// The parameters of a run.
struct Plan {
    changes: usize,
    /// How often the API server is replaced while the control plane is cut off from it.
    replacements: usize,
    seed: u64,
}

impl Plan {
    fn from_environment() -> Self {
        let number = |name: &str, default: u64| {
            let text = std::env::var(name);
            text.map_or(default, |text| text.parse().unwrap())
        };
        let changes = usize::try_from(number("HEDDLE_AUDIT_CHANGES", 5_000)).unwrap();
        Self {
            changes,
            replacements: (changes / CHANGES_PER_REPLACEMENT).max(1),
            seed: number("HEDDLE_AUDIT_SEED", 1),
        }
    }
}

/// The result of a run.
#[derive(Debug)]
struct Findings {
    made: Made,
    cuts: usize,
    seen: Seen,
    compared: Compared,
}

#[tokio::test(flavor = "multi_thread")]
async fn after_random_changes_and_cuts_proxies_hold_the_endpoints_that_the_api_server_lists() {
    let (parts, operator) = built::built();
    let plan = Plan::from_environment();
    let findings = run(&parts, &operator, &plan).await.unwrap();
    let Findings {
        made, cuts, seen, ..
    } = &findings;
    println!(
        "{} changes by {} writes; {cuts} cuts, {} lists interrupted, {} watches answered by 410 Gone; {} audits",
        made.changes(),
        made.calls,
        seen.interrupted,
        seen.gone,
        seen.audits
    );
    findings.check().unwrap();
}

impl Findings {
    fn check(&self) -> Result<()> {
        let Self { seen, compared, .. } = self;
        ensure!(seen.mismatches == 0.0, "the auditor found differences");
        ensure!(
            compared.differences.is_empty(),
            "{} endpoints' resources are not as the API server's objects say: {:#?}",
            compared.differences.len(),
            compared.differences.iter().take(SHOWN).collect::<Vec<_>>()
        );
        ensure!(
            compared.resources > 0 && seen.audits > 0.0,
            "nothing was compared"
        );
        ensure!(seen.gone > 0.0, "no watch was answered by 410 Gone");
        Ok(())
    }
}

async fn run(parts: &ClusterParts, operator: &Path, plan: &Plan) -> Result<Findings> {
    let variant = Variant {
        compaction: Some(trouble::COMPACTION),
        ..Variant::default()
    };
    let mut ground = Ground::prepare(parts, operator, SERVICES, &variant).await?;
    let cutter = Cutter::start(ground.server.address).await?;
    through(&mut ground, &cutter)?;
    let (mut operator, root) = ground.operator().await?;
    for plural in ["trafficsplits", "authpolicies"] {
        let collection = group(state::GROUP, &namespace_of(ROUTED), plural);
        let path = format!("{collection}/{}", service_name(ROUTED));
        ground.api.delete(&path).await?;
    }
    let members = stage::members(ground.mesh, &root, PROXIES, USES)?;
    let held = Arc::new(Held::default());
    let watcher: Arc<dyn Watcher> = Arc::<Held>::clone(&held);
    let fleet = stage::connect_watched(&ground, members, watcher).await?;
    let scraper = ground.scraper(&root);

    let mut changes = Run::new(plan);
    changes.all(&mut ground, &cutter, plan).await?;
    operator.alive()?;
    eprintln!("audit: the last change is made; an audit from its begin");
    let seen = auditor::after_the_last_change(&scraper).await;
    let compared = settled(&ground, &held, &fleet).await?;
    let wrong = !compared.differences.is_empty();
    if wrong || !seen.as_ref().is_ok_and(|seen| seen.mismatches == 0.0) {
        let kept = std::env::temp_dir().join(format!("heddle-audit-{}.log", std::process::id()));
        std::fs::copy(ground.launch.log(), &kept)?;
        eprintln!(
            "audit: the control plane's log is kept in {}",
            kept.display()
        );
    }
    fleet.all_up()?;
    Ok(Findings {
        made: changes.made,
        cuts: changes.cuts,
        seen: seen?,
        compared,
    })
}

/// The control plane reaches the API server by the way that can be cut.
fn through(ground: &mut Ground, cutter: &Cutter) -> Result<()> {
    let kubeconfig = &ground.launch.kubeconfig;
    let text = std::fs::read_to_string(kubeconfig)?;
    // Of the same address, so that the certificate holds.
    let url = format!("https://{}", cutter.address);
    std::fs::write(kubeconfig, text.replace(&ground.server.url, &url))?;
    ground.launch.environment = vec![
        ("HEDDLE_AUDIT_SECONDS", "1".to_owned()),
        ("HEDDLE_AUDIT_PROXIES", PROXIES.to_string()),
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
        let rounds = plan.replacements;
        for round in 0..rounds {
            let until = plan.changes * (round + 1) / rounds;
            let count = until - self.made.changes();
            let cut_off = count / CUT_OFF;
            let mut troubles = Random::new(self.random.bits());
            let (api, random, made) = (&ground.api, &mut self.random, &mut self.made);
            tokio::select! {
                done = writing::make(api, &mut series, random, count - cut_off, made) => done?,
                () = trouble::cuts(cutter, &mut troubles, &mut self.cuts) => {}
            }
            cutter.shut();
            self.cuts += 1;
            let since = Instant::now();
            writing::make(api, &mut series, random, cut_off, made).await?;
            tokio::time::sleep(trouble::FORGOTTEN.saturating_sub(since.elapsed())).await;
            trouble::forget(&mut ground.server, cutter, random, &mut self.cuts).await?;
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
