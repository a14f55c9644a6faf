//! The newest state of the sidecars, as readers of the control plane get it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use super::observation::{ProxyObservations, ProxyState, states};
use crate::certificates::Certificates;
use crate::metrics::SidecarCounts;
use crate::snapshot::Snapshot;

/// The newest state of the sidecars, for readers. It is formatted only on request.
#[derive(Debug, Default)]
pub struct Shown(Mutex<(Arc<Snapshot>, ProxyObservations)>);

impl Shown {
    /// Sets the newest state.
    pub fn show(&self, snapshot: &Arc<Snapshot>, observations: &ProxyObservations) {
        *self.lock() = (Arc::clone(snapshot), observations.clone());
    }

    /// Returns the state of every meshed pod.
    #[must_use]
    pub fn states(&self, certificates: &Certificates) -> Vec<ProxyState> {
        let (snapshot, observations) = self.lock().clone();
        states(&snapshot, &observations, certificates)
    }

    /// Counts the sidecars with a stream here by their state.
    #[must_use]
    pub fn counts(&self, now: SystemTime) -> SidecarCounts {
        let (_, observations) = self.lock().clone();
        let mut counts = SidecarCounts::default();
        let connected = observations.values().filter(|of| of.summary.connected);
        for observation in connected {
            let since = observation.behind_since();
            match (since, observation.summary.rejected.is_empty()) {
                (None, _) => counts.in_sync += 1,
                (Some(_), false) => counts.rejected += 1,
                (Some(since), true) => {
                    counts.behind += 1;
                    let seconds = now.duration_since(since).unwrap_or_default().as_secs();
                    counts.longest_behind_seconds = counts.longest_behind_seconds.max(seconds);
                }
            }
        }
        counts
    }

    fn lock(&self) -> MutexGuard<'_, (Arc<Snapshot>, ProxyObservations)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
