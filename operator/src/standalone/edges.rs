//! Writes the traffic of edges to `edges.json`, and the ends of pods to `receipts.json`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::files::write_atomically;
use crate::edges::DEFAULT_WINDOW;
use crate::serving::MeshSource;
use crate::tasks::Ended;

/// The time between two looks. Agents report every 5 s, each at a time of its own.
const INTERVAL: Duration = Duration::from_secs(1);

/// Writes the files whenever their content changes.
///
/// # Errors
/// When a file cannot be written.
pub(super) async fn publish(
    mesh: Arc<MeshSource>,
    runtime: PathBuf,
    stop: CancellationToken,
) -> Ended {
    let (edges, withdrawals) = (mesh.edge_store(), mesh.withdrawals());
    let mut written = [
        ("edges.json", String::new()),
        ("receipts.json", String::new()),
    ];
    loop {
        let fresh = [
            serde_json::to_string(&edges.report(DEFAULT_WINDOW))?,
            serde_json::to_string(&withdrawals.report())?,
        ];
        for ((file, known), text) in written.iter_mut().zip(fresh) {
            if text != *known {
                write_atomically(&runtime.join(*file), text.as_bytes())?;
                *known = text;
            }
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
}
