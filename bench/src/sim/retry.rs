//! The behavior of a simulated proxy when its stream breaks.

use std::time::Duration;

use crate::random::Random;

/// Of the agent's bootstrap: `retry_back_off`.
const BASE: Duration = Duration::from_millis(500);
const MAX: Duration = Duration::from_secs(10);

/// The next step after a broken stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Nothing: it is a failure.
    Never,
    /// Another stream, after Envoy's own waits.
    AsEnvoy,
}

/// Envoy's jittered exponential wait: anything up to a bound that doubles with each failure.
#[derive(Debug)]
pub struct Backoff {
    failures: u32,
    random: Random,
}

impl Backoff {
    /// Of the proxy with this number: its waits are the same in every run.
    pub fn new(seed: u64) -> Self {
        Self {
            failures: 0,
            random: Random::new(seed),
        }
    }

    /// The stream stood: the next wait is short again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// The wait after one more failure.
    pub fn next(&mut self) -> Duration {
        let bound = BASE.saturating_mul(1 << self.failures.min(10)).min(MAX);
        self.failures += 1;
        bound.mul_f64(self.random.share())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_are_spread_and_begin_again() {
        let first: Vec<Duration> = (0..1000).map(|seed| Backoff::new(seed).next()).collect();
        assert!(first.iter().all(|wait| *wait <= BASE));
        let below_half = first.iter().filter(|wait| **wait < BASE / 2).count();
        assert!((400..600).contains(&below_half), "{below_half}");
        let mut backoff = Backoff::new(1);
        let longest = (0..50).map(|_| backoff.next()).max().unwrap();
        assert!(longest > Duration::from_secs(5) && longest <= MAX);
        backoff.reset();
        assert!(backoff.next() <= BASE);
    }
}
