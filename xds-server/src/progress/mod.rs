//! The progress of the subscribers towards their views, and the counters of the server.

pub(crate) mod convergence;
pub(crate) mod counters;
mod histogram;
mod registry;
mod subscriber;

pub use counters::{Counters, Counts};
pub use histogram::Distribution;
pub use registry::Registry;
pub(crate) use registry::StreamToken;
pub use subscriber::Progress;
pub(crate) use subscriber::{ProgressChange, SyncStates};
