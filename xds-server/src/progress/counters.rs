//! The server's counters, as plain numbers; the owner of the server turns them into metrics.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::histogram::{Distribution, Sizes, Times};
use crate::resource::PerKind;

/// The counters at one moment. All but the open connections and streams only grow.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counts {
    /// The connections.
    pub connections: heddle_acceptor::Counts,
    /// Streams that are open.
    pub streams_open: u64,
    /// Streams ever admitted.
    pub streams: u64,
    /// Streams refused: not admitted, or ended because of a request.
    pub streams_refused: u64,
    /// Responses sent, by kind.
    pub responses: PerKind<u64>,
    /// NACKs of clients, by kind.
    pub nacks: PerKind<u64>,
    /// Encoded bytes of responses.
    pub bytes: u64,
    /// Requests that could not be decoded, or were too large.
    pub undecodable: u64,
    /// Requests for a type that is not served; they are left unanswered.
    pub unknown_types: u64,
    /// Streams that were ended so that their clients go elsewhere.
    pub streams_shed: u64,
    /// Load reports taken.
    pub load_reports: u64,
    /// Seconds from when a change was seen until a client had answered for all of the view that it led to.
    pub convergence: Distribution,
    /// Bytes of each response.
    pub push_bytes: Distribution,
}

/// The live counters.
#[derive(Debug, Default)]
pub struct Counters {
    pub(crate) connections: Arc<heddle_acceptor::Counters>,
    pub(crate) streams_open: AtomicU64,
    pub(crate) streams: AtomicU64,
    pub(crate) streams_refused: AtomicU64,
    pub(crate) responses: PerKind<AtomicU64>,
    pub(crate) nacks: PerKind<AtomicU64>,
    pub(crate) bytes: AtomicU64,
    pub(crate) undecodable: AtomicU64,
    pub(crate) unknown_types: AtomicU64,
    pub(crate) streams_shed: AtomicU64,
    pub(crate) load_reports: AtomicU64,
    pub(crate) convergence: Times,
    pub(crate) push_bytes: Sizes,
}

impl Counters {
    /// The live counters of the connections.
    #[must_use]
    pub fn connections(&self) -> Arc<heddle_acceptor::Counters> {
        Arc::clone(&self.connections)
    }

    /// The counters now. The numbers are read one by one, so they may be a moment apart.
    #[must_use]
    pub fn snapshot(&self) -> Counts {
        Counts {
            connections: self.connections.snapshot(),
            streams_open: read(&self.streams_open),
            streams: read(&self.streams),
            streams_refused: read(&self.streams_refused),
            responses: self.responses.map(read),
            nacks: self.nacks.map(read),
            bytes: read(&self.bytes),
            undecodable: read(&self.undecodable),
            unknown_types: read(&self.unknown_types),
            streams_shed: read(&self.streams_shed),
            load_reports: read(&self.load_reports),
            convergence: self.convergence.snapshot(),
            push_bytes: self.push_bytes.snapshot(),
        }
    }
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

pub(crate) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

pub(crate) fn sub(counter: &AtomicU64, n: u64) {
    counter.fetch_sub(n, Ordering::Relaxed);
}
