//! What stands between the listener and the services: accepts connections, within bounds, and runs each as a task.

use std::convert::Infallible;
use std::future::ready;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinError, JoinSet};

use crate::connection::{Connection, Security};
use crate::counters::{Counters, add, sub};
use crate::open::Link;
use crate::serve::Options;
use crate::service::{Shared, answer};
use crate::source::{Peer, ResourceSource};

/// After a failed `accept` (out of file descriptors), wait this long.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// A client has one discovery stream, a second one while it reconnects, and one for load reports.
const MAX_STREAMS: u32 = 16;

/// Requests are small but for those that list all a client holds; this is what may come unasked of one.
const WINDOW: u32 = 256 << 10;

/// What waits to be sent on one stream before no more is taken from it.
const MAX_SEND_BUFFER: usize = 64 << 10;

/// Headers are a path and a few names.
const MAX_HEADERS: u32 = 8 << 10;

/// The connections of one server.
pub(crate) struct Gate<S> {
    door: Arc<Door<S>>,
    places: Arc<Semaphore>,
    connections: JoinSet<()>,
}

/// What every connection needs.
struct Door<S> {
    shared: Arc<Shared<S>>,
    security: Security,
    handshake_timeout: Duration,
    http: http2::Builder<TokioExecutor>,
}

impl<S: ResourceSource> Gate<S> {
    pub fn new(shared: Arc<Shared<S>>, security: Security, options: &Options) -> Self {
        let mut http = http2::Builder::new(TokioExecutor::new());
        http.timer(TokioTimer::new())
            .keep_alive_interval(options.keepalive_interval)
            .keep_alive_timeout(options.keepalive_timeout)
            .max_concurrent_streams(MAX_STREAMS)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .max_send_buf_size(MAX_SEND_BUFFER)
            .max_header_list_size(MAX_HEADERS)
            .auto_date_header(false);
        let door = Door {
            shared,
            security,
            handshake_timeout: options.handshake_timeout,
            http,
        };
        Self {
            door: Arc::new(door),
            places: Arc::new(Semaphore::new(options.max_connections)),
            connections: JoinSet::new(),
        }
    }

    /// Accepts until the listener fails for good.
    ///
    /// # Errors
    /// Always: it has no other end.
    pub async fn accept_all(&mut self, listener: &TcpListener) -> io::Result<()> {
        loop {
            tokio::select! {
                tcp = listener.accept() => match tcp {
                    Ok((tcp, _)) => self.enter(tcp),
                    Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Err(error),
                    Err(error) => {
                        tracing::warn!(%error, "accept");
                        tokio::time::sleep(ACCEPT_RETRY).await;
                    }
                },
                Some(done) = self.connections.join_next() => report(done),
            }
        }
    }

    /// Waits until every connection has ended. Dropping the gate cuts off those that are left.
    pub async fn ended(&mut self) {
        while let Some(done) = self.connections.join_next().await {
            report(done);
        }
    }

    fn enter(&mut self, tcp: TcpStream) {
        let counters = &self.door.shared.counters;
        let Ok(permit) = Arc::clone(&self.places).try_acquire_owned() else {
            add(&counters.connections_refused, 1);
            return;
        };
        let place = Place::new(permit, counters);
        let door = Arc::clone(&self.door);
        self.connections.spawn(async move {
            // What a handshake needs is given back before the connection begins its long life.
            if let Some((connection, peer)) = Box::pin(door.handshake(tcp)).await {
                door.serve(connection, peer).await;
            }
            drop(place);
        });
    }
}

fn report(done: Result<(), JoinError>) {
    if let Err(error) = done {
        tracing::error!(%error, "a connection's task died");
    }
}

impl<S: ResourceSource> Door<S> {
    async fn handshake(&self, tcp: TcpStream) -> Option<(Connection, Peer)> {
        let from = tcp.peer_addr().ok();
        let _ = tcp.set_nodelay(true);
        let accepting = tokio::time::timeout(self.handshake_timeout, self.security.accept(tcp));
        let accepted = tokio::select! {
            accepted = accepting => accepted,
            () = self.shared.stopping.cancelled() => return None,
        };
        let failure = match accepted {
            Ok(Ok(accepted)) => return Some(accepted),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "took too long".to_owned(),
        };
        add(&self.shared.counters.handshakes_failed, 1);
        tracing::info!(?from, failure, "handshake failed");
        None
    }

    /// Runs a connection until either side ends it. Told to close, it takes no further streams and ends with its last.
    async fn serve(&self, connection: Connection, peer: Peer) {
        let closing = self.shared.stopping.child_token();
        let link = Arc::new(Link {
            peer,
            closing: closing.clone(),
        });
        let shared = Arc::clone(&self.shared);
        let service =
            service_fn(move |request| ready(Ok::<_, Infallible>(answer(&shared, &link, request))));
        let io = TokioIo::new(connection);
        let mut serving = pin!(self.http.serve_connection(io, service));
        let outcome = tokio::select! {
            outcome = serving.as_mut() => outcome,
            () = closing.cancelled() => {
                serving.as_mut().graceful_shutdown();
                serving.await
            }
        };
        if let Err(error) = outcome {
            tracing::debug!(%error, "connection broke off");
        }
    }
}

/// A connection's place among the open ones.
struct Place {
    _permit: OwnedSemaphorePermit,
    counters: Arc<Counters>,
}

impl Place {
    fn new(permit: OwnedSemaphorePermit, counters: &Arc<Counters>) -> Self {
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
