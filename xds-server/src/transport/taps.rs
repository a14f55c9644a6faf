//! Taps: an agent reports requests, and is told which ones are wanted.

use std::sync::Arc;

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::Node;
use heddle_xds_types::tap::{MAX_ORDERS, MAX_ROWS_OF_REPORT, TapOrders, TapReport};
use prost::Message;
use tokio::sync::watch;
use tonic::Status;

use crate::source::{ResourceSource, SubscriberId};

use super::reports::{Report, node};
use super::shared::Shared;
use super::wire::framed;

/// The largest row in bytes. One with texts as long as they may be, in ASCII, has less.
const MAX_ROW: usize = 8 << 10;
/// The most requests that one report can count.
const MAX_COUNT: u64 = 1_000_000;

impl Report for TapReport {
    const STREAM: &'static str = "taps";
    /// The taps of the sidecar, from the first report on.
    type Kept = Option<watch::Receiver<Arc<TapOrders>>>;

    fn node(&self) -> Option<Node> {
        Some(node(&self.node))
    }

    fn check<S>(&self, _: &Shared<S>) -> Result<(), Status> {
        if self.rows.len() > MAX_ROWS_OF_REPORT || self.left_out.len() > MAX_ROWS_OF_REPORT {
            return Err(Status::resource_exhausted("too many requests"));
        }
        Ok(())
    }

    /// The first orders answer the first report.
    fn answer<S>(_: &Shared<S>) -> Option<Bytes> {
        None
    }

    fn deliver<S: ResourceSource>(
        self,
        shared: &Shared<S>,
        who: &SubscriberId,
        orders: &mut Self::Kept,
    ) -> Result<(), Status> {
        let mut of_sidecar = shared.source.taps(who, bounded(self));
        if orders.is_none() {
            of_sidecar.mark_changed();
            *orders = Some(of_sidecar);
        }
        Ok(())
    }

    async fn news(orders: &mut Self::Kept) -> Bytes {
        if let Some(orders) = orders
            && orders.changed().await.is_ok()
        {
            let orders = Arc::clone(&orders.borrow_and_update());
            return framed(orders.encoded_len(), |out| {
                // The buffer grows as it has to.
                let _ = orders.encode(out);
            });
        }
        // Without a report, or from a source that has no taps.
        std::future::pending().await
    }
}

/// Returns the report of an agent within the bounds of an honest one. The rows that are too large are counted as lost.
fn bounded(mut report: TapReport) -> TapReport {
    let all = report.rows.len();
    report.rows.retain(|row| row.encoded_len() <= MAX_ROW);
    let removed = (all - report.rows.len()) as u64;
    report.lost = report.lost.min(MAX_COUNT) + removed;
    for row in &mut report.rows {
        row.taps.sort_unstable();
        row.taps.dedup();
        row.taps.truncate(MAX_ORDERS);
    }
    for left_out in &mut report.left_out {
        left_out.count = left_out.count.min(MAX_COUNT);
    }
    report
}

#[cfg(test)]
mod tests {
    use heddle_xds_types::tap::{LeftOut, TapRow, TappedRequest};

    use super::*;

    #[test]
    fn a_report_of_a_rogue_agent_is_cut_to_the_bounds_of_an_honest_one() {
        let row = |path: usize, taps: &[u64]| TapRow {
            taps: taps.to_vec(),
            request: Some(TappedRequest {
                path: "x".repeat(path),
                ..TappedRequest::default()
            }),
        };
        let report = bounded(TapReport {
            rows: vec![row(9000, &[1]), row(400, &[7, 7, 3, 7])],
            lost: u64::MAX,
            left_out: vec![LeftOut {
                tap: 1,
                count: u64::MAX,
            }],
            ..TapReport::default()
        });
        assert_eq!(report.rows.len(), 1);
        assert_eq!(report.rows[0].taps, [3, 7]);
        assert_eq!(report.lost, MAX_COUNT + 1);
        assert_eq!(report.left_out[0].count, MAX_COUNT);
    }
}
