//! Who is who in the mesh: SPIFFE ids, keys, the certificate authority, the check of what is asked of it,
//! and the wire types of the service that issues.
//!
//! Deliberately absent: a Kubernetes client, a clock and a runtime. Whoever calls says what time it is, who the caller is
//! (by a token this crate never reads) and where the root is kept ([`RootStore`]).

mod ca;
mod credential;
mod csr;
mod key;
mod rotation;
mod spiffe;
mod store;
pub mod wire;

pub use ca::{Ca, CaError, IssueError, Issued, ServerIdentity, fingerprint_of};
pub use credential::{AnswerError, Credential};
pub use csr::{CheckedCsr, CsrError, MAX_CSR_BYTES, check_csr};
pub use key::{KeyError, RootPem, WorkloadKey};
pub use rotation::{Jitter, RotationPlan};
pub use spiffe::{SpiffeError, SpiffeId, TrustDomain};
pub use store::{Created, Kept, OpenError, Opened, RootStore, keep, open};
