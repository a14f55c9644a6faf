//! Taps: live requests for the control plane, while somebody asks for them.
//!
//! Envoy sends requests to the agent while the runtime value of taps is on. The first of them is the news that there is a tap: the
//! agent then asks the control plane which requests are wanted, and sends those. A tap is a lease at the control plane, and the
//! agent is the second guard: where no control plane answers, or none wants the requests, the agent switches them off in its Envoy.

mod orders;
mod request;
mod service;
mod stream;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use tokio::sync::{mpsc, watch};

use crate::admin::Admin;
use crate::backoff::{backoff, chance};
use crate::secrets::Secrets;
use crate::settings::Settings;
use request::Seen;
use stream::{Ended, Stream};

/// Requests that wait for the stream.
const QUEUE: usize = 512;
/// Failures in a row before Envoy is told to stop: another replica may answer.
const ATTEMPTS: u32 = 3;
/// The first time for which Envoy sends no requests. It doubles up to [`LONGEST_STOP`].
const STOP: Duration = Duration::from_secs(10);
const LONGEST_STOP: Duration = Duration::from_secs(300);

/// Requests that could not be looked at or sent, and were not counted as such in a report.
#[derive(Debug, Default)]
struct Lost(AtomicU64);

impl Lost {
    fn add(&self, requests: u64) {
        self.0.fetch_add(requests, Ordering::Relaxed);
    }

    fn is_any(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }

    fn take(&self) -> u64 {
        self.0.swap(0, Ordering::Relaxed)
    }
}

/// Takes the requests of Envoy, and serves taps with them; only a fault of our own ends it.
pub(crate) async fn serve(
    settings: &Settings,
    socket: &Path,
    admin: Admin,
    secrets: watch::Receiver<Secrets>,
) -> Result<()> {
    let (queue, requests) = mpsc::channel(QUEUE);
    let lost = Arc::new(Lost::default());
    let taps = Taps {
        settings,
        admin,
        secrets,
        requests,
        lost: Arc::clone(&lost),
    };
    tokio::select! {
        ended = service::serve(socket, queue, lost) => ended,
        () = taps.follow() => Ok(()),
    }
}

struct Taps<'a> {
    settings: &'a Settings,
    admin: Admin,
    secrets: watch::Receiver<Secrets>,
    requests: mpsc::Receiver<Seen>,
    lost: Arc<Lost>,
}

impl Taps<'_> {
    async fn follow(mut self) {
        let mut failures = 0;
        while let Some(first) = self.requests.recv().await {
            let (ended, served) = self.run(first).await;
            if served {
                failures = 0;
            }
            match ended {
                Ok(Ended::Quiet) => failures = 0,
                Ok(Ended::Unwanted) => {
                    tracing::info!(
                        "Envoy sends requests for taps, and there is no tap; it is told to stop"
                    );
                    failures = failures.max(ATTEMPTS) + 1;
                    self.stop(failures - ATTEMPTS).await;
                }
                Err(error) => {
                    let error = format!("{error:#}");
                    tracing::info!(error, "requests could not be sent for a tap");
                    failures += 1;
                    match failures.checked_sub(ATTEMPTS) {
                        None | Some(0) => tokio::time::sleep(backoff(failures, chance())).await,
                        Some(stops) => self.stop(stops).await,
                    }
                }
            }
        }
    }

    /// Runs one stream. Returns how it ended, and whether there was a tap.
    async fn run(&mut self, first: Seen) -> (Result<Ended>, bool) {
        match Stream::open(self.settings, &self.secrets, &self.lost, first).await {
            Ok(mut stream) => {
                let ended = stream.run(&mut self.requests).await;
                (ended, stream.served)
            }
            Err(error) => {
                self.lost.add(1);
                (Err(error), false)
            }
        }
    }

    /// Keeps Envoy from sending requests for a while: the `stops`th time in a row.
    async fn stop(&mut self, stops: u32) {
        let doubled = STOP.saturating_mul(1 << stops.saturating_sub(1).min(8));
        self.set(Some(0)).await;
        tokio::time::sleep(doubled.min(LONGEST_STOP)).await;
        while self.requests.try_recv().is_ok() {
            self.lost.add(1);
        }
        self.set(None).await;
    }

    async fn set(&self, share: Option<u32>) {
        if let Err(error) = self.admin.set_taps(share).await {
            // An Envoy that starts again asks the control plane for its runtime values.
            let error = format!("{error:#}");
            tracing::debug!(error, "the runtime value of taps could not be changed");
        }
    }
}
