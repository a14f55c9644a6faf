//! The kinds to watch, and optional kinds that are not installed.

use std::time::Duration;

use heddle_policy_compiler::{KindResource, ObjectKind};
use kube::Client;
use tokio_util::sync::CancellationToken;

use super::declared::served;

/// An optional kind that is installed later is watched within this time.
pub(super) const LOOK: Duration = Duration::from_secs(10);

/// A kind to watch.
pub(super) struct Watching {
    pub(super) kind: ObjectKind,
    pub(super) resource: KindResource,
    pub(super) client: Client,
}

impl Watching {
    /// Whether a watch failed because an optional kind is not installed. Only the API server's discovery shows it: a watch of a group that is not
    /// there fails with text in place of an event, and one without rights with 403.
    pub(super) async fn is_absent(&self) -> bool {
        self.resource.optional && matches!(served(&self.client, &self.resource).await, Ok(None))
    }

    /// The version to watch, if it is not this one: the newest that is served. Kinds of one version are not looked for.
    pub(super) async fn other_version(&self, watched: &KindResource) -> Option<KindResource> {
        if self.resource.older.is_empty() {
            return None;
        }
        let served = served(&self.client, &self.resource).await.ok()??;
        (served != *watched).then_some(served)
    }

    /// Returns when the kind is installed, or at the stop.
    pub(super) async fn installed(&self, look: Duration, stop: &CancellationToken) {
        while !matches!(served(&self.client, &self.resource).await, Ok(Some(_))) {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(look) => {}
            }
        }
        tracing::info!(kind = self.kind.as_str(), "optional kind installed");
    }
}
