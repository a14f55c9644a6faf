//! The streams that are open, by age, so that some can be sent elsewhere.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use heddle_acceptor::Link;
use tokio_util::sync::CancellationToken;

/// All open discovery streams.
#[derive(Debug, Default)]
pub(crate) struct OpenStreams(Mutex<Streams>);

#[derive(Debug, Default)]
struct Streams {
    next: u64,
    by_age: BTreeMap<u64, Stream>,
}

#[derive(Debug)]
struct Stream {
    ending: CancellationToken,
    link: Arc<Link>,
}

/// A stream's place among the open ones; dropping it takes it from there.
#[derive(Debug)]
pub(crate) struct OpenStream {
    number: u64,
    all: Arc<OpenStreams>,
}

impl OpenStreams {
    pub fn enter(self: &Arc<Self>, ending: CancellationToken, link: Arc<Link>) -> OpenStream {
        let mut streams = self.lock();
        let number = streams.next;
        streams.next += 1;
        streams.by_age.insert(number, Stream { ending, link });
        OpenStream {
            number,
            all: Arc::clone(self),
        }
    }

    /// Ends the oldest streams, `count` at most, and lets their connections go. Returns how many.
    pub fn shed(&self, count: usize) -> usize {
        let mut shed = Vec::new();
        {
            let mut streams = self.lock();
            while shed.len() < count {
                let Some((_, stream)) = streams.by_age.pop_first() else {
                    break;
                };
                shed.push(stream);
            }
        }
        // A stream that is woken may want the lock.
        for stream in &shed {
            stream.ending.cancel();
            stream.link.closing.cancel();
        }
        shed.len()
    }

    /// A panic elsewhere while the lock was held leaves the map whole.
    fn lock(&self) -> MutexGuard<'_, Streams> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.all.lock().by_age.remove(&self.number);
    }
}
