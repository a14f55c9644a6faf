//! Taps: an agent reports requests, and is told which ones are wanted.

use std::sync::Arc;

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::Node;
use heddle_xds_types::tap::{MAX_ROWS_OF_REPORT, TapOrders, TapReport};
use prost::Message;
use tokio::sync::watch;
use tonic::Status;

use crate::source::{ResourceSource, SubscriberId};

use super::reports::Report;
use super::shared::Shared;
use super::wire::framed;

impl Report for TapReport {
    const STREAM: &'static str = "taps";
    /// The taps of the sidecar, from the first report on.
    type Kept = Option<watch::Receiver<Arc<TapOrders>>>;

    fn node(&self) -> Option<Node> {
        Some(Node {
            id: self.node.clone(),
            ..Node::default()
        })
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
        let mut of_sidecar = shared.source.taps(who, self);
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
