//! The network side: accepts connections, admits streams, runs a session on each, and takes reports.

mod admission;
mod edges;
mod ends;
mod expiry;
mod grpc;
mod loads;
mod newest;
mod open;
mod reports;
mod serve;
mod service;
mod shared;
mod stream;
mod taps;
mod wire;

pub use serve::{Options, ServeError, Server};
pub use wire::frame;
#[cfg(test)]
pub(crate) use wire::reference;
