//! The agent's own servers for its Envoy, each on a Unix socket in the private directory.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use heddle_acceptor::{
    Acceptor, Bounds, ConnectionHandler, Deadlines, Http, Listener, Options, Protocol, Security,
};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

use crate::dir;

/// A server on a socket.
pub(crate) struct Server {
    /// Its name in metrics and errors.
    pub(crate) name: &'static str,
    pub(crate) protocol: Protocol,
    /// The time for a request. `None`: without an end.
    pub(crate) request: Option<Duration>,
}

impl Server {
    /// Serves until the socket fails. An old socket of the same name is replaced.
    pub(crate) async fn serve<H: ConnectionHandler>(self, at: &Path, handler: H) -> Result<()> {
        dir::remove(at)?;
        let listener = UnixListener::bind(at)
            .with_context(|| format!("{} can't be listened on", at.display()))?;
        // The directory keeps other users out already; the socket refuses them even so.
        let listener = Listener::of_user(listener, nix::unistd::geteuid().as_raw());
        let name = self.name;
        let acceptor = Acceptor::new(self.options(), Arc::default());
        let never = CancellationToken::new();
        acceptor
            .serve(listener, Security::Plain, handler, never)
            .await
            .with_context(|| format!("the socket of the {name} failed"))
    }

    /// Envoy keeps few connections: one for the secrets, some for readers of metrics.
    fn options(self) -> Options {
        Options {
            name: self.name,
            bounds: Bounds {
                connections: 64,
                per_source: 64,
                reserved: 0,
                displace_busy: false,
            },
            deadlines: Deadlines {
                request: self.request,
                ..Deadlines::default()
            },
            http: Http {
                protocol: self.protocol,
                ..Http::default()
            },
        }
    }
}
