//! The groups of fields of a `TrafficPolicy`, one file each.

mod balancing;
mod call_match;
mod connections;
mod ejection;
mod faults;
mod headers;
mod limits;
mod overload;
mod rate_limits;
mod retries;
mod route_target;
mod timeouts;

pub use balancing::*;
pub use call_match::*;
pub use connections::*;
pub use ejection::*;
pub use faults::*;
pub use headers::*;
pub use limits::*;
pub use overload::*;
pub use rate_limits::*;
pub use retries::*;
pub use route_target::*;
pub use timeouts::*;
