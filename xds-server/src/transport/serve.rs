//! The server: accepts connections, within bounds, and runs the service on them.

use std::convert::Infallible;
use std::future::{Future, ready};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use heddle_acceptor::{Acceptor, Bounds, Deadlines, Http, Link, Protocol, Security};
use hyper::service::service_fn;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::progress::Registry;
use crate::progress::counters::{Counters, add};
use crate::session::Limits;
use crate::source::ResourceSource;

use super::service::answer;
use super::shared::Shared;

/// The bounds of the server.
#[derive(Clone, Debug)]
pub struct Options {
    /// The bounds of each stream.
    pub limits: Limits,
    /// The number of connections.
    pub bounds: Bounds,
    /// The time that connections have. `request` bounds nothing here: a stream stays open.
    pub deadlines: Deadlines,
    /// The largest request accepted, in bytes.
    pub max_request_bytes: usize,
    /// HTTP/2 pings are sent this often: a frozen client does not answer.
    pub keepalive_interval: Duration,
    /// A client that does not answer a ping in this time is disconnected.
    pub keepalive_timeout: Duration,
    /// How often clients are asked to report their loads.
    pub load_report_interval: Duration,
}

/// A client has one discovery stream, a second one while it reconnects, and one for load reports.
const MAX_STREAMS: u32 = 16;

/// Headers are a path and a few names.
const MAX_HEADER: u32 = 8 << 10;

impl Default for Options {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            bounds: Bounds {
                connections: 20_000,
                per_source: 20_000,
                reserved: 0,
                displace_busy: false,
            },
            deadlines: Deadlines::default(),
            // A client that reconnects lists all it holds: some 100 bytes for each of its resources.
            max_request_bytes: 8 << 20,
            keepalive_interval: Duration::from_secs(10),
            keepalive_timeout: Duration::from_secs(20),
            load_report_interval: Duration::from_secs(60),
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
            reporting: Arc::default(),
            stopping: CancellationToken::new(),
        };
        Self {
            shared: Arc::new(shared),
            options,
        }
    }

    /// The progress of all subscribers.
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
    /// that the clients connect again and may come to another server. Returns the number of ended streams.
    pub fn shed(&self, count: usize) -> usize {
        let shed = self.shared.open.shed(count);
        add(&self.shared.counters.streams_shed, shed as u64);
        shed
    }

    /// Serves until `shutdown` is done; then streams end with `UNAVAILABLE`, so that clients go elsewhere. After that the
    /// server does not serve again.
    ///
    /// # Errors
    /// When the listener is no more. A failure on one connection or stream ends only that.
    pub async fn serve(
        &self,
        listener: TcpListener,
        security: Security,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<(), ServeError> {
        let acceptor = Acceptor::new(self.acceptor_options(), self.shared.counters.connections());
        let stop = CancellationToken::new();
        let serving = acceptor.serve(listener, security, self.handler(), stop.clone());
        let mut serving = pin!(serving);
        tokio::select! {
            outcome = serving.as_mut() => return Ok(outcome?),
            () = shutdown => {}
        }
        self.shared.stopping.cancel();
        stop.cancel();
        Ok(serving.await?)
    }

    fn acceptor_options(&self) -> heddle_acceptor::Options {
        let options = &self.options;
        heddle_acceptor::Options {
            name: "discovery",
            bounds: options.bounds,
            deadlines: Deadlines {
                request: None,
                ..options.deadlines
            },
            http: Http {
                protocol: Protocol::Http2,
                max_streams: MAX_STREAMS,
                max_header: MAX_HEADER,
                ping_interval: options.keepalive_interval,
                ping_timeout: options.keepalive_timeout,
                ..Http::default()
            },
        }
    }

    fn handler(&self) -> impl heddle_acceptor::ConnectionHandler + use<S> {
        let shared = Arc::clone(&self.shared);
        move |link: Arc<Link>| {
            let shared = Arc::clone(&shared);
            service_fn(move |request| ready(Ok::<_, Infallible>(answer(&shared, &link, request))))
        }
    }
}
