//! Identities of the mesh: SPIFFE ids, keys, the certificate authority, the check of certificate requests,
//! and the wire types of the service that issues.
//!
//! Deliberately absent: a Kubernetes client, a clock and a runtime. The user of this crate supplies the time, the caller's
//! identity (by a token this crate never reads) and the place where the root is kept ([`RootStore`]).

mod ca;
mod credential;
mod csr;
mod key;
mod rotation;
mod spiffe;
mod store;
pub mod wire;

pub use ca::{
    Ca, CaError, IssueError, Issued, RootDates, ServerIdentity, dates_of, fingerprint_of, holder_of,
};
pub use credential::{AnswerError, Credential};
pub use csr::{CheckedCsr, CsrError, MAX_CSR_BYTES, check_csr};
pub use key::{KeyError, RootPem, WorkloadKey};
pub use rotation::{Jitter, RotationPlan};
pub use spiffe::{SpiffeError, SpiffeId, TrustDomain};
pub use store::{Created, Kept, OpenError, Opened, RootStore, keep, open};
