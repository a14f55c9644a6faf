//! The streams that are open, by age, so that some can be sent elsewhere and no subscriber has many.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use heddle_acceptor::Link;
use tokio_util::sync::CancellationToken;

use crate::source::SubscriberId;

/// The open streams of one subscriber from one address. A sidecar has one; an Envoy that starts again has a second one for a moment.
const MAX_STREAMS_OF_SUBSCRIBER: usize = 4;

/// All open discovery streams.
#[derive(Debug, Default)]
pub(crate) struct OpenStreams(Mutex<Streams>);

#[derive(Debug, Default)]
struct Streams {
    next: u64,
    by_age: BTreeMap<u64, Stream>,
    /// The numbers of the streams of each subscriber from one address: a stranger of the same service account ends no stream of the pod's own.
    of_subscriber: HashMap<(SubscriberId, Option<IpAddr>), BTreeSet<u64>>,
}

#[derive(Debug)]
struct Stream {
    from: (SubscriberId, Option<IpAddr>),
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
    /// Takes a stream of a subscriber in. One too many ends the subscriber's oldest stream.
    pub fn enter(
        self: &Arc<Self>,
        who: &SubscriberId,
        ending: CancellationToken,
        link: Arc<Link>,
    ) -> OpenStream {
        let mut streams = self.lock();
        let number = streams.next;
        streams.next += 1;
        let from = (who.clone(), link.peer.address.map(|address| address.ip()));
        let numbers = streams.of_subscriber.entry(from.clone()).or_default();
        numbers.insert(number);
        let oldest = numbers.first().copied();
        let oldest = oldest.filter(|_| numbers.len() > MAX_STREAMS_OF_SUBSCRIBER);
        streams.by_age.insert(number, Stream { from, ending, link });
        let ended = oldest.and_then(|oldest| streams.take(oldest));
        drop(streams);
        if let Some(stream) = ended {
            tracing::info!(
                subscriber = %stream.from.0,
                "stream ended: the subscriber has {MAX_STREAMS_OF_SUBSCRIBER} newer ones"
            );
            stream.ending.cancel();
        }
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
                let oldest = streams.by_age.keys().next().copied();
                let Some(stream) = oldest.and_then(|oldest| streams.take(oldest)) else {
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

impl Streams {
    fn take(&mut self, number: u64) -> Option<Stream> {
        let stream = self.by_age.remove(&number)?;
        if let Some(numbers) = self.of_subscriber.get_mut(&stream.from) {
            numbers.remove(&number);
            if numbers.is_empty() {
                self.of_subscriber.remove(&stream.from);
            }
        }
        Some(stream)
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.all.lock().take(self.number);
    }
}
