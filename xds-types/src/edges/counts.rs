//! The counts of one edge over some time.

use serde::{Deserialize, Serialize};

/// The upper bounds of the duration buckets, in milliseconds: those of Envoy's histograms by default.
pub const BOUNDS_MS: [f64; 19] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1_000.0,
    2_500.0,
    5_000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];

/// The duration buckets: one for each bound, and one for longer durations.
pub const BUCKETS: usize = BOUNDS_MS.len() + 1;

/// The classes of response codes: no response, then 1xx to 5xx.
pub const CLASSES: usize = 6;

/// The traffic of an edge: requests of HTTP, or connections of bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct EdgeCounts {
    /// Requests by class of their response code; the first: requests without a response.
    pub responses: [u32; CLASSES],
    /// Failed requests (no response, 5xx, or a status of gRPC that is a fault of the server), or failed connections.
    pub failures: u32,
    /// Requests answered with 403, or with `PERMISSION_DENIED` of gRPC, by the mesh or by the application.
    pub forbidden: u32,
    /// Requests by duration; [`BOUNDS_MS`] has the upper bounds.
    pub durations: [u32; BUCKETS],
    /// The sum of the durations of requests, in milliseconds; 0 from an agent that does not report it.
    pub duration_sum_ms: u64,
    /// Ended connections of bytes.
    pub connections: u32,
    /// Bytes that those connections brought from the client.
    pub received_bytes: u64,
    /// Bytes that those connections brought to the client.
    pub sent_bytes: u64,
}

impl EdgeCounts {
    /// Returns the number of requests.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.responses.iter().copied().map(u64::from).sum()
    }

    /// Returns whether nothing was counted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds the counts of another time, or of another pod.
    pub fn add(&mut self, other: &Self) {
        let both = self.responses.iter_mut().zip(&other.responses);
        let durations = self.durations.iter_mut().zip(&other.durations);
        for (own, more) in both.chain(durations) {
            *own = own.saturating_add(*more);
        }
        self.duration_sum_ms = self.duration_sum_ms.saturating_add(other.duration_sum_ms);
        self.failures = self.failures.saturating_add(other.failures);
        self.forbidden = self.forbidden.saturating_add(other.forbidden);
        self.connections = self.connections.saturating_add(other.connections);
        self.received_bytes = self.received_bytes.saturating_add(other.received_bytes);
        self.sent_bytes = self.sent_bytes.saturating_add(other.sent_bytes);
    }

    /// Returns the mean duration in milliseconds. `None`: no duration is known, or the sum is of fewer requests than the buckets, as where
    /// some agents do not report it.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn mean_ms(&self) -> Option<f64> {
        let lowest = std::iter::once(0.0).chain(BOUNDS_MS);
        let (mut all, mut at_least) = (0u64, 0.0);
        for (count, from) in self.durations.iter().zip(lowest) {
            all += u64::from(*count);
            at_least += f64::from(*count) * from.floor();
        }
        let sum = self.duration_sum_ms as f64;
        (all > 0 && sum >= at_least).then(|| sum / all as f64)
    }

    /// Returns the duration in milliseconds within which a share of the requests ended, by linear interpolation in its bucket.
    /// `None`: no duration is known. Of durations beyond the last bound, the last bound.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn quantile_ms(&self, share: f64) -> Option<f64> {
        let all: u64 = self.durations.iter().copied().map(u64::from).sum();
        if all == 0 {
            return None;
        }
        let wanted = share * all as f64;
        let (mut from, mut below) = (0.0, 0.0);
        for (count, bound) in self.durations.iter().zip(BOUNDS_MS) {
            let count = f64::from(*count);
            if count > 0.0 && below + count >= wanted {
                return Some(from + (bound - from) * ((wanted - below) / count).clamp(0.0, 1.0));
            }
            (from, below) = (bound, below + count);
        }
        Some(from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_within_their_bucket() {
        let mut counts = EdgeCounts::default();
        assert_eq!(counts.quantile_ms(0.5), None);
        (counts.durations[1], counts.durations[2]) = (10, 10);
        assert_eq!(counts.quantile_ms(0.25), Some(0.75));
        assert_eq!(counts.quantile_ms(0.75), Some(3.0));
        assert_eq!(counts.quantile_ms(1.0), Some(5.0));
        counts.durations = [0; BUCKETS];
        counts.durations[BUCKETS - 1] = 1;
        assert_eq!(counts.quantile_ms(0.5), Some(3_600_000.0));
    }

    #[test]
    fn a_mean_needs_the_sum_of_all_requests() {
        let mut counts = EdgeCounts::default();
        assert_eq!(counts.mean_ms(), None);
        (counts.durations[1], counts.durations[3]) = (6, 2);
        counts.duration_sum_ms = 16;
        assert_eq!(counts.mean_ms(), Some(2.0));
        counts.duration_sum_ms = 9;
        assert_eq!(counts.mean_ms(), None, "two requests took 5 ms at least");
    }

    #[test]
    fn counts_add_up_and_do_not_overflow() {
        let mut counts = EdgeCounts {
            failures: u32::MAX,
            sent_bytes: 5,
            ..EdgeCounts::default()
        };
        let more = EdgeCounts {
            responses: [1, 0, 2, 0, 0, 0],
            failures: 1,
            sent_bytes: 6,
            ..EdgeCounts::default()
        };
        counts.add(&more);
        assert_eq!(
            (counts.requests(), counts.failures, counts.sent_bytes),
            (3, u32::MAX, 11)
        );
        assert!(!counts.is_empty() && EdgeCounts::default().is_empty());
    }
}
