//! An aggregated discovery service (ADS), incremental and state of the world, for Envoy and gRPC.
//!
//! It serves whatever a [`ResourceSource`] gives it, and knows neither Kubernetes nor any policy. The protocol is a
//! state machine without I/O ([`session`]); tonic only moves its messages. What the clients acknowledged and refused
//! is kept in a [`Registry`].
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

mod connection;
mod counters;
mod progress;
mod resource;
mod serve;
mod service;
pub mod session;
mod source;
mod stream;

pub use connection::{Security, TlsProvider};
pub use counters::{Counters, Counts, PerKind};
pub use progress::{MAX_TEXT, Progress, Registry, Rejection};
pub use resource::{Name, Resource, ResourceKey, ResourceKind, View};
pub use serve::{Options, ServeError, Server};
pub use session::{Flavor, Limits};
pub use source::{NodeInfo, Peer, Refusal, ResourceSource, SubscriberId};
