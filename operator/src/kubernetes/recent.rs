//! Answers of the API server that are kept for a short time, within a bound.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Values by key, each for a time after it was inserted.
pub(super) struct Recent<K, V> {
    lasts: Duration,
    /// The most values at a time.
    bound: usize,
    values: Mutex<HashMap<K, (Instant, V)>>,
}

impl<K: Eq + Hash, V: Clone> Recent<K, V> {
    pub(super) fn new(lasts: Duration, bound: usize) -> Self {
        Self {
            lasts,
            bound,
            values: Mutex::default(),
        }
    }

    pub(super) fn get(&self, key: &K) -> Option<V> {
        let values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, value) = values.get(key)?;
        (at.elapsed() < self.lasts).then(|| value.clone())
    }

    /// Keeps a value. If there is no place, all values leave.
    pub(super) fn insert(&self, key: K, value: V) {
        let mut values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        if values.len() >= self.bound {
            values.retain(|_, (at, _)| at.elapsed() < self.lasts);
            if values.len() >= self.bound {
                values.clear();
            }
        }
        values.insert(key, (Instant::now(), value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_kept_for_a_time_and_within_a_bound() {
        let kept = Recent::new(Duration::from_secs(10), 8);
        for n in 0..20 {
            kept.insert(n, n);
            assert!(kept.values.lock().unwrap().len() <= 8);
        }
        assert_eq!((kept.get(&19), kept.get(&20)), (Some(19), None));
        let over = Recent::new(Duration::ZERO, 8);
        over.insert(1, 1);
        assert_eq!(over.get(&1), None);
    }
}
