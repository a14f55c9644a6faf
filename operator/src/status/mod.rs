//! From acknowledgments to statuses: the state of each proxy, the objects that caused rejections, and the conditions of
//! each object.

mod blame;
mod counts;
mod observation;
mod parents;
mod shown;
mod suspects;
mod written;

pub use blame::{Blamer, Rejected};
pub use counts::{
    AbsentPolicies, Evidence, NAMED, ProxyCounts, ProxyRejection, Tally, in_force, object_key,
};
pub use observation::{
    ObjectState, ProxyObservation, ProxyObservations, ProxyObserver, ProxyState, RejectedResource,
    Summary, states,
};
pub use parents::{CONTROLLER, WrittenParent, own_parents, replace_own_parents};
pub use shown::Shown;
pub use written::{WrittenStatus, needs_last_good};

#[cfg(test)]
mod tests;
