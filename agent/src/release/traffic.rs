//! The requests and connections of callers, by the figures of Envoy.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::Hook;
use crate::admin::{Admin, Inbound};

const POLL: Duration = Duration::from_millis(100);

/// Watches the traffic of callers while the end of the pod is of interest, for ever.
pub(crate) async fn watch_traffic(hook: Arc<Hook>, admin: Admin) -> Result<()> {
    loop {
        hook.until_wanted().await;
        let mut before: Option<Inbound> = None;
        while hook.is_wanted() {
            let found = admin.inbound().await.ok();
            if let (Some(before), Some(now)) = (&before, &found)
                && now.begun > before.begun
            {
                hook.begun(Instant::now());
            }
            hook.known.send_if_modified(|known| {
                let changed = known.inbound != found;
                known.inbound = found;
                changed
            });
            before = found.or(before);
            tokio::time::sleep(POLL).await;
        }
    }
}
