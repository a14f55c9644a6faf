//! The groups of fields of a `TrafficPolicy`, one file each.

mod balancing;
mod connections;
mod ejection;
mod faults;
mod limits;
mod retries;
mod timeouts;

pub use balancing::*;
pub use connections::*;
pub use ejection::*;
pub use faults::*;
pub use limits::*;
pub use retries::*;
pub use timeouts::*;
