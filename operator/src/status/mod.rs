//! From acknowledgements to statuses: the state of each proxy, the objects that caused rejections, and the conditions of
//! each object.

mod blame;
mod report;
mod round;
mod written;

pub use blame::{Blame, blame_all};
pub use report::{AbsentPolicies, Evidence, NAMED, Refused, Report, Tally, in_force, object_key};
pub use round::{Looked, ProxyState, RefusedResource, Round, Rounds, State, Summary, states};
pub use written::WrittenStatus;

#[cfg(test)]
mod tests;
