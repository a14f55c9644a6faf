//! The groups of fields of a `TrafficPolicy`, one file each.

mod retries;
mod timeouts;

pub use retries::*;
pub use timeouts::*;
