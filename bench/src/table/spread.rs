//! A second replica joins one that all proxies hang on: how connections even out, and whether that does any harm.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use super::figures::{Figure, Ledger};
use super::plan::{Plan, SYNC};
use super::stage::{Ground, members};
use crate::cluster::install::OTHER_POD;
use crate::operator::{Operator, Scraper};
use crate::sim::{Fleet, Replicas, Retry};

const STREAMS: &str = "heddle_streams_open";
/// Connections even out slowly, on purpose.
const AT_LAST: Duration = Duration::from_secs(900);
const LOOK: Duration = Duration::from_millis(250);
/// The fuller replica has at most so much more than half.
const EVEN: f64 = 1.1;
/// Two looks of the control plane without anybody let go: it is over.
const QUIET: Duration = Duration::from_secs(12);
const SECOND: Duration = Duration::from_secs(1);

/// Lets the second one join.
///
/// # Errors
/// When a proxy fails or is lost, or it does not come to an end.
pub async fn run(ground: &mut Ground, plan: &Plan, ledger: &mut Ledger) -> Result<()> {
    let (mut first, root) = ground.operator().await?;
    let members = members(ground.mesh, &root, plan.sizes.proxies, plan.sizes.uses)?;
    let replicas = Replicas::of(&ground.launch.server());
    let mut fleet = Fleet::start_watched(&replicas, members, Retry::AsEnvoy, None)?;
    fleet.synced(SYNC).await?;
    let launch = ground.launch.another(OTHER_POD);
    let mut second = Operator::start(&launch).await?;
    let (before, joined) = (fleet.observer().total(), Instant::now());
    replicas.join(&launch.server());

    let all = [ground.scraper(&root), ground.scraper_of(&launch, &root)];
    let even = settle(&all, &fleet, joined).await?;
    let begun = fleet.begun_since(joined);
    let after = fleet.observer().total();
    ledger.note(Figure::SpreadEven, even.as_secs_f64());
    ledger.note(Figure::SpreadStorm, most_within(&begun, SECOND) as f64);
    ledger.note(Figure::SpreadBegun, begun.len() as f64);
    let unchanged = after.unchanged - before.unchanged;
    ledger.note(Figure::SpreadUnchanged, unchanged as f64);
    let streams = [streams(&all[0]).await?, streams(&all[1]).await?];
    eprintln!(
        "spread: {streams:?} streams in the end, {} begun anew",
        begun.len()
    );
    fleet.all_up()?;
    first.alive()?;
    second.alive()
}

/// Waits until no proxy is let go any more; returns how long it took until the proxies were evenly spread.
async fn settle(all: &[Scraper; 2], fleet: &Fleet, joined: Instant) -> Result<Duration> {
    let deadline = joined + AT_LAST;
    let mut even = None;
    while Instant::now() < deadline {
        tokio::time::sleep(LOOK).await;
        let (a, b) = (streams(&all[0]).await?, streams(&all[1]).await?);
        let half = fleet.size() as f64 / 2.0;
        // A proxy on the way between the two replicas is counted at neither.
        if a.max(b) <= half * EVEN && a.min(b) >= half * (2.0 - EVEN) {
            even.get_or_insert(joined.elapsed());
        }
        let Some(even) = even else { continue };
        let moved = fleet.begun_since(joined).into_iter().max();
        if moved.is_none_or(|moved| moved.elapsed() > QUIET) {
            ensure!(
                a + b == fleet.size() as f64,
                "{a} and {b} streams, of {} proxies",
                fleet.size()
            );
            return Ok(even);
        }
    }
    bail!("the proxies are not evenly spread after {AT_LAST:?}");
}

async fn streams(of: &Scraper) -> Result<f64> {
    Ok(of.scrape().await?.sum(STREAMS).unwrap_or_default())
}

/// The most moments within any such time.
fn most_within(moments: &[Instant], time: Duration) -> usize {
    let mut sorted = moments.to_vec();
    sorted.sort();
    let windows = sorted.iter().enumerate().map(|(at, from)| {
        let end = sorted.partition_point(|moment| *moment < *from + time);
        end - at
    });
    windows.max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busiest_second_is_found_wherever_it_begins() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let moments = [
            at(0),
            at(900),
            at(1100),
            at(1500),
            at(1899),
            at(1900),
            at(5000),
        ];
        assert_eq!(most_within(&moments, SECOND), 4);
        assert_eq!(most_within(&[], SECOND), 0);
    }
}
