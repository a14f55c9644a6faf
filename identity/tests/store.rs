//! Replicas that start together end up with one root, and an unusable root is never overwritten.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use heddle_identity::{Ca, Created, OpenError, RootPem, RootStore, open};

#[derive(Clone, Default)]
struct Memory {
    root: Arc<Mutex<Option<RootPem>>>,
    barrier: Option<Arc<tokio::sync::Barrier>>,
}

impl RootStore for Memory {
    type Error = Infallible;

    async fn load(&self) -> Result<Option<RootPem>, Infallible> {
        let root = self.root.lock().unwrap().clone();
        if let (None, Some(barrier)) = (&root, &self.barrier) {
            barrier.wait().await;
        }
        Ok(root)
    }

    async fn create(&self, root: &RootPem) -> Result<Created, Infallible> {
        let mut stored = self.root.lock().unwrap();
        if stored.is_some() {
            return Ok(Created::AlreadyThere);
        }
        *stored = Some(root.clone());
        Ok(Created::Yes)
    }
}

#[tokio::test]
async fn all_replicas_end_up_with_the_same_root() {
    let domain = "cluster.local".parse().unwrap();
    // All three load "none" before any of them creates.
    let store = Memory {
        barrier: Some(Arc::new(tokio::sync::Barrier::new(3))),
        ..Memory::default()
    };
    let now = SystemTime::now();
    let (a, b, c) = tokio::join!(
        open(&store, &domain, now),
        open(&store, &domain, now),
        open(&store, &domain, now)
    );
    let (a, b, c) = (a.unwrap(), b.unwrap(), c.unwrap());
    assert_eq!(a.fingerprint(), b.fingerprint());
    assert_eq!(b.fingerprint(), c.fingerprint());
    assert_eq!(
        open(&store, &domain, now).await.unwrap().fingerprint(),
        a.fingerprint()
    );
}

#[tokio::test]
async fn an_unusable_root_stays_as_it_is() {
    let (_, mut root) = Ca::create(&"a".parse().unwrap(), SystemTime::now()).unwrap();
    root.private_key = "lost".into();
    let store = Memory {
        root: Arc::new(Mutex::new(Some(root.clone()))),
        barrier: None,
    };
    let error = open(&store, &"a".parse().unwrap(), SystemTime::now())
        .await
        .unwrap_err();
    assert!(matches!(error, OpenError::Ca(_)), "{error}");
    assert_eq!(store.root.lock().unwrap().as_ref(), Some(&root));
}
