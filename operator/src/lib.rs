//! The control plane: watches objects, compiles them, serves the result to proxies, and reports in statuses.
//!
//! A source (Kubernetes reflectors, or a directory of YAML) reports changed objects. A thread of its own compiles them into
//! the next snapshot ([`snapshot::Snapshot`]). [`serving::MeshSource`] serves each proxy its view of the snapshot, learns the
//! destinations of each workload ([`scope`]), and wakes only the streams that a change concerns. The acknowledgments and
//! rejections of proxies become conditions ([`status`]). Rejections that an Envoy of the control plane's own confirms
//! ([`trials`]) are an input of the next compile ([`rejections`]).
//!
//! # Deliberately absent
//!
//! Any decision about the meaning of a policy: that is the compiler's alone. Any write to a user's `spec`, labels or
//! annotations.

pub mod certificates;
pub mod certs;
pub mod change_traces;
pub mod edges;
pub mod inject;
pub mod issuing;
pub mod kubernetes;
pub mod listen;
pub mod metrics;
pub mod metrics_api;
pub mod objects;
pub mod plane;
pub mod rate;
pub mod rejections;
pub mod scope;
pub mod serving;
pub mod snapshot;
pub mod standalone;
pub mod status;
pub mod tap;
pub mod tap_api;
pub mod tasks;
#[cfg(test)]
mod test_snapshots;
pub mod trials;
pub mod withdrawals;
