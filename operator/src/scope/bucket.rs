//! Which on-demand names are of now.

use heddle_policy_compiler::Bucket;
use k8s_openapi::jiff::Timestamp;

use super::Seconds;

/// The name of the bucket of a moment, in UTC.
fn name_of(bucket: Bucket, at: Seconds) -> String {
    i64::try_from(at)
        .ok()
        .and_then(|at| Timestamp::from_second(at).ok())
        .map(|at| at.strftime(bucket.format()).to_string())
        .unwrap_or_default()
}

/// The time buckets in which an on-demand name is recent: the bucket of the given time and its neighbors, because clocks
/// differ and answers take time. A name of another length has another kind of bucket, and is not recent.
#[derive(Debug)]
pub struct Recent(Vec<String>);

impl Recent {
    /// The buckets that count now.
    #[must_use]
    pub fn at(bucket: Bucket, now: Seconds) -> Self {
        // A second is less than clocks differ and answers take.
        let reach = match bucket {
            Bucket::Hour | Bucket::Minute => 1,
            Bucket::Second => 20,
        };
        let bucket_of = |step: Seconds| {
            let at = (now + step * bucket.seconds()).saturating_sub(reach * bucket.seconds());
            name_of(bucket, at)
        };
        Self((0..=2 * reach).map(bucket_of).collect())
    }

    /// Whether an on-demand name is of one of them.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        name.rsplit_once('|')
            .is_some_and(|(_, time)| self.0.iter().any(|bucket| bucket == time))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // 2026-11-21T07:59:30Z
    const NOW: Seconds = 1_795_247_970;

    #[test]
    fn the_buckets_beside_the_present_one_are_recent() {
        assert_eq!(name_of(Bucket::Hour, NOW), "2026112107");
        for (name, recent) in [
            ("dst|10.0.0.1:80|2026112107", true),
            ("dst|10.0.0.1:80|2026112108", true),
            ("dst|10.0.0.1:80|2026112106", true),
            ("dst|10.0.0.1:80|2026112105", false),
            ("dst|10.0.0.1:80|202611210759", false),
            ("dst", false),
        ] {
            assert_eq!(Recent::at(Bucket::Hour, NOW).has(name), recent, "{name}");
        }
        let seconds = Recent::at(Bucket::Second, NOW);
        assert!(seconds.has("dst|10.0.0.1:80|20261121075925"));
        assert!(!seconds.has("dst|10.0.0.1:80|20261121075900"));
    }
}
