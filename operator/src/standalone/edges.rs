//! Writes the traffic of edges to `edges.json`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::files::write_atomically;
use crate::edges::{DEFAULT_WINDOW, EdgeStore};
use crate::tasks::Ended;

/// The time between two looks. Agents report every 5 s, each at a time of its own.
const INTERVAL: Duration = Duration::from_secs(1);

/// Writes the file whenever its content changes.
///
/// # Errors
/// When the file cannot be written.
pub(super) async fn publish(
    edges: Arc<EdgeStore>,
    runtime: PathBuf,
    stop: CancellationToken,
) -> Ended {
    let (file, mut written) = (runtime.join("edges.json"), String::new());
    loop {
        let text = serde_json::to_string(&edges.report(DEFAULT_WINDOW))?;
        if text != written {
            write_atomically(&file, text.as_bytes())?;
            written = text;
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
}
