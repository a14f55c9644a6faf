//! Serves the API of taps on `<runtime>/tap.sock`, for the user of the control plane alone.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use heddle_acceptor::{Acceptor, Bounds, Deadlines, Http, Listener, Options, Protocol, Security};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

use crate::listen::routed;
use crate::serving::MeshSource;
use crate::tap_api;
use crate::tasks::Ended;

/// The socket in the runtime directory.
const SOCKET: &str = "tap.sock";

/// Serves until told to stop. Without the socket everything but taps works, so its failure is logged and no more.
///
/// # Errors
/// None; it ends when it is told to.
pub(super) async fn serve(
    mesh: Arc<MeshSource>,
    runtime: PathBuf,
    stop: CancellationToken,
) -> Ended {
    match listen(&runtime.join(SOCKET)) {
        Ok(listener) => {
            let acceptor = Acceptor::new(options(), Arc::default());
            let handler = routed(tap_api::router(mesh));
            acceptor
                .serve(listener, Security::Plain, handler, stop)
                .await?;
        }
        Err(error) => {
            tracing::warn!(%error, "the socket for taps cannot be made: heddle tap does not work; use a shorter --runtime-dir");
            stop.cancelled().await;
        }
    }
    Ok(())
}

/// The runtime directory keeps other users out already; the socket refuses them even so.
fn listen(at: &Path) -> std::io::Result<Listener> {
    match std::fs::remove_file(at) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let user = owner(at)?;
    Ok(Listener::of_user(UnixListener::bind(at)?, user))
}

/// The user of this process: the owner of its runtime directory.
fn owner(at: &Path) -> std::io::Result<u32> {
    let directory = at.parent().unwrap_or(at);
    Ok(std::fs::metadata(directory)?.uid())
}

fn options() -> Options {
    Options {
        name: "taps",
        bounds: Bounds {
            connections: 64,
            per_source: 64,
            reserved: 0,
            displace_busy: false,
        },
        deadlines: Deadlines::default(),
        http: Http {
            protocol: Protocol::Http1,
            ..Http::default()
        },
    }
}
