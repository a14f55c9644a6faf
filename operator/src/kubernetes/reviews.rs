//! TokenReviews that strangers can cause: bounded for each source address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::rate::RateLimit;

/// Reviews of one source at a time.
const AT_A_TIME: usize = 16;
/// Tokens of one source that the API server may refuse in a [`WINDOW`].
const MAX_REFUSED: u32 = 60;
const WINDOW: Duration = Duration::from_secs(60);

/// The reviews of one server.
pub(super) struct Reviews {
    refused: RateLimit<IpAddr>,
    running: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Default for Reviews {
    fn default() -> Self {
        Self {
            refused: RateLimit::new(MAX_REFUSED, WINDOW),
            running: Arc::default(),
        }
    }
}

/// A review that is running.
pub(super) struct RunningReview {
    source: IpAddr,
    running: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Reviews {
    /// Begins a review for a source. `None`: the source has too many, or too many of its tokens were refused.
    pub(super) fn begin(&self, source: IpAddr) -> Option<RunningReview> {
        if self.refused.is_reached(&source) {
            return None;
        }
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let count = running.entry(source).or_default();
        if *count >= AT_A_TIME {
            return None;
        }
        *count += 1;
        Some(RunningReview {
            source,
            running: Arc::clone(&self.running),
        })
    }

    /// The API server refused a token of the source.
    pub(super) fn refused(&self, source: IpAddr) {
        self.refused.count(source);
    }
}

impl Drop for RunningReview {
    fn drop(&mut self) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = running.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                running.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn one_source_takes_no_reviews_from_others() {
        let reviews = Reviews::default();
        let source = |host| IpAddr::from(Ipv4Addr::new(10, 0, 0, host));
        let running: Vec<_> = (0..AT_A_TIME)
            .map(|_| reviews.begin(source(1)).unwrap())
            .collect();
        assert!(reviews.begin(source(1)).is_none() && reviews.begin(source(2)).is_some());
        drop(running);
        assert!(reviews.begin(source(1)).is_some());
        (0..MAX_REFUSED).for_each(|_| reviews.refused(source(1)));
        assert!(reviews.begin(source(1)).is_none() && reviews.begin(source(2)).is_some());
        assert!(reviews.running.lock().unwrap().is_empty());
    }
}
