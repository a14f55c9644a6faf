//! Simulated proxies: as many real delta-ADS streams as asked for, against any ADS server.
//!
//! Each proxy is one TCP connection with TLS of its own and one gRPC stream. It asks in Envoy's order, holds the resources
//! that it receives by name and version, and accepts everything; it never rejects. All of them run on one thread, and read
//! of a message only the fields that they need: the load program shares the cores with the measured server.

pub mod credentials;
pub mod fleet;
mod hpack;
mod http2;
pub mod observer;
pub mod proxy;
pub mod response;
mod retry;
mod server;
mod stream;
pub mod wire;

pub use credentials::Credentials;
pub use fleet::{Fleet, Member};
pub use observer::{Observer, Watcher};
pub use retry::Retry;
pub use server::{Replicas, Server};
