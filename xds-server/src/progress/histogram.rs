//! Histograms of fixed, exponential buckets: an observation is three additions.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Each bucket is twice as wide as the one before.
const BUCKETS: u32 = 16;

/// A histogram at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Distribution {
    /// The sum of all observations.
    pub sum: f64,
    /// Their number.
    pub count: u64,
    /// The upper bound of each bucket, and how many observations are in it and in none before. The last bound is
    /// [`f64::INFINITY`]: without that bucket, Prometheus calculates no quantile.
    pub buckets: Vec<(f64, u64)>,
}

/// Whole numbers, counted by size.
#[derive(Debug, Default)]
struct Histogram {
    sum: AtomicU64,
    buckets: [AtomicU64; BUCKETS as usize],
    beyond: AtomicU64,
}

impl Histogram {
    /// `first` is the upper bound of the first bucket.
    fn observe(&self, value: u64, first: u64) {
        let bucket = (0..BUCKETS)
            .zip(&self.buckets)
            .find(|(n, _)| value <= first << n);
        let bucket = bucket.map_or(&self.beyond, |(_, bucket)| bucket);
        bucket.fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// `unit` is the number of observed units in one unit of the result, such as microseconds in a second.
    #[allow(clippy::cast_precision_loss)]
    fn snapshot(&self, first: u64, unit: f64) -> Distribution {
        let bounds = (0..BUCKETS).map(|n| (first << n) as f64 / unit);
        let counts = self.buckets.iter().chain([&self.beyond]);
        let buckets: Vec<_> = bounds
            .chain([f64::INFINITY])
            .zip(counts.map(|count| count.load(Ordering::Relaxed)))
            .collect();
        Distribution {
            sum: self.sum.load(Ordering::Relaxed) as f64 / unit,
            count: buckets.iter().map(|(_, count)| count).sum(),
            buckets,
        }
    }
}

/// Times, from 1 ms to 33 s; shown in seconds.
#[derive(Debug, Default)]
pub(crate) struct Times(Histogram);

impl Times {
    const FIRST: u64 = 1000;

    pub fn observe(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.0.observe(micros, Self::FIRST);
    }

    pub fn snapshot(&self) -> Distribution {
        self.0.snapshot(Self::FIRST, 1e6)
    }
}

/// Sizes, from 128 bytes to 4 MiB; shown in bytes.
#[derive(Debug, Default)]
pub(crate) struct Sizes(Histogram);

impl Sizes {
    const FIRST: u64 = 128;

    pub fn observe(&self, bytes: u64) {
        self.0.observe(bytes, Self::FIRST);
    }

    pub fn snapshot(&self) -> Distribution {
        self.0.snapshot(Self::FIRST, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn observations_fall_into_the_first_bucket_that_holds_them() {
        let times = Times::default();
        for millis in [0, 1, 2, 3, 60_000] {
            times.observe(Duration::from_millis(millis));
        }
        let seen = times.snapshot();
        assert_eq!((seen.count, seen.sum), (5, 60.006));
        let filled: Vec<_> = seen.buckets.iter().filter(|(_, n)| *n > 0).collect();
        assert_eq!(
            filled,
            [&(0.001, 2), &(0.002, 1), &(0.004, 1), &(f64::INFINITY, 1)]
        );
        assert_eq!(seen.buckets.len(), 17);
    }
}
