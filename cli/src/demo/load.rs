//! Steady traffic of one client, counted by the backend that answered.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Result;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::apps::Answer;
use super::client;

const WORKERS: u64 = 8;
/// The requests a second of the demo's main client.
pub const PER_SECOND: u64 = 300;
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// The first failures are kept word by word, the rest only counted.
const KEPT_ERRORS: usize = 5;

/// The counts of the client.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Requests that were answered with 200, by the version that answered.
    pub by_version: BTreeMap<String, u64>,
    /// All requests that were not.
    pub failed: u64,
    /// The first few failures.
    pub errors: Vec<String>,
}

impl Tally {
    /// All requests that ended.
    pub fn sent(&self) -> u64 {
        self.answered() + self.failed
    }

    /// Requests answered with 200.
    pub fn answered(&self) -> u64 {
        self.by_version.values().sum()
    }

    /// Answers of one version.
    pub fn of(&self, version: &str) -> u64 {
        self.by_version.get(version).copied().unwrap_or(0)
    }

    /// The difference from an earlier reading.
    pub fn since(&self, before: &Self) -> Self {
        let by_version = self
            .by_version
            .iter()
            .map(|(version, count)| (version.clone(), count - before.of(version)))
            .collect();
        let errors = self
            .errors
            .iter()
            .skip(before.errors.len())
            .cloned()
            .collect();
        Self {
            by_version,
            failed: self.failed - before.failed,
            errors,
        }
    }
}

/// Running traffic; dropped, it stops.
pub struct Load {
    tally: Arc<Mutex<Tally>>,
    _workers: JoinSet<()>,
}

impl Load {
    /// Calls `url` from now on, so many times a second over kept connections.
    pub fn start(url: &str, host: &'static str, per_second: u64) -> Self {
        let tally = Arc::new(Mutex::new(Tally::default()));
        let client = client::pooled();
        let mut workers = JoinSet::new();
        for worker in 0..WORKERS {
            let (url, client, tally) = (url.to_owned(), client.clone(), Arc::clone(&tally));
            workers.spawn(async move {
                let offset = Duration::from_micros(1_000_000 * worker / per_second);
                let mut tick =
                    tokio::time::interval(Duration::from_micros(1_000_000 * WORKERS / per_second));
                tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
                tokio::time::sleep(offset).await;
                loop {
                    tick.tick().await;
                    let outcome = once(&client, &url, host).await;
                    count(&tally, outcome);
                }
            });
        }
        Self {
            tally,
            _workers: workers,
        }
    }

    /// The counts so far.
    pub fn read(&self) -> Tally {
        self.tally.lock().map_or_else(
            |poisoned| poisoned.into_inner().clone(),
            |tally| tally.clone(),
        )
    }

    /// Waits for so many more requests, `within` at most, and returns the counts since the call.
    pub async fn next(&self, requests: u64, within: Duration) -> Tally {
        let before = self.read();
        let enough = async {
            loop {
                let so_far = self.read().since(&before);
                if so_far.sent() >= requests {
                    return so_far;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(within, enough)
            .await
            .unwrap_or_else(|_| self.read().since(&before))
    }
}

async fn once(client: &client::HttpClient, url: &str, host: &str) -> Result<String, String> {
    let reply = client::get(client, url, host, CALL_TIMEOUT)
        .await
        .map_err(|error| format!("{error:#}"))?;
    if reply.status != 200 {
        return Err(format!("{} {}", reply.status, reply.text()));
    }
    reply
        .json::<Answer>()
        .map(|answer| answer.version)
        .ok_or_else(|| format!("unreadable: {}", reply.text()))
}

fn count(tally: &Mutex<Tally>, outcome: Result<String, String>) {
    let mut tally = tally
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    match outcome {
        Ok(version) => *tally.by_version.entry(version).or_default() += 1,
        Err(error) => {
            tally.failed += 1;
            if tally.errors.len() < KEPT_ERRORS {
                tally.errors.push(error);
            }
        }
    }
}
