//! Where the root is kept, as a trait, and how several replicas agree on one root.

use std::future::Future;
use std::time::SystemTime;

use crate::{Ca, CaError, RootPem, TrustDomain};

/// What became of an attempt to store a new root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// Stored.
    Yes,
    /// Another replica was first; its root is the one that counts.
    AlreadyThere,
}

/// Keeps the root. `create` must never overwrite.
pub trait RootStore {
    /// How the store fails.
    type Error: std::error::Error + Send + Sync + 'static;

    /// The stored root, if any.
    fn load(&self) -> impl Future<Output = Result<Option<RootPem>, Self::Error>> + Send;

    /// Stores a root where none is.
    fn create(&self, root: &RootPem) -> impl Future<Output = Result<Created, Self::Error>> + Send;
}

/// Why no CA came of a store.
#[derive(Debug, thiserror::Error)]
pub enum OpenError<E: std::error::Error + 'static> {
    /// The store failed.
    #[error("the store of the root certificate failed")]
    Store(#[source] E),
    /// What it holds is unusable.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// Both "already there" and "not there", twice.
    #[error("the store says both that a root is there and that none is")]
    Contradiction,
}

/// The stored root, or a fresh one stored now. Replicas that start together end up with one and the same.
///
/// # Errors
/// When the store fails, or what it holds is no usable root: then nothing is overwritten.
pub async fn open<S: RootStore>(
    store: &S,
    trust_domain: &TrustDomain,
    now: SystemTime,
) -> Result<Ca, OpenError<S::Error>> {
    for _ in 0..2 {
        if let Some(root) = store.load().await.map_err(OpenError::Store)? {
            return Ok(Ca::load(&root, now)?);
        }
        let (ca, root) = Ca::create(trust_domain, now)?;
        if store.create(&root).await.map_err(OpenError::Store)? == Created::Yes {
            return Ok(ca);
        }
    }
    match store.load().await.map_err(OpenError::Store)? {
        Some(root) => Ok(Ca::load(&root, now)?),
        None => Err(OpenError::Contradiction),
    }
}
