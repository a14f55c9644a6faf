//! Rebalances proxies over the replicas. A replica with more than its share ends a few streams at a time, and those proxies
//! reconnect to any replica. So a new replica fills up gradually.

use std::sync::Arc;
use std::time::Duration;

use heddle_xds_server::Server;
use tokio_util::sync::CancellationToken;

use super::cache::Cache;
use super::peers::Peers;
use crate::serving::MeshSource;
use crate::tasks::Ended;

/// Longer than the reports of the other replicas take, so that every check includes the result of the one before.
const PERIOD: Duration = Duration::from_secs(5);
/// Of its surplus a replica ends one in so many at a time. Where there are two, half of them come back: evenly spread
/// within a minute or two all the same.
const SLOWNESS: usize = 5;
/// Not all of these at once: they would all come at once, too.
const STEPS: u32 = 5;

/// Runs until told to stop.
pub(super) async fn run(
    server: Arc<Server<MeshSource>>,
    peers: Arc<Peers>,
    cache: Arc<Cache>,
    stop: CancellationToken,
) -> Ended {
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(PERIOD) => {}
        }
        let others: Vec<usize> = peers
            .reports(&cache)
            .iter()
            .map(|report| report.connected.len())
            .collect();
        let mine = usize::try_from(server.counters().snapshot().streams_open).unwrap_or(usize::MAX);
        let surplus = surplus(mine, &others);
        if surplus > 0 {
            tracing::info!(
                mine,
                ?others,
                surplus,
                "more proxies than this replica's share; ending some streams"
            );
            let each = surplus.div_ceil(SLOWNESS * STEPS as usize);
            for _ in 0..STEPS {
                server.shed(each);
                tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    () = tokio::time::sleep(PERIOD / STEPS) => {}
                }
            }
        }
    }
}

/// How many proxies too many a replica has. A twentieth more than the mean, and a handful, is even enough.
fn surplus(mine: usize, others: &[usize]) -> usize {
    let replicas = others.len() + 1;
    let mean = (mine + others.iter().sum::<usize>()).div_ceil(replicas);
    let surplus = mine.saturating_sub(mean);
    if surplus * 20 > mean && surplus > 5 {
        surplus
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clear_surplus_of_proxies_is_shed() {
        for (mine, others, expected) in [
            (100, &[][..], 0),
            (100, &[100], 0),
            (104, &[96], 0),
            (120, &[80], 20),
            (80, &[120], 0),
            (1000, &[0], 500),
            (1000, &[1000, 0], 333),
            (6, &[0], 0),
        ] {
            assert_eq!(surplus(mine, others), expected, "{mine} {others:?}");
        }
    }

    #[test]
    fn streams_become_even_and_none_ends_in_vain() {
        let mut replicas = [3000usize, 3000, 0];
        for _ in 0..200 {
            let before = replicas;
            for me in 0..3 {
                let others: Vec<usize> = (0..3)
                    .filter(|other| *other != me)
                    .map(|other| before[other])
                    .collect();
                let gone = surplus(before[me], &others).div_ceil(SLOWNESS);
                // The ended ones are spread over all three.
                replicas[me] -= gone;
                (0..3).for_each(|to| replicas[to] += gone / 3 + usize::from(to < gone % 3));
            }
        }
        assert!(
            replicas
                .iter()
                .all(|proxies| (1750..2150).contains(proxies)),
            "{replicas:?}"
        );
        assert_eq!(replicas.iter().sum::<usize>(), 6000);
    }
}
