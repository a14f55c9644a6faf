//! The network side: accepts connections, admits streams, runs a session on each, and takes load reports.

mod admission;
mod expiry;
mod grpc;
mod loads;
mod open;
mod serve;
mod service;
mod shared;
mod stream;
mod wire;

pub use serve::{Options, ServeError, Server};
pub use wire::frame;
#[cfg(test)]
pub(crate) use wire::reference;
