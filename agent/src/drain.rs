//! The end of a pod: callers are told to go elsewhere, requests in progress may end, outbound works to the last.

use std::time::Duration;

use tokio::time::Instant;

use crate::admin::Admin;
use crate::readiness::Readiness;

const POLL: Duration = Duration::from_millis(100);
/// So long must nothing be going on: endpoints reach the last callers a moment after the signal reaches us.
const QUIET: Duration = Duration::from_secs(1);

/// Returns when nothing is in use, or when the time is over.
pub(crate) async fn drain(readiness: &Readiness, admin: &Admin, time: Duration) {
    let end = Instant::now() + time;
    readiness.drain().await;
    if let Err(error) = admin.drain_inbound().await {
        tracing::warn!(
            error = format!("{error:#}"),
            "callers could not be told to go elsewhere"
        );
    }
    let mut quiet_since = None;
    loop {
        let now = Instant::now();
        match admin.busy().await {
            Ok(0) => {
                if now.duration_since(*quiet_since.get_or_insert(now)) >= QUIET {
                    return;
                }
            }
            Ok(busy) => {
                quiet_since = None;
                if now >= end {
                    tracing::warn!(
                        busy,
                        "the drain time is over with connections or requests still going on"
                    );
                }
            }
            Err(error) => tracing::debug!(error = format!("{error:#}"), "Envoy can't be asked"),
        }
        if now >= end {
            return;
        }
        tokio::time::sleep(POLL).await;
    }
}
