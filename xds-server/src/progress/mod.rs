//! The progress of the subscribers towards their views, and the counters of the server.

pub(crate) mod convergence;
pub(crate) mod counters;
mod histogram;
mod registry;

pub use counters::{Counters, Counts};
pub use histogram::Distribution;
pub use registry::{Progress, Registry};
pub(crate) use registry::{ProgressChange, StreamToken, SyncStates};
