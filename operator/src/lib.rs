//! The control plane: watches, compiles, serves, and tells the truth in statuses.
//!
//! Sources (Kubernetes reflectors, or a directory of YAML) say what changed; a thread of its own compiles that into the next
//! [`picture::Picture`]; [`serving::MeshSource`] hands each proxy its view of it, learns what each workload calls ([`scope`]),
//! and wakes only the streams that a change concerns; what the proxies
//! acknowledge and refuse comes back through [`status`] as conditions, and what an Envoy of the control plane's own refuses,
//! too ([`trials`]), as an input of the next compile ([`learned`]).
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
pub mod rate;
pub mod scope;
pub mod serving;
pub mod standalone;
pub mod status;
pub mod tasks;
pub mod trials;
