//! The control plane: watches, compiles, serves, and tells the truth in statuses.
//!
//! Sources (Kubernetes reflectors, or a directory of YAML) give objects; a thread of its own compiles them into a
//! [`picture::Picture`]; [`serving::MeshSource`] hands each proxy its view of the newest picture; what the proxies
//! acknowledge and refuse comes back through [`status`] as conditions, and what they refuse also as an input of the
//! next compile ([`learned`]).
//!
//! # Deliberately absent
//!
//! Any decision about what a policy means: that is the compiler's alone. Any write to a user's `spec`, labels or
//! annotations.

pub mod certs;
pub mod inject;
pub mod issuing;
pub mod kubernetes;
pub mod learned;
pub mod listen;
pub mod metrics;
pub mod objects;
pub mod picture;
pub mod plane;
pub mod serving;
pub mod standalone;
pub mod status;
pub mod tasks;
