//! Many endpoint changes a second: how late they arrive, and whether the number of those under way grows.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::task::JoinSet;

use super::figures::{Figure, Ledger};
use super::owed::{Arrival, Owed};
use super::plan::Plan;
use super::stage::{Ground, readiness, users};
use crate::machine::cpu_seconds;
use crate::mesh::CHANGING;
use crate::objects::Ready;
use crate::sim::{Fleet, Watcher};
use crate::stats::Sample;

/// After the last change everything has to have arrived in this time, or it is counted as never.
const DRAIN: Duration = Duration::from_secs(60);

/// Makes the changes at the plan's rate.
///
/// # Errors
/// When the API server refuses one.
pub async fn run(
    ground: &Ground,
    fleet: &Fleet,
    pid: u32,
    plan: &Plan,
    ledger: &mut Ledger,
) -> Result<()> {
    let count = plan.sizes.storm_rate * plan.sizes.storm_seconds;
    let users = users(ground, fleet.size(), plan.sizes.uses);
    let owed = Arc::new(Owed::new(ground.mesh.services()));
    let watcher: Arc<dyn Watcher> = Arc::<Owed>::clone(&owed);
    fleet.observer().watch(watcher);
    let cpu = cpu_seconds(pid)?;
    let from = Instant::now();
    let last = write_all(ground, plan, count, (&users, &owed)).await?;
    let spent = cpu_seconds(pid)? - cpu;
    let wrote = last - from;
    let deadline = Instant::now() + DRAIN;
    while owed.outstanding() > 0 && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let never = owed.outstanding();
    let arrivals = owed.arrivals();
    note(&arrivals, count, ledger);
    let end = arrivals.iter().map(|arrival| arrival.at).max();
    let drain = end.map_or(Duration::ZERO, |end| end.saturating_duration_since(last));
    ledger.note(Figure::StormDrain, drain.as_secs_f64() * 1e3);
    ledger.note(Figure::StormBacklog, owed.worst() as f64);
    let share = spent / wrote.as_secs_f64();
    ledger.note(Figure::StormCpu, share * 100.0);
    eprintln!(
        "storm: {count} changes in {:.1} s, {} arrivals, {never} never came",
        wrote.as_secs_f64(),
        arrivals.len()
    );
    fleet.all_up()?;
    anyhow::ensure!(never == 0, "{never} arrivals of many changes never came");
    for service in 0..ground.mesh.services().min(count as usize) {
        ground.set_ready(service, Ready::all()).await?;
    }
    Ok(())
}

/// Open loop: each change goes out when it is due, however long those before take. When the last was acknowledged.
async fn write_all(
    ground: &Ground,
    plan: &Plan,
    count: u32,
    (users, owed): (&[usize], &Arc<Owed>),
) -> Result<Instant> {
    let mut writes = JoinSet::new();
    let step = Duration::from_secs(1) / plan.sizes.storm_rate.max(1);
    let mut due = tokio::time::interval(step);
    due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
    let mut times = vec![0_usize; ground.mesh.services()];
    for number in 0..count {
        due.tick().await;
        let service = service(number, ground.mesh.services(), plan.storm_common);
        let Some(time) = times.get_mut(service) else {
            continue;
        };
        *time += 1;
        // Never the same twice in a row: a server that sends only the last of several has something to send.
        let ready = Ready::numbered(*time);
        let users = users.get(service).copied().unwrap_or_default();
        let change = owed.announce(service, ready, users);
        let (api, owed) = (ground.api.clone(), Arc::clone(owed));
        let (path, patch) = readiness(service, ready);
        writes.spawn(async move {
            let written = api.patch(&path, &patch).await?;
            owed.acknowledge(change, written.acknowledged);
            anyhow::Ok(written.acknowledged)
        });
        while let Some(done) = writes.try_join_next() {
            done??;
        }
    }
    let mut last = Instant::now();
    while let Some(done) = writes.join_next().await {
        last = last.max(done??);
    }
    Ok(last)
}

/// Every so many is the one that all use, the others go round.
fn service(number: u32, services: usize, common: u32) -> usize {
    if common > 0 && number.is_multiple_of(common) {
        return CHANGING;
    }
    let number = usize::try_from(number).unwrap_or(0);
    1 + number % (services - 1)
}

fn note(arrivals: &[Arrival], count: u32, ledger: &mut Ledger) {
    let of = |from: u32, to: u32| {
        let within = arrivals
            .iter()
            .filter(|arrival| (from..to).contains(&arrival.change));
        Sample::new(within.map(|arrival| arrival.milliseconds()))
    };
    let all = of(0, count);
    ledger.note(Figure::StormP50, all.median());
    ledger.note(Figure::StormP99, all.quantile(0.99));
    let quarter = count / 4;
    ledger.note(Figure::StormFirst, of(0, quarter).quantile(0.99));
    let last = of(count - quarter, count).quantile(0.99);
    ledger.note(Figure::StormLast, last);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_go_round_and_the_common_one_comes_often() {
        let services: Vec<usize> = (0..1000).map(|n| service(n, 50, 10)).collect();
        assert_eq!(services.iter().filter(|s| **s == CHANGING).count(), 100);
        assert!((1..50).all(|s| services.contains(&s)));
        assert!((0..1000).all(|n| service(n, 50, 0) != CHANGING));
    }
}
