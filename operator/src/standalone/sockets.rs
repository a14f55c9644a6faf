//! Serves an API on a socket of the runtime directory, for the user of the control plane alone.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use heddle_acceptor::{Acceptor, Bounds, Deadlines, Http, Listener, Options, Protocol, Security};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

use crate::listen::routed;
use crate::tasks::Ended;

/// Serves until told to stop. Without the socket everything but its API works, so its failure is logged and no more.
///
/// # Errors
/// None; it ends when it is told to.
pub(super) async fn serve(
    socket: PathBuf,
    name: &'static str,
    router: Router,
    stop: CancellationToken,
) -> Ended {
    match listen(&socket) {
        Ok(listener) => {
            let acceptor = Acceptor::new(options(name), Arc::default());
            let handler = routed(router);
            acceptor
                .serve(listener, Security::Plain, handler, stop)
                .await?;
        }
        Err(error) => {
            let socket = socket.display();
            tracing::warn!(%error, %socket, "the socket of an API cannot be made; use a shorter --runtime-dir");
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

fn options(name: &'static str) -> Options {
    Options {
        name,
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
