//! From acknowledgements to statuses: who runs what, who is to blame for a refusal, and what each object is to say.

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
