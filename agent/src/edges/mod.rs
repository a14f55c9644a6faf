//! The traffic of the sidecar's edges, reported to the control plane.
//!
//! The agent reads the golden metrics of its own Envoy every 5 seconds, reduces the series that have changed to edges, and
//! sends them on a stream of its own. A control plane that cannot be reached costs nothing but the data: the queue is
//! bounded, and the next report has the number of requests that were lost.

mod reading;
mod stream;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use heddle_xds_types::edges::{EdgeCounts, EdgeName};
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;

use crate::admin::Admin;
use crate::backoff::chance;
use crate::secrets::Secrets;
use crate::settings::Settings;
use reading::Reader;

/// The time between two readings. Envoy merges its histograms as often.
const INTERVAL: Duration = Duration::from_secs(5);
/// Readings that wait for the control plane: half a minute of them.
const QUEUE: usize = 6;

/// The traffic of the edges between two readings.
type Traffic = HashMap<EdgeName, EdgeCounts>;

/// Requests and connections that could not be reported, and were not counted as such in a report.
#[derive(Default)]
struct Lost(AtomicU64);

impl Lost {
    fn add(&self, requests: u64) {
        self.0.fetch_add(requests, Ordering::Relaxed);
    }

    fn traffic(&self, traffic: &Traffic) {
        let all = traffic.values();
        self.add(
            all.map(|counts| counts.requests() + u64::from(counts.connections))
                .sum(),
        );
    }

    fn take(&self) -> u64 {
        self.0.swap(0, Ordering::Relaxed)
    }
}

/// Reports for ever; only a fault of our own ends it.
pub(crate) async fn report(
    settings: &Settings,
    admin: Admin,
    secrets: watch::Receiver<Secrets>,
) -> Result<()> {
    let (queue, readings) = mpsc::channel(QUEUE);
    let lost = Arc::new(Lost::default());
    tokio::select! {
        () = read(admin, queue, &lost) => Ok(()),
        () = stream::send(settings, &secrets, readings, &lost) => Ok(()),
    }
}

async fn read(admin: Admin, queue: mpsc::Sender<Traffic>, lost: &Lost) {
    // The pods of a deployment start together, and should not report together.
    tokio::time::sleep(INTERVAL.mul_f64(chance().share())).await;
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut reader = Reader::default();
    loop {
        ticks.tick().await;
        reader.begin();
        if let Err(error) = admin.golden(&mut |line| reader.take(line)).await {
            // Envoy has not started, or starts again. The next reading has the traffic of this one.
            let error = format!("{error:#}");
            tracing::debug!(error, "the golden metrics were not read");
            continue;
        }
        let (traffic, beyond) = reader.end();
        lost.add(beyond);
        if traffic.is_empty() {
            continue;
        }
        if let Err(mpsc::error::TrySendError::Full(traffic)) = queue.try_send(traffic) {
            lost.traffic(&traffic);
        }
    }
}
