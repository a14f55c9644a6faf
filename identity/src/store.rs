//! The place of the root, as a trait, and the rules by which several replicas agree on one root and never replace a lost one in silence.

use std::future::Future;
use std::sync::Arc;
use std::time::SystemTime;

use crate::{Ca, CaError, RootPem, TrustDomain};

/// The result of an attempt to store a root where none is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// Stored.
    Yes,
    /// Another replica was first; its root is the one that counts.
    AlreadyThere,
}

/// Keeps the root, and apart from it the fingerprint of the root that the mesh uses.
pub trait RootStore {
    /// How the store fails.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Returns the stored root, if any.
    fn load(&self) -> impl Future<Output = Result<Option<RootPem>, Self::Error>> + Send;

    /// Stores a root where none is. It never overwrites one.
    fn create(&self, root: &RootPem) -> impl Future<Output = Result<Created, Self::Error>> + Send;

    /// Returns the fingerprint of the root that this mesh uses, as it is remembered apart from the root. `None`: no mesh was here.
    fn remembered(&self) -> impl Future<Output = Result<Option<String>, Self::Error>> + Send;

    /// Remembers the root that this mesh uses.
    fn remember(&self, ca: &Ca) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

/// Why no CA came of a store.
#[derive(Debug, thiserror::Error)]
pub enum OpenError<E: std::error::Error + 'static> {
    /// The store failed.
    #[error("the store of the root certificate failed")]
    Store(#[source] E),
    /// The stored root is unusable.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// The store reports both "already there" and "not there", twice.
    #[error("the store reports both that a root is there and that none is")]
    Contradiction,
    /// The mesh has a root, and it is not in the store. A new one would cut off every running sidecar.
    #[error("the root certificate of this mesh (SHA-256 {remembered}) is lost: its store is empty")]
    Lost {
        /// The fingerprint of the lost root.
        remembered: String,
    },
    /// The stored root is not the root that the running sidecars trust.
    #[error(
        "the stored root certificate (SHA-256 {found}) is not that of this mesh (SHA-256 {remembered})"
    )]
    Replaced {
        /// The fingerprint of the mesh's root.
        remembered: String,
        /// The fingerprint of the stored root.
        found: String,
    },
}

/// The root of a mesh, ready to sign.
#[derive(Debug)]
pub struct Opened {
    /// Signs certificates.
    pub ca: Arc<Ca>,
    /// The root as it is stored, so that a running replica can restore it.
    pub root: RootPem,
    /// No fingerprint was remembered: the root is new to this mesh, and sidecars of an earlier mesh trust another one.
    pub new: bool,
}

/// Returns the stored root, or a fresh one stored now where there provably was none. Replicas that start together end up with one and the same.
///
/// # Errors
/// When the store fails, holds no usable root, has lost the root that is remembered, or holds another one. Nothing is overwritten then.
pub async fn open<S: RootStore>(
    store: &S,
    trust_domain: &TrustDomain,
    now: SystemTime,
) -> Result<Opened, OpenError<S::Error>> {
    for _ in 0..2 {
        if let Some(root) = store.load().await.map_err(OpenError::Store)? {
            return known(store, root, now).await;
        }
        if let Some(remembered) = store.remembered().await.map_err(OpenError::Store)? {
            // The memory comes after the root, so another replica may have stored it between the two looks.
            return match store.load().await.map_err(OpenError::Store)? {
                Some(root) => known(store, root, now).await,
                None => Err(OpenError::Lost { remembered }),
            };
        }
        let (ca, root) = Ca::create(trust_domain, now)?;
        if store.create(&root).await.map_err(OpenError::Store)? == Created::Yes {
            // After the root itself: a root that is remembered and was never stored would count as lost.
            store.remember(&ca).await.map_err(OpenError::Store)?;
            return Ok(opened(ca, root, true));
        }
    }
    match store.load().await.map_err(OpenError::Store)? {
        Some(root) => known(store, root, now).await,
        None => Err(OpenError::Contradiction),
    }
}

fn opened(ca: Ca, root: RootPem, new: bool) -> Opened {
    let ca = Arc::new(ca);
    Opened { ca, root, new }
}

async fn known<S: RootStore>(
    store: &S,
    root: RootPem,
    now: SystemTime,
) -> Result<Opened, OpenError<S::Error>> {
    let ca = Ca::load(&root, now)?;
    let found = ca.fingerprint().to_owned();
    match store.remembered().await.map_err(OpenError::Store)? {
        Some(remembered) if remembered != found => Err(OpenError::Replaced { remembered, found }),
        remembered => {
            store.remember(&ca).await.map_err(OpenError::Store)?;
            // Also after an attempt that stored this root and could not remember it.
            Ok(opened(ca, root, remembered.is_none()))
        }
    }
}

/// The state in which [`keep`] found the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// The root is there.
    There,
    /// The root was gone, and is stored again.
    Restored,
    /// Another root is there, with this fingerprint. It is left alone.
    Replaced(String),
    /// The store holds no usable root, for this reason. It is left alone.
    Broken(String),
}

/// Looks whether the store still holds the root of a running replica, and restores a root that is gone.
///
/// # Errors
/// When the store fails.
pub async fn keep<S: RootStore>(
    store: &S,
    opened: &Opened,
    now: SystemTime,
) -> Result<Kept, OpenError<S::Error>> {
    let Some(stored) = store.load().await.map_err(OpenError::Store)? else {
        let created = store.create(&opened.root).await;
        return Ok(match created.map_err(OpenError::Store)? {
            Created::Yes => Kept::Restored,
            // The next look shows which root it is.
            Created::AlreadyThere => Kept::There,
        });
    };
    let found = match Ca::load(&stored, now) {
        Ok(found) => found,
        Err(error) => return Ok(Kept::Broken(error.to_string())),
    };
    if found.fingerprint() != opened.ca.fingerprint() {
        return Ok(Kept::Replaced(found.fingerprint().to_owned()));
    }
    if store
        .remembered()
        .await
        .map_err(OpenError::Store)?
        .is_none()
    {
        store.remember(&opened.ca).await.map_err(OpenError::Store)?;
    }
    Ok(Kept::There)
}
