//! The store of the learned scopes, one file for each workload: `<directory>/<namespace>.<workload>`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::files::{about, private_directory, write_atomically};
use crate::scope::{self, Scopes};
use crate::tasks::Ended;

/// Lessons that come together are one write.
const PAUSE: Duration = Duration::from_millis(200);

/// Reads the scopes that an earlier run has learned.
///
/// # Errors
/// When the directory or a file in it cannot be read.
pub(super) fn load(directory: &Path, scopes: &Scopes) -> io::Result<()> {
    private_directory(directory)?;
    for entry in std::fs::read_dir(directory).map_err(|error| about(directory, error))? {
        let path = entry?.path();
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned());
        let text = std::fs::read_to_string(&path).map_err(|error| about(&path, error))?;
        if let Some((workload, held)) = name.as_deref().and_then(|name| scope::read(name, &text)) {
            scopes.remember(&workload, &held, false);
        }
    }
    Ok(())
}

/// Writes changed scopes, until told to stop.
///
/// # Errors
/// When a file cannot be written.
pub(super) async fn keep(
    directory: PathBuf,
    scopes: Arc<Scopes>,
    stop: CancellationToken,
) -> Ended {
    let mut changes = scopes.changes();
    loop {
        changes.mark_unchanged();
        for (workload, held) in scopes.unsaved() {
            let path = directory.join(scope::key(&workload));
            if held.is_empty() {
                match std::fs::remove_file(&path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(about(&path, error).into());
                    }
                    Ok(()) | Err(_) => {}
                }
            } else {
                write_atomically(&path, scope::write(&workload, &held).as_bytes())?;
            }
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            changed = changes.changed() => changed.map_err(|_| "the scopes are gone")?,
        }
        tokio::time::sleep(PAUSE).await;
    }
}
