//! The kinds to watch, and optional kinds that are not installed.

use std::time::Duration;

use heddle_policy_compiler::{KindResource, ObjectKind};
use kube::Client;
use tokio_util::sync::CancellationToken;

use super::declared::is_served;

/// An optional kind that is installed later is watched within this time.
pub(super) const LOOK: Duration = Duration::from_secs(10);

/// A kind to watch.
pub(super) struct Watching {
    pub(super) kind: ObjectKind,
    pub(super) resource: KindResource,
    pub(super) client: Client,
}

impl Watching {
    /// Whether a watch failed because an optional kind is not installed. Only the API server's discovery tells: a watch of a group that is not
    /// there fails with text in place of an event, and one without rights with 403.
    pub(super) async fn is_absent(&self) -> bool {
        self.resource.optional && matches!(is_served(&self.client, &self.resource).await, Ok(false))
    }

    /// Returns when the kind is installed, or at the stop.
    pub(super) async fn installed(&self, look: Duration, stop: &CancellationToken) {
        while !matches!(is_served(&self.client, &self.resource).await, Ok(true)) {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(look) => {}
            }
        }
        tracing::info!(kind = self.kind.as_str(), "optional kind installed");
    }
}
