//! Buckets of time.

use std::time::Duration;

/// The bucket of time in an on-demand name. Envoy requests a name once in the life of a stream; with the next bucket it requests denied
/// and evicted destinations again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bucket {
    /// `%Y%m%d%H`
    Hour,
    /// `%Y%m%d%H%M`
    Minute,
    /// `%Y%m%d%H%M%S`
    Second,
}

impl Bucket {
    /// The bucket where destinations may be unused so long: at most half of that, or one that was evicted could not be requested again.
    #[must_use]
    pub const fn of(idle_after: Duration) -> Self {
        match idle_after.as_secs() {
            7200.. => Self::Hour,
            120.. => Self::Minute,
            _ => Self::Second,
        }
    }

    /// Its length in seconds.
    #[must_use]
    pub const fn seconds(self) -> u64 {
        match self {
            Self::Hour => 3600,
            Self::Minute => 60,
            Self::Second => 1,
        }
    }

    /// How the time is written, as strftime reads it.
    #[must_use]
    pub const fn format(self) -> &'static str {
        match self {
            Self::Hour => "%Y%m%d%H",
            Self::Minute => "%Y%m%d%H%M",
            Self::Second => "%Y%m%d%H%M%S",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_at_most_half_as_long_as_a_destination_may_be_unused() {
        let cases = [
            (86_400, Bucket::Hour),
            (7200, Bucket::Hour),
            (7199, Bucket::Minute),
            (120, Bucket::Minute),
            (3, Bucket::Second),
        ];
        for (idle, expected) in cases {
            let bucket = Bucket::of(Duration::from_secs(idle));
            assert_eq!(bucket, expected, "{idle}");
            assert!(2 * bucket.seconds() <= idle, "{idle}");
        }
    }
}
