//! Waits for one change to reach the proxies that it concerns.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tokio::sync::watch;

use crate::change::Change;
use crate::sim::response::Response;
use crate::sim::{Fleet, Watcher};

/// One change being waited for.
#[derive(Debug)]
pub struct Probe {
    change: Change,
    expected: usize,
    seen: Mutex<Seen>,
    complete: watch::Sender<bool>,
}

#[derive(Debug)]
struct Seen {
    /// Of each proxy.
    at: Vec<Option<Instant>>,
    count: usize,
}

impl Probe {
    /// Looks out for a change that is about to be made, and that so many proxies of the fleet must get.
    pub fn arm(fleet: &Fleet, change: Change, expected: usize) -> Arc<Self> {
        let probe = Arc::new(Self {
            change,
            expected,
            seen: Mutex::new(Seen {
                at: vec![None; fleet.size()],
                count: 0,
            }),
            complete: watch::Sender::new(false),
        });
        let watcher: Arc<dyn Watcher> = Arc::<Self>::clone(&probe);
        fleet.observer().watch(watcher);
        probe
    }

    /// Waits until it has reached all; when it reached each.
    ///
    /// # Errors
    /// When not all have it in time: that is not a figure but a failure.
    pub async fn arrivals(&self, within: Duration) -> Result<Vec<Instant>> {
        let mut complete = self.complete.subscribe();
        let waited = tokio::time::timeout(within, complete.wait_for(|complete| *complete)).await;
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if waited.is_err() {
            bail!(
                "{:?} reached {} of {} proxies in {within:?}",
                self.change,
                seen.count,
                self.expected
            );
        }
        Ok(seen.at.iter().flatten().copied().collect())
    }
}

impl Watcher for Probe {
    fn response(&self, proxy: usize, at: Instant, response: &Response<'_>) {
        if !self.change.is_in(response) {
            return;
        }
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(slot) = seen.at.get_mut(proxy) else {
            return;
        };
        // The first time counts.
        if slot.is_some() {
            return;
        }
        *slot = Some(at);
        seen.count += 1;
        if seen.count == self.expected {
            self.complete.send_replace(true);
        }
    }
}

/// Milliseconds from a moment to each arrival; an arrival before it counts as zero.
pub fn milliseconds(arrivals: &[Instant], since: Instant) -> Vec<f64> {
    arrivals
        .iter()
        .map(|at| at.saturating_duration_since(since).as_secs_f64() * 1e3)
        .collect()
}
