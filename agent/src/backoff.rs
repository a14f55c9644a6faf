//! Pauses between attempts to reach the control plane: they grow, and pods spread by chance.

use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

use heddle_identity::Jitter;

const FIRST_RETRY: Duration = Duration::from_millis(500);
/// A control plane that comes back is found within this time.
const LAST_RETRY: Duration = Duration::from_secs(20);

/// Doubling, half of it by chance.
pub(crate) fn backoff(attempt: u32, jitter: Jitter) -> Duration {
    let whole = FIRST_RETRY
        .saturating_mul(2u32.saturating_pow(attempt))
        .min(LAST_RETRY);
    whole.mul_f64(0.5 + 0.5 * jitter.share())
}

/// The standard library seeds each hasher by the system's randomness, which is chance enough to spread pods.
pub(crate) fn chance() -> Jitter {
    let bits = std::collections::hash_map::RandomState::new()
        .build_hasher()
        .finish();
    Jitter::new((bits >> 11) as f64 / (1u64 << 53) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_grow_and_stay_bounded() {
        let at = |n, share| backoff(n, Jitter::new(share)).as_millis();
        assert_eq!((at(0, 0.0), at(0, 1.0)), (250, 500));
        assert_eq!(at(2, 1.0), 2000);
        assert_eq!((at(40, 1.0), at(u32::MAX, 0.0)), (20_000, 10_000));
    }

    #[test]
    fn chance_differs() {
        let all: std::collections::BTreeSet<u64> =
            (0..50).map(|_| chance().share().to_bits()).collect();
        assert!(all.len() > 40);
    }
}
