//! A bound on how often each of many callers may do something.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Callers that are remembered; beyond this many, those of the present window are forgotten.
const MAX_KEYS: usize = 10_000;

/// So many times in a window, for each key.
#[derive(Debug)]
pub struct RateLimit<K> {
    max: u32,
    window: Duration,
    keys: Mutex<HashMap<K, (Instant, u32)>>,
}

impl<K: Eq + Hash> RateLimit<K> {
    /// A limit without any counts.
    #[must_use]
    pub fn new(max: u32, window: Duration) -> Self {
        Self {
            max,
            window,
            keys: Mutex::default(),
        }
    }

    /// Returns whether the key has reached its limit.
    #[must_use]
    pub fn is_reached(&self, key: &K) -> bool {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let count = keys
            .get(key)
            .filter(|(since, _)| since.elapsed() < self.window);
        count.is_some_and(|(_, count)| *count >= self.max)
    }

    /// Counts one for the key. Returns whether it is within the limit.
    pub fn count(&self, key: K) -> bool {
        let now = Instant::now();
        let current = |since: Instant| now.duration_since(since) < self.window;
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.len() >= MAX_KEYS && !keys.contains_key(&key) {
            keys.retain(|_, (since, _)| current(*since));
            if keys.len() >= MAX_KEYS {
                keys.clear();
            }
        }
        let (since, count) = keys.entry(key).or_insert((now, 0));
        if !current(*since) {
            (*since, *count) = (now, 0);
        }
        *count = count.saturating_add(1);
        *count <= self.max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_has_a_limit_of_its_own() {
        let limit = RateLimit::new(2, Duration::from_secs(600));
        assert_eq!([(); 3].map(|()| limit.count("a")), [true, true, false]);
        assert!(limit.is_reached(&"a") && !limit.is_reached(&"b"));
        assert!(limit.count("b"));
        let over = RateLimit::new(1, Duration::ZERO);
        assert_eq!([over.count("a"), over.count("a")], [true, true]);
    }

    #[test]
    fn the_number_of_keys_is_bounded() {
        let limit = RateLimit::new(1, Duration::from_secs(600));
        for key in 0..3 * MAX_KEYS {
            limit.count(key);
            assert!(limit.keys.lock().unwrap().len() <= MAX_KEYS);
        }
    }
}
