//! Simulated proxies: as many real delta-ADS streams as asked for, against any ADS server.
//!
//! Each proxy is one TCP connection with TLS of its own and one gRPC stream. It asks in Envoy's order, holds what it is
//! told by name and version, and accepts everything; it never refuses.

pub mod credentials;
pub mod fleet;
pub mod observer;
pub mod proxy;

pub use credentials::Credentials;
pub use fleet::{Fleet, Member, Server};
pub use observer::{Arrivals, Observer};
