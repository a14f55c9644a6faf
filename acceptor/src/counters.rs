//! The counters of an acceptor.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::reasons::{Overdue, Refused};

/// The counters of one server, live.
#[derive(Debug, Default)]
pub struct Counters {
    open: AtomicU64,
    accepted: AtomicU64,
    refused_full: AtomicU64,
    refused_source: AtomicU64,
    displaced: AtomicU64,
    handshakes_failed: AtomicU64,
    without_request: AtomicU64,
    idle: AtomicU64,
    slow_requests: AtomicU64,
}

/// The counters of one server at one moment. All but `open` only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Open connections.
    pub open: u64,
    /// Connections ever accepted.
    pub accepted: u64,
    /// Connections refused because the server was full.
    pub refused_full: u64,
    /// Connections refused because their source held its share.
    pub refused_source: u64,
    /// Connections closed in favor of newer ones.
    pub displaced: u64,
    /// TLS handshakes that failed or took too long.
    pub handshakes_failed: u64,
    /// Connections closed because no first request came in time.
    pub without_request: u64,
    /// Connections closed because no further request came in time.
    pub idle: u64,
    /// Connections closed because a request did not end in time.
    pub slow_requests: u64,
}

impl Counts {
    /// The counters of connections that were not served to their end, with the reason of each in one word.
    #[must_use]
    pub const fn ended_early(&self) -> [(&'static str, u64); 7] {
        [
            ("full", self.refused_full),
            ("source", self.refused_source),
            ("displaced", self.displaced),
            ("handshake", self.handshakes_failed),
            ("no_request", self.without_request),
            ("idle", self.idle),
            ("slow_request", self.slow_requests),
        ]
    }
}

impl Counters {
    /// The counters now. The numbers are read one by one, so they may be a moment apart.
    #[must_use]
    pub fn snapshot(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            open: read(&self.open),
            accepted: read(&self.accepted),
            refused_full: read(&self.refused_full),
            refused_source: read(&self.refused_source),
            displaced: read(&self.displaced),
            handshakes_failed: read(&self.handshakes_failed),
            without_request: read(&self.without_request),
            idle: read(&self.idle),
            slow_requests: read(&self.slow_requests),
        }
    }

    pub(crate) fn opened(&self) {
        add(&self.open);
        add(&self.accepted);
    }

    pub(crate) fn closed(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn refused(&self, refused: Refused) {
        add(match refused {
            Refused::Full => &self.refused_full,
            Refused::Source => &self.refused_source,
        });
    }

    pub(crate) fn displaced(&self) {
        add(&self.displaced);
    }

    pub(crate) fn handshake_failed(&self) {
        add(&self.handshakes_failed);
    }

    pub(crate) fn overdue(&self, overdue: Overdue) {
        add(match overdue {
            Overdue::FirstRequest => &self.without_request,
            Overdue::Idle => &self.idle,
            Overdue::Request => &self.slow_requests,
        });
    }
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
