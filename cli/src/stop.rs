//! The end of a command by Ctrl-C or SIGTERM.

use anyhow::Result;
use tokio::signal::unix::{SignalKind, signal};

/// Ends at Ctrl-C or SIGTERM. From the call on neither ends the process by itself.
///
/// # Errors
/// The signals cannot be received.
pub fn stopped() -> Result<impl Future<Output = ()>> {
    let (mut interrupt, mut terminate) = (
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
    );
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}
