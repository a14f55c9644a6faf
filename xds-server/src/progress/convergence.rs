//! How long a change takes until a client runs it.

use std::collections::VecDeque;
use std::time::Instant;

use super::histogram::Times;
use crate::source::Converged;

/// Views that wait for their client at a time; further ones are not measured.
const MAX_WAITING: usize = 64;

#[derive(Debug)]
struct Waiting {
    view: u64,
    since: Instant,
    begun: Instant,
}

/// The views of one stream that wait to be acknowledged.
#[derive(Debug, Default)]
pub(crate) struct Convergence {
    /// The time of the newest change in any view so far.
    newest: Option<Instant>,
    waiting: VecDeque<Waiting>,
}

impl Convergence {
    /// A view with a change of the time `since` was set, when the client had answered for the views up to `answered`. Three kinds of views
    /// are not measured: the first one,
    /// because its change happened before the stream began; one that is not newer than the view before, because no change made
    /// it; and one that is answered for at once, because it changes nothing for this client.
    pub fn began(&mut self, view: u64, since: Option<Instant>, answered: u64) {
        let Some(since) = since else {
            return;
        };
        let newer = self.newest.is_none_or(|newest| since > newest);
        if newer && view > 1 && answered < view && self.waiting.len() < MAX_WAITING {
            let begun = Instant::now();
            self.waiting.push_back(Waiting { view, since, begun });
        }
        if newer {
            self.newest = Some(since);
        }
    }

    /// Whether any view waits.
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The client has answered for all views up to this one. Calls back with each.
    pub fn reached(&mut self, view: u64, times: &Times, mut each: impl FnMut(Converged)) {
        while let Some(of) = self.waiting.pop_front_if(|of| of.view <= view) {
            let acknowledged = Instant::now();
            times.observe(acknowledged.saturating_duration_since(of.since));
            each(Converged {
                since: of.since,
                begun: of.begun,
                acknowledged,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_change_is_measured_once_and_what_was_before_the_stream_never() {
        let (mut convergence, times, start) =
            (Convergence::default(), Times::default(), Instant::now());
        let mut began = |view, millis, answered| {
            convergence.began(view, Some(start + Duration::from_millis(millis)), answered);
            convergence.reached(view, &times, |_| {});
            times.snapshot().count
        };
        assert_eq!(began(1, 1, 0), 0, "the first view");
        assert_eq!(began(2, 1, 1), 0, "the same change");
        assert_eq!(began(3, 2, 2), 1);
        assert_eq!(began(4, 2, 3), 1);
        assert_eq!(began(5, 3, 5), 1, "nothing for this client");
        convergence.began(6, Some(start + Duration::from_millis(4)), 5);
        convergence.began(7, Some(start + Duration::from_millis(5)), 5);
        convergence.reached(5, &times, |_| panic!("none is acknowledged"));
        assert!(convergence.is_waiting());
        let mut seen = Vec::new();
        convergence.reached(7, &times, |of| seen.push(of.since - start));
        assert_eq!(seen, [Duration::from_millis(4), Duration::from_millis(5)]);
        assert_eq!(times.snapshot().count, 3);
    }
}
