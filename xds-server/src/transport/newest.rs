//! The newest stream of reports of each subscriber, so that none has many at a time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::source::SubscriberId;

/// A kind of stream, and the subscriber.
type Key = (&'static str, SubscriberId);

/// The newest streams, with the tokens that end them.
#[derive(Debug, Default)]
pub(crate) struct NewestStreams(Mutex<HashMap<Key, CancellationToken>>);

/// A stream while it is the newest of its subscriber; dropping it takes it from there.
#[derive(Debug)]
pub(crate) struct NewestStream {
    key: Key,
    /// Cancelled once a newer stream has taken the place.
    pub ended: CancellationToken,
    all: Arc<NewestStreams>,
}

impl NewestStreams {
    /// Ends the stream of this kind that the subscriber has, for a new one.
    pub fn enter(self: &Arc<Self>, kind: &'static str, who: &SubscriberId) -> NewestStream {
        let (key, ended) = ((kind, who.clone()), CancellationToken::new());
        let mut streams = self.lock();
        if let Some(old) = streams.insert(key.clone(), ended.clone()) {
            old.cancel();
        }
        drop(streams);
        let all = Arc::clone(self);
        NewestStream { key, ended, all }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, CancellationToken>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for NewestStream {
    fn drop(&mut self) {
        let mut all = self.all.lock();
        // A newer stream cancels the token under this lock.
        if !self.ended.is_cancelled() {
            all.remove(&self.key);
        }
    }
}
