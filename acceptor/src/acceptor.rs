//! The accept loop, and the life of each connection.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::service::Service;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::activity::{Activity, Tracked};
use crate::connection::{Connection, Link, Listener, Peer, Raw, Security};
use crate::counters::Counters;
use crate::log::LogLimit;
use crate::options::{Http, Options, Protocol};
use crate::reasons::{Overdue, Refused};
use crate::slots::{ConnectionSlot, Slots, Source};

/// After a failed `accept` (out of file descriptors), wait this long.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// HTTP/1: the bytes that are read ahead.
const READ_BUFFER: usize = 64 << 10;

type BoxError = Box<dyn Error + Send + Sync>;

/// Gives each connection the service that answers its requests.
pub trait ConnectionHandler: Send + Sync + 'static {
    /// The body of the responses.
    type Body: Body<Data: Send, Error: Into<BoxError>> + Send + 'static;
    /// The service.
    type Service: Service<
            Request<Incoming>,
            Response = Response<Self::Body>,
            Error: Into<BoxError>,
            Future: Send + 'static,
        > + Send
        + 'static;

    /// Makes the service of one connection.
    fn service(&self, link: Arc<Link>) -> Self::Service;
}

impl<F, S, B> ConnectionHandler for F
where
    F: Fn(Arc<Link>) -> S + Send + Sync + 'static,
    S: Service<Request<Incoming>, Response = Response<B>> + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Body = B;
    type Service = S;

    fn service(&self, link: Arc<Link>) -> S {
        self(link)
    }
}

/// Accepts the connections of one server, and runs each as a task.
pub struct Acceptor {
    options: Arc<Options>,
    slots: Arc<Slots>,
    counters: Arc<Counters>,
    refusals: LogLimit,
    failures: Arc<LogLimit>,
    connections: JoinSet<()>,
}

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acceptor")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Acceptor {
    /// An acceptor without connections.
    #[must_use]
    pub fn new(options: Options, counters: Arc<Counters>) -> Self {
        Self {
            slots: Slots::new(options.bounds, Arc::clone(&counters)),
            options: Arc::new(options),
            counters,
            refusals: LogLimit::new(1, Duration::from_secs(10)),
            failures: Arc::default(),
            connections: JoinSet::new(),
        }
    }

    /// Serves until `stop` is cancelled; then connections end with their last request, or after
    /// [`Deadlines::grace`](crate::Deadlines::grace).
    ///
    /// # Errors
    /// When the listening socket fails for good. A fault of one connection ends only that one.
    pub async fn serve<H: ConnectionHandler>(
        mut self,
        listener: impl Into<Listener>,
        security: Security,
        handler: H,
        stop: CancellationToken,
    ) -> io::Result<()> {
        let listener = listener.into();
        let stopping = CancellationToken::new();
        let server = Arc::new(Server {
            builder: builder(&self.options.http),
            options: Arc::clone(&self.options),
            counters: Arc::clone(&self.counters),
            failures: Arc::clone(&self.failures),
            security,
            handler,
            stopping: stopping.clone(),
        });
        let outcome = tokio::select! {
            outcome = self.accept_all(&listener, &server) => outcome,
            () = stop.cancelled() => Ok(()),
        };
        drop(listener);
        stopping.cancel();
        let ended = async {
            while let Some(done) = self.connections.join_next().await {
                report(done)
            }
        };
        if timeout(self.options.deadlines.grace, ended).await.is_err() {
            tracing::warn!(
                server = self.options.name,
                "some connections did not end in time"
            );
        }
        outcome
    }

    async fn accept_all<H: ConnectionHandler>(
        &mut self,
        listener: &Listener,
        server: &Arc<Server<H>>,
    ) -> io::Result<()> {
        loop {
            tokio::select! {
                raw = async { self.slots.settled().await; listener.accept().await } => match raw {
                    Ok(raw) => self.enter(raw, server),
                    Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Err(error),
                    Err(error) => {
                        if let Some(suppressed) = self.refusals.allow() {
                            let server = self.options.name;
                            tracing::warn!(server, %error, suppressed, "accepting a connection failed; retrying");
                        }
                        tokio::time::sleep(ACCEPT_RETRY).await;
                    }
                },
                Some(done) = self.connections.join_next() => report(done),
            }
        }
    }

    fn enter<H: ConnectionHandler>(&mut self, raw: Raw, server: &Arc<Server<H>>) {
        match self.slots.enter(raw.source) {
            Ok(slot) => {
                let server = Arc::clone(server);
                self.connections.spawn(server.run(raw, Arc::new(slot)));
            }
            Err(refused) => self.refused(refused, raw.source),
        }
    }

    fn refused(&self, refused: Refused, source: Source) {
        if let Some(suppressed) = self.refusals.allow() {
            let (server, bounds) = (self.options.name, self.options.bounds);
            match refused {
                Refused::Full => {
                    tracing::warn!(server, %source, bound = bounds.connections, suppressed, "connection refused: the server is full");
                }
                Refused::Source => {
                    tracing::warn!(server, %source, bound = bounds.per_source, suppressed, "connection refused: the source has its share");
                }
            }
        }
    }
}

fn report(done: Result<(), JoinError>) {
    if let Err(error) = done {
        tracing::error!(%error, "a connection's task died");
    }
}

fn builder(http: &Http) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    // The deadlines of the acceptor cover headers of both protocols; hyper's own timer would only repeat them.
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .keep_alive(http.keep_alive)
        .max_buf_size(READ_BUFFER);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(http.ping_interval)
        .keep_alive_timeout(http.ping_timeout)
        .max_concurrent_streams(http.max_streams)
        .initial_stream_window_size(http.window)
        .initial_connection_window_size(http.window)
        .max_send_buf_size(http.send_buffer)
        .max_header_list_size(http.max_header)
        .auto_date_header(false);
    match http.protocol {
        Protocol::Http1 => builder.http1_only(),
        Protocol::Http2 => builder.http2_only(),
        Protocol::Any => builder,
    }
}

/// The state that every connection needs.
struct Server<H> {
    builder: auto::Builder<TokioExecutor>,
    options: Arc<Options>,
    counters: Arc<Counters>,
    failures: Arc<LogLimit>,
    security: Security,
    handler: H,
    stopping: CancellationToken,
}

impl<H: ConnectionHandler> Server<H> {
    async fn run(self: Arc<Self>, raw: Raw, slot: Arc<ConnectionSlot>) {
        let (address, io) = (raw.address, raw.io);
        // The memory of a handshake is freed before the connection begins its long life.
        let Some((connection, peer)) = Box::pin(self.handshake(io, address, &slot)).await else {
            return;
        };
        self.serve(connection, peer, slot).await;
    }

    async fn handshake(
        &self,
        io: Connection,
        address: Option<SocketAddr>,
        slot: &ConnectionSlot,
    ) -> Option<(Connection, Peer)> {
        let handshake = timeout(
            self.options.deadlines.handshake,
            self.security.handshake(io),
        );
        let done = tokio::select! {
            done = handshake => done,
            () = slot.displaced() => return None,
            () = self.stopping.cancelled() => return None,
        };
        let failure = match done {
            Ok(Ok((connection, certificates))) => {
                let peer = Peer {
                    address,
                    certificates,
                };
                return Some((connection, peer));
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it took too long".to_owned(),
        };
        self.counters.handshake_failed();
        if let Some(suppressed) = self.failures.allow() {
            let server = self.options.name;
            tracing::info!(
                server,
                ?address,
                failure,
                suppressed,
                "TLS handshake failed"
            );
        }
        None
    }

    /// Runs a connection until either side ends it, a deadline passes, or another connection takes its place.
    async fn serve(&self, connection: Connection, peer: Peer, slot: Arc<ConnectionSlot>) {
        let closing = self.stopping.child_token();
        let link = Arc::new(Link {
            peer,
            closing: closing.clone(),
        });
        let activity = Arc::new(Activity::new(Arc::clone(&slot)));
        let service = Tracked {
            inner: self.handler.service(link),
            activity: Arc::clone(&activity),
        };
        let deadlines = &self.options.deadlines;
        let serving = self
            .builder
            .serve_connection(TokioIo::new(connection), service);
        let mut serving = pin!(serving);
        let end = tokio::select! {
            outcome = serving.as_mut() => End::Broken(outcome.err()),
            overdue = activity.overdue(deadlines) => End::Overdue(overdue),
            () = slot.displaced() => End::Displaced,
            () = closing.cancelled() => End::Closing,
        };
        let end = match end {
            End::Closing => {
                serving.as_mut().graceful_shutdown();
                tokio::select! {
                    outcome = serving.as_mut() => End::Broken(outcome.err()),
                    overdue = activity.overdue(deadlines) => End::Overdue(overdue),
                    () = slot.displaced() => End::Displaced,
                }
            }
            end => end,
        };
        match end {
            End::Overdue(overdue) => {
                self.counters.overdue(overdue);
                if overdue == Overdue::Idle {
                    serving.as_mut().graceful_shutdown();
                    // A client that does not let go is cut off with the connection; a displaced one at once.
                    tokio::select! {
                        _ = timeout(deadlines.grace, serving) => {}
                        () = slot.displaced() => {}
                    }
                }
            }
            End::Broken(Some(error)) => tracing::debug!(%error, "connection broke off"),
            End::Broken(None) | End::Displaced | End::Closing => {}
        }
    }
}

/// Why a connection ends.
enum End {
    Broken(Option<BoxError>),
    Overdue(Overdue),
    Displaced,
    Closing,
}
