//! Sees every response that reaches any simulated proxy, counts it, and shows it to the watchers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use super::proxy::{Proxy, Tally};
use super::response::Response;

/// A watcher that waits for a certain response.
pub trait Watcher: Send + Sync {
    /// A response reached a proxy. Called on the fleet's only thread: it has to be quick.
    fn response(&self, proxy: usize, at: Instant, response: &Response<'_>);

    /// The resources that the proxy holds after it has taken a response in.
    fn holds(&self, _number: usize, _proxy: &Proxy) {}
}

/// The observer to which all proxies of a fleet report.
#[derive(Default)]
pub struct Observer {
    watcher: RwLock<Option<Arc<dyn Watcher>>>,
    responses: AtomicU64,
    bytes: AtomicU64,
    resources: AtomicU64,
    unchanged: AtomicU64,
    unchanged_bytes: AtomicU64,
}

impl std::fmt::Debug for Observer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Observer")
            .field("total", &self.total())
            .finish_non_exhaustive()
    }
}

impl Observer {
    /// Shows everything that comes from now on to this one, and to no other.
    pub fn watch(&self, watcher: Arc<dyn Watcher>) {
        *self.watcher.write().unwrap_or_else(PoisonError::into_inner) = Some(watcher);
    }

    /// The sum of the responses on all streams.
    pub fn total(&self) -> Tally {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Tally {
            responses: get(&self.responses),
            bytes: get(&self.bytes),
            resources: get(&self.resources),
            unchanged: get(&self.unchanged),
            unchanged_bytes: get(&self.unchanged_bytes),
        }
    }

    pub(super) fn holds(&self, number: usize, proxy: &Proxy) {
        let watcher = self.watcher.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(watcher) = &*watcher {
            watcher.holds(number, proxy);
        }
    }

    pub(super) fn received(
        &self,
        proxy: usize,
        at: Instant,
        response: &Response<'_>,
        (before, after): (Tally, Tally),
    ) {
        let add = |counter: &AtomicU64, more: u64| counter.fetch_add(more, Ordering::Relaxed);
        add(&self.responses, after.responses - before.responses);
        add(&self.bytes, after.bytes - before.bytes);
        add(&self.resources, after.resources - before.resources);
        add(&self.unchanged, after.unchanged - before.unchanged);
        let unchanged = after.unchanged_bytes - before.unchanged_bytes;
        add(&self.unchanged_bytes, unchanged);
        let watcher = self.watcher.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(watcher) = &*watcher {
            watcher.response(proxy, at, response);
        }
    }
}
