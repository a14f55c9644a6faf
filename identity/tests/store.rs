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

use heddle_identity::{Ca, Created, Kept, OpenError, RootPem, RootStore, keep, open};

#[derive(Clone, Default)]
struct Memory {
    root: Arc<Mutex<Option<RootPem>>>,
    fingerprint: Arc<Mutex<Option<String>>>,
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

    async fn remembered(&self) -> Result<Option<String>, Infallible> {
        Ok(self.fingerprint.lock().unwrap().clone())
    }

    async fn remember(&self, ca: &Ca) -> Result<(), Infallible> {
        *self.fingerprint.lock().unwrap() = Some(ca.fingerprint().to_owned());
        Ok(())
    }
}

impl Memory {
    fn lose_root(&self) -> RootPem {
        self.root.lock().unwrap().take().unwrap()
    }

    fn put_root(&self, root: RootPem) {
        *self.root.lock().unwrap() = Some(root);
    }

    fn fingerprint(&self) -> Option<String> {
        self.fingerprint.lock().unwrap().clone()
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
    assert_eq!(a.ca.fingerprint(), b.ca.fingerprint());
    assert_eq!(b.ca.fingerprint(), c.ca.fingerprint());
    assert_eq!(
        open(&store, &domain, now).await.unwrap().ca.fingerprint(),
        a.ca.fingerprint()
    );
}

#[tokio::test]
async fn an_unusable_root_stays_as_it_is() {
    let (_, mut root) = Ca::create(&"a".parse().unwrap(), SystemTime::now()).unwrap();
    root.private_key = "lost".into();
    let store = Memory {
        root: Arc::new(Mutex::new(Some(root.clone()))),
        ..Memory::default()
    };
    let error = open(&store, &"a".parse().unwrap(), SystemTime::now())
        .await
        .unwrap_err();
    assert!(matches!(error, OpenError::Ca(_)), "{error}");
    assert_eq!(store.root.lock().unwrap().as_ref(), Some(&root));
}

#[tokio::test]
async fn a_lost_root_is_never_replaced_by_a_new_one() {
    let (store, domain, now) = (Memory::default(), "a".parse().unwrap(), SystemTime::now());
    let first = open(&store, &domain, now).await.unwrap();
    assert_eq!(store.fingerprint().as_deref(), Some(first.ca.fingerprint()));
    assert!(first.new);
    let backup = store.lose_root();
    for _ in 0..2 {
        let error = open(&store, &domain, now).await.unwrap_err();
        let OpenError::Lost { remembered } = error else {
            panic!("{error}");
        };
        assert_eq!(remembered, first.ca.fingerprint());
        assert!(store.root.lock().unwrap().is_none(), "nothing was created");
    }
    store.put_root(backup);
    let again = open(&store, &domain, now).await.unwrap();
    assert_eq!(again.ca.fingerprint(), first.ca.fingerprint());
    assert!(!again.new);
}

#[tokio::test]
async fn a_foreign_root_in_the_store_is_refused_and_left_alone() {
    let (store, domain, now) = (Memory::default(), "a".parse().unwrap(), SystemTime::now());
    open(&store, &domain, now).await.unwrap();
    let (foreign, root) = Ca::create(&domain, now).unwrap();
    store.put_root(root.clone());
    let error = open(&store, &domain, now).await.unwrap_err();
    let OpenError::Replaced { found, .. } = error else {
        panic!("{error}");
    };
    assert_eq!(found, foreign.fingerprint());
    assert_eq!(store.root.lock().unwrap().as_ref(), Some(&root));
}

#[tokio::test]
async fn a_root_without_a_memory_is_remembered() {
    let (store, domain, now) = (Memory::default(), "a".parse().unwrap(), SystemTime::now());
    let (ca, root) = Ca::create(&domain, now).unwrap();
    store.put_root(root);
    let opened = open(&store, &domain, now).await.unwrap();
    assert_eq!(opened.ca.fingerprint(), ca.fingerprint());
    assert_eq!(store.fingerprint().as_deref(), Some(ca.fingerprint()));
    assert!(opened.new, "a mesh that remembers no root");
    assert!(!open(&store, &domain, now).await.unwrap().new);
}

#[tokio::test]
async fn a_running_replica_restores_its_root_but_overwrites_no_other() {
    let (store, domain, now) = (Memory::default(), "a".parse().unwrap(), SystemTime::now());
    let opened = open(&store, &domain, now).await.unwrap();
    assert_eq!(keep(&store, &opened, now).await.unwrap(), Kept::There);
    let own = store.lose_root();
    *store.fingerprint.lock().unwrap() = None;
    assert_eq!(keep(&store, &opened, now).await.unwrap(), Kept::Restored);
    assert_eq!(store.root.lock().unwrap().as_ref(), Some(&own));
    assert_eq!(keep(&store, &opened, now).await.unwrap(), Kept::There);
    assert_eq!(
        store.fingerprint().as_deref(),
        Some(opened.ca.fingerprint())
    );
    let (foreign, root) = Ca::create(&domain, now).unwrap();
    store.put_root(root.clone());
    let kept = keep(&store, &opened, now).await.unwrap();
    assert_eq!(kept, Kept::Replaced(foreign.fingerprint().to_owned()));
    let broken = RootPem {
        private_key: String::new(),
        ..root.clone()
    };
    store.put_root(broken);
    let kept = keep(&store, &opened, now).await.unwrap();
    assert!(matches!(kept, Kept::Broken(_)), "{kept:?}");
    store.put_root(root.clone());
    assert_eq!(store.root.lock().unwrap().as_ref(), Some(&root));
}
