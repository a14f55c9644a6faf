//! The kinds to watch, and optional kinds that are not installed.

use std::time::Duration;

use heddle_policy_compiler::{KindResource, ObjectKind};
use kube::Client;
use kube::runtime::watcher;
use tokio_util::sync::CancellationToken;

use super::declared::is_served;
use super::failures::may_be_missing;

/// An optional kind that is installed later is watched within this time.
pub(super) const LOOK: Duration = Duration::from_secs(10);

/// A kind to watch.
pub(super) struct Watching {
    pub(super) kind: ObjectKind,
    pub(super) resource: KindResource,
    pub(super) client: Client,
}

impl Watching {
    /// Whether a watch failed because an optional kind is not installed. The API server's discovery has to agree: objects that are there must
    /// not be taken away by a proxy that answers 404.
    pub(super) async fn is_absent(&self, error: &watcher::Error) -> bool {
        self.resource.optional
            && may_be_missing(error)
            && matches!(is_served(&self.client, &self.resource).await, Ok(false))
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
