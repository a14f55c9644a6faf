//! Answers of the API server about callers, kept for a while.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A scraper asks every few seconds; a right taken away holds for no longer than this.
const KEPT: Duration = Duration::from_secs(30);
/// The most answers. Beyond it the oldest one leaves.
const MAX_KEPT: usize = 256;

/// The answers by question.
pub(super) struct Answers<K, V>(Mutex<HashMap<K, (Instant, V)>>);

impl<K, V> Default for Answers<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash + Clone, V: Clone> Answers<K, V> {
    /// The answer to a question, if it is young enough.
    pub(super) fn get(&self, question: &K) -> Option<V> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, answer) = kept.get(question)?;
        (since.elapsed() < KEPT).then(|| answer.clone())
    }

    /// Keeps an answer.
    pub(super) fn keep(&self, question: K, answer: V) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= MAX_KEPT {
            let oldest = kept.iter().min_by_key(|(_, (since, _))| *since);
            if let Some(oldest) = oldest.map(|(question, _)| question.clone()) {
                kept.remove(&oldest);
            }
        }
        kept.insert(question, (Instant::now(), answer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_answer_leaves_first() {
        let answers = Answers::default();
        (0..=MAX_KEPT).for_each(|question| answers.keep(question, question + 1));
        assert_eq!(answers.get(&0), None);
        assert_eq!(answers.get(&1), Some(2));
        assert_eq!(answers.get(&MAX_KEPT), Some(MAX_KEPT + 1));
    }
}
