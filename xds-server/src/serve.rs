//! The server: accepts connections, within bounds, and runs the service on them.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use crate::connection::{Connection, Security};
use crate::counters::{Counters, add, sub};
use crate::progress::Registry;
use crate::service::{Ads, Shared};
use crate::session::Limits;
use crate::source::ResourceSource;

/// After a failed `accept` (out of file descriptors), wait this long.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

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
            shutdown_grace: Duration::from_secs(5),
        }
    }
}

/// Why the server ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The HTTP/2 server failed.
    #[error("serving: {0}")]
    Transport(#[from] tonic::transport::Error),
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
            stopping: watch::Sender::new(false),
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

    /// Serves until `shutdown` is done; then streams end with `UNAVAILABLE`, so that clients go elsewhere.
    ///
    /// # Errors
    /// When the HTTP/2 server fails as a whole. What goes wrong on one connection or stream ends only that.
    pub async fn serve(
        &self,
        listener: TcpListener,
        security: Security,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<(), ServeError> {
        let (accepted, connections) = mpsc::channel(1);
        let mut stopping = self.shared.stopping.subscribe();
        let stopped = async move {
            // An error means that the sender is gone, which is the same.
            let _ = stopping.wait_for(|stopping| *stopping).await;
        };
        let service = AggregatedDiscoveryServiceServer::new(Ads(Arc::clone(&self.shared)))
            .max_decoding_message_size(self.options.max_request_bytes);
        let serving = tonic::transport::Server::builder()
            .http2_keepalive_interval(Some(self.options.keepalive_interval))
            .http2_keepalive_timeout(Some(self.options.keepalive_timeout))
            // A client has one stream, and a second one while it reconnects.
            .max_concurrent_streams(16)
            .add_service(service)
            .serve_with_incoming_shutdown(
                ReceiverStream::new(connections).map(Ok::<_, io::Error>),
                stopped,
            );
        let gate = Arc::new(Gate {
            security,
            options: self.options.clone(),
            counters: self.counters(),
        });
        let accepting = gate.accept_all(listener, accepted);
        tokio::pin!(serving);
        tokio::select! {
            served = &mut serving => return Ok(served?),
            () = accepting => {}
            () = shutdown => {}
        }
        self.shared.stopping.send_replace(true);
        match tokio::time::timeout(self.options.shutdown_grace, serving).await {
            Ok(served) => Ok(served?),
            Err(_) => {
                tracing::warn!("some streams did not end in time");
                Ok(())
            }
        }
    }
}

/// What stands between the listener and the service.
struct Gate {
    security: Security,
    options: Options,
    counters: Arc<Counters>,
}

impl Gate {
    /// Accepts until the service takes no more connections. Handshakes run side by side and end with this.
    async fn accept_all(
        self: Arc<Self>,
        listener: TcpListener,
        accepted: mpsc::Sender<Connection>,
    ) {
        let places = Arc::new(Semaphore::new(self.options.max_connections));
        let mut handshakes = JoinSet::new();
        loop {
            tokio::select! {
                tcp = listener.accept() => match tcp {
                    Ok((tcp, _)) => {
                        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                            add(&self.counters.connections_refused, 1);
                            continue;
                        };
                        let (gate, accepted) = (Arc::clone(&self), accepted.clone());
                        handshakes.spawn(async move {
                            if let Some(connection) = gate.handshake(tcp, place).await {
                                // The service is gone only at shutdown.
                                let _ = accepted.send(connection).await;
                            }
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "accept");
                        tokio::time::sleep(ACCEPT_RETRY).await;
                    }
                },
                Some(done) = handshakes.join_next() => if let Err(error) = done {
                    tracing::error!(%error, "a handshake task died");
                },
                () = accepted.closed() => return,
            }
        }
    }

    async fn handshake(
        &self,
        tcp: TcpStream,
        place: tokio::sync::OwnedSemaphorePermit,
    ) -> Option<Connection> {
        let from = tcp.peer_addr().ok();
        let _ = tcp.set_nodelay(true);
        let place = Place::new(place, &self.counters);
        let failure = match tokio::time::timeout(
            self.options.handshake_timeout,
            self.security.accept(tcp, place),
        )
        .await
        {
            Ok(Ok(connection)) => return Some(connection),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "took too long".to_owned(),
        };
        add(&self.counters.handshakes_failed, 1);
        tracing::info!(?from, failure, "handshake failed");
        None
    }
}

/// A connection's place among the open ones.
pub(crate) struct Place {
    _permit: tokio::sync::OwnedSemaphorePermit,
    counters: Arc<Counters>,
}

impl Place {
    fn new(permit: tokio::sync::OwnedSemaphorePermit, counters: &Arc<Counters>) -> Self {
        add(&counters.connections_open, 1);
        Self {
            _permit: permit,
            counters: Arc::clone(counters),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        sub(&self.counters.connections_open, 1);
    }
}
