//! Makes changes as fast as the API server takes them: many at a time, those of one service one after another.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use heddle_bench::cluster::Api;
use heddle_bench::cluster::api::refusal;
use heddle_bench::random::Random;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::series::{Call, Change, Series};

/// More do not make a small machine faster.
const AT_ONCE: usize = 16;
/// Changes that wait for one of these.
const WAITING: usize = 32;
/// Changes of a burst, and the longest pause after it.
const BURST: usize = 600;
const PAUSE: Duration = Duration::from_millis(400);

/// So often a call is made that is not answered.
const ATTEMPTS: usize = 3;

/// The counts of the changes made.
#[derive(Debug, Default, Clone)]
pub struct Made {
    /// Changes of each kind.
    pub kinds: BTreeMap<&'static str, usize>,
    /// Calls.
    pub calls: usize,
}

impl Made {
    /// All of them.
    pub fn changes(&self) -> usize {
        self.kinds.values().sum()
    }
}

/// Makes so many changes, and waits until the API server has acknowledged all.
///
/// # Errors
/// When it refuses one.
pub async fn make(
    api: &Api,
    series: &mut Series,
    random: &mut Random,
    count: usize,
    made: &mut Made,
) -> Result<()> {
    let mut writers = JoinSet::new();
    let mut ways = Vec::new();
    for _ in 0..AT_ONCE {
        let (way, changes) = mpsc::channel(WAITING);
        ways.push(way);
        writers.spawn(write(api.clone(), changes));
    }
    let mut burst = random.below(BURST);
    for change in series.take(count) {
        *made.kinds.entry(change.kind).or_default() += 1;
        made.calls += change.calls.len();
        let way = ways.get(change.service % AT_ONCE).context("no writer")?;
        if way.send(change).await.is_err() {
            // A writer reports the reason of its end by itself.
            break;
        }
        if burst == 0 {
            burst = random.below(BURST);
            tokio::time::sleep(PAUSE.mul_f64(random.share())).await;
        }
        burst -= 1;
    }
    drop(ways);
    while let Some(done) = writers.join_next().await {
        done??;
    }
    Ok(())
}

async fn write(api: Api, mut changes: mpsc::Receiver<Change>) -> Result<()> {
    while let Some(Change { kind, calls, .. }) = changes.recv().await {
        for call in calls {
            done(&api, &call).await.with_context(|| kind)?;
        }
    }
    Ok(())
}

/// An API server on a busy machine may not answer in time: whether it has done it shows when it is told again.
async fn done(api: &Api, call: &Call) -> Result<()> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        let (result, done_before) = match call {
            Call::Create(path, object) => (api.create(path, object).await.map(drop), Some(409)),
            Call::Patch(path, patch) => (api.patch(path, patch).await.map(drop), None),
            Call::Delete(path) => (api.delete(path).await, Some(404)),
        };
        let Err(error) = result else { return Ok(()) };
        match refusal(&error) {
            None if attempts < ATTEMPTS => eprintln!("audit: once more: {error:#}"),
            code @ Some(_) if attempts > 1 && code == done_before => return Ok(()),
            _ => return Err(error),
        }
    }
}
