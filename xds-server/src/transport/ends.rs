//! The ends of pods: an agent reports, and is told how far the removal of its pod is.

use std::time::Instant;

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::Node;
use heddle_xds_types::rollout::{EndReport, WithdrawalReport};
use prost::Message;
use tokio::sync::watch;
use tonic::Status;

use crate::source::{ResourceSource, SubscriberId, Withdrawal};

use super::reports::{Report, node};
use super::shared::Shared;
use super::wire::framed;

impl Report for EndReport {
    const STREAM: &'static str = "ends of pods";
    /// The withdrawal of the pod, from the first report on.
    type Kept = Option<watch::Receiver<Withdrawal>>;

    fn node(&self) -> Option<Node> {
        Some(node(&self.node))
    }

    fn check<S>(&self, _: &Shared<S>) -> Result<(), Status> {
        Ok(())
    }

    /// The first news answer the first report.
    fn answer<S>(_: &Shared<S>) -> Option<Bytes> {
        None
    }

    fn deliver<S: ResourceSource>(
        self,
        shared: &Shared<S>,
        who: &SubscriberId,
        withdrawal: &mut Self::Kept,
    ) -> Result<(), Status> {
        let mut of_pod = shared.source.ends(who, &self);
        if withdrawal.is_none() {
            of_pod.mark_changed();
            *withdrawal = Some(of_pod);
        }
        Ok(())
    }

    async fn news(withdrawal: &mut Self::Kept) -> Bytes {
        if let Some(withdrawal) = withdrawal
            && withdrawal.changed().await.is_ok()
        {
            return frame(&withdrawal.borrow_and_update());
        }
        // Without a report, or from a source that follows no ends of pods.
        std::future::pending().await
    }
}

fn frame(withdrawal: &Withdrawal) -> Bytes {
    let report = report(withdrawal, Instant::now());
    framed(report.encoded_len(), |out| {
        // The buffer grows as it has to.
        let _ = report.encode(out);
    })
}

fn report(withdrawal: &Withdrawal, now: Instant) -> WithdrawalReport {
    let ago = |since: Instant| {
        let ms = now.saturating_duration_since(since).as_millis();
        u64::try_from(ms).unwrap_or(u64::MAX)
    };
    WithdrawalReport {
        terminating: withdrawal.terminating,
        services: withdrawal.services,
        withdrawn_ago_ms: withdrawal.withdrawn.map(ago),
        total: withdrawal.total,
        acknowledged: withdrawal.acknowledged,
        away: withdrawal.away,
        complete: withdrawal.completed.is_some(),
        completed_ago_ms: withdrawal.completed.map(ago),
    }
}
