//! An aggregated discovery service (ADS), incremental and state of the world, for Envoy and gRPC.
//!
//! It serves the views of a [`ResourceSource`], and depends on neither Kubernetes nor any policy. The protocol is a
//! state machine without I/O ([`session`]), fed from HTTP/2 streams. A [`Registry`] keeps the progress of the clients
//! towards their views. The same server takes load
//! reports, reports on the traffic of edges, and reports on the ends of pods.
//!
//! ```no_run
//! # use std::sync::Arc;
//! # use heddle_xds_server::{Options, ResourceSource, Security, Server};
//! # async fn run(source: Arc<impl ResourceSource>, tls: Arc<rustls::ServerConfig>) -> Result<(), Box<dyn std::error::Error>> {
//! let server = Server::new(source, Options::default());
//! let progress = server.registry();
//! let listener = tokio::net::TcpListener::bind("[::]:15010").await?;
//! server.serve(listener, Security::mtls(move || Arc::clone(&tls)), std::future::pending()).await?;
//! # Ok(()) }
//! ```

mod progress;
mod resource;
pub mod session;
mod source;
mod transport;

pub use heddle_acceptor::{Bounds, ClientText, Deadlines, Peer, Security, TlsProvider};
pub use progress::{Counters, Counts, Distribution, Progress, Registry};
pub use resource::{Name, Part, PerKind, Resource, ResourceKey, ResourceKind, View};
pub use session::{Flavor, Limits, MAX_TEXT, Rejection};
pub use source::{
    Converged, EdgeTraffic, Load, NodeInfo, OnDemandRequests, ResourceSource, StreamRefusal,
    SubscriberId, Withdrawal,
};
pub use transport::{Options, ServeError, Server, frame};
