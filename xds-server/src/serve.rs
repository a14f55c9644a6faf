//! The server: accepts connections, within bounds, and runs the service on them.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::accept::Gate;
use crate::connection::Security;
use crate::counters::{Counters, add};
use crate::progress::Registry;
use crate::service::Shared;
use crate::session::Limits;
use crate::source::ResourceSource;

/// The bounds of the server.
#[derive(Clone, Debug)]
pub struct Options {
    /// The bounds of each stream.
    pub limits: Limits,
    /// Connections open at a time; further ones are closed at once.
    pub max_connections: usize,
    /// TLS handshakes have to be done in this time.
    pub handshake_timeout: Duration,
    /// The largest request accepted, in bytes.
    pub max_request_bytes: usize,
    /// HTTP/2 pings are sent this often: a frozen client does not answer.
    pub keepalive_interval: Duration,
    /// A client that does not answer a ping in this time is disconnected.
    pub keepalive_timeout: Duration,
    /// How often clients are asked to report their loads.
    pub load_report_interval: Duration,
    /// How long streams may take to end at shutdown.
    pub shutdown_grace: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            max_connections: 20_000,
            handshake_timeout: Duration::from_secs(10),
            // A client that reconnects lists all it holds: some 100 bytes for each of its resources.
            max_request_bytes: 8 << 20,
            keepalive_interval: Duration::from_secs(10),
            keepalive_timeout: Duration::from_secs(20),
            load_report_interval: Duration::from_secs(60),
            shutdown_grace: Duration::from_secs(5),
        }
    }
}

/// Why the server ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The listening socket takes no connections any more.
    #[error("listening: {0}")]
    Listener(#[from] io::Error),
}

/// The discovery server for one source.
pub struct Server<S> {
    shared: Arc<Shared<S>>,
    options: Options,
}

impl<S> std::fmt::Debug for Server<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl<S: ResourceSource> Server<S> {
    /// A server that has not begun to serve.
    #[must_use]
    pub fn new(source: Arc<S>, options: Options) -> Self {
        let shared = Shared {
            source,
            registry: Arc::default(),
            counters: Arc::default(),
            limits: options.limits.clone(),
            max_request_bytes: options.max_request_bytes,
            load_report_interval: options.load_report_interval,
            open: Arc::default(),
            stopping: CancellationToken::new(),
        };
        Self {
            shared: Arc::new(shared),
            options,
        }
    }

    /// Who runs what.
    #[must_use]
    pub fn registry(&self) -> Arc<Registry> {
        Arc::clone(&self.shared.registry)
    }

    /// The counters.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.shared.counters)
    }

    /// Ends discovery streams with `UNAVAILABLE`, `count` at most and the oldest first, and lets their connections go, so
    /// that the clients connect anew and may come to another server. Returns how many it ended.
    pub fn shed(&self, count: usize) -> usize {
        let shed = self.shared.open.shed(count);
        add(&self.shared.counters.streams_shed, shed as u64);
        shed
    }

    /// Serves until `shutdown` is done; then streams end with `UNAVAILABLE`, so that clients go elsewhere. After that the
    /// server does not serve again.
    ///
    /// # Errors
    /// When the listener is no more. What goes wrong on one connection or stream ends only that.
    pub async fn serve(
        &self,
        listener: TcpListener,
        security: Security,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<(), ServeError> {
        let mut gate = Gate::new(Arc::clone(&self.shared), security, &self.options);
        let outcome = tokio::select! {
            outcome = gate.accept_all(&listener) => outcome,
            () = shutdown => Ok(()),
        };
        drop(listener);
        self.shared.stopping.cancel();
        let grace = self.options.shutdown_grace;
        if tokio::time::timeout(grace, gate.ended()).await.is_err() {
            tracing::warn!("some connections did not end in time");
        }
        Ok(outcome?)
    }
}
