//! Sees every response that reaches any simulated proxy, and notes when a change reached each of them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryResponse;
use prost::Message;
use tokio::sync::watch;

use crate::change::Change;

/// One change being waited for.
#[derive(Debug)]
struct Probe {
    change: Change,
    from: Instant,
    expected: usize,
    seen: Mutex<BTreeMap<usize, Duration>>,
    complete: watch::Sender<bool>,
}

/// When a change was acknowledged: one time for each proxy that it reached.
#[derive(Debug, Clone)]
pub struct Arrivals(pub Vec<Duration>);

impl Arrivals {
    /// Until the last of them.
    pub fn last(&self) -> Duration {
        self.0.iter().copied().max().unwrap_or_default()
    }
}

/// What all proxies of a fleet report to.
#[derive(Debug, Default)]
pub struct Observer {
    probe: RwLock<Option<Arc<Probe>>>,
    bytes: AtomicU64,
    responses: AtomicU64,
}

/// A change that is being waited for; the clock runs.
#[derive(Debug)]
pub struct Armed {
    probe: Arc<Probe>,
    complete: watch::Receiver<bool>,
}

impl Observer {
    /// Starts the clock for a change that is about to be made, and that so many proxies must acknowledge.
    pub fn arm(&self, change: Change, expected: usize) -> Armed {
        let (sender, complete) = watch::channel(false);
        let mut slot = self.probe.write().unwrap_or_else(PoisonError::into_inner);
        let probe = Arc::new(Probe {
            change,
            from: Instant::now(),
            expected,
            seen: Mutex::new(BTreeMap::new()),
            complete: sender,
        });
        *slot = Some(Arc::clone(&probe));
        Armed { probe, complete }
    }

    /// Looks at a response; whether it brings the change being waited for.
    pub(super) fn received(&self, response: &DeltaDiscoveryResponse) -> Option<Reached> {
        self.bytes
            .fetch_add(response.encoded_len() as u64, Ordering::Relaxed);
        self.responses.fetch_add(1, Ordering::Relaxed);
        let probe = self
            .probe
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()?;
        probe.change.is_in(response).then_some(Reached(probe))
    }

    /// Bytes of all responses so far, as messages: before HTTP/2 framing and TLS.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// How many responses there were so far.
    pub fn responses(&self) -> u64 {
        self.responses.load(Ordering::Relaxed)
    }
}

/// A proxy has got the change and not acknowledged it yet.
#[derive(Debug)]
pub(super) struct Reached(Arc<Probe>);

impl Reached {
    /// The ACK is handed to the stream.
    pub(super) fn acknowledged(self, proxy: usize) {
        let elapsed = self.0.from.elapsed();
        let mut seen = self.0.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.entry(proxy).or_insert(elapsed);
        if seen.len() >= self.0.expected {
            self.0.complete.send_replace(true);
        }
    }
}

impl Armed {
    /// Waits for the last ACK.
    ///
    /// # Errors
    /// When not all have acknowledged in time: that is no figure but a failure.
    pub async fn arrivals(mut self, within: Duration) -> Result<Arrivals> {
        let waited =
            tokio::time::timeout(within, self.complete.wait_for(|complete| *complete)).await;
        let seen = self
            .probe
            .seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if waited.is_err() {
            bail!(
                "{:?} reached {} of {} proxies in {within:?}",
                self.probe.change,
                seen.len(),
                self.probe.expected
            );
        }
        Ok(Arrivals(seen.values().copied().collect()))
    }
}
