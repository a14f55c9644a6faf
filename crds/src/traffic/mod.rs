//! The groups of fields of a `TrafficPolicy`, one file each.

mod faults;
mod retries;
mod timeouts;

pub use faults::*;
pub use retries::*;
pub use timeouts::*;
