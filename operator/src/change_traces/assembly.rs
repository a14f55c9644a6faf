//! Puts the events of one change together.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use heddle_policy_compiler::ObjectRef;

use super::{Change, Event};

/// Changes that wait for events at a time. Further ones have no trace.
const MAX_OPEN: usize = 64;
/// The acknowledgments in one trace.
const MAX_ACKNOWLEDGED: usize = 128;
/// The statuses in one trace.
const MAX_WRITTEN: usize = 64;
/// A change is over so long after its last event.
const QUIET: Duration = Duration::from_secs(5);
/// A change is over so long after it was published, also if proxies have not acknowledged it.
const LONGEST: Duration = Duration::from_secs(60);

/// One step of a change, with the name of its proxy or object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) name: String,
    pub(super) from: Instant,
    pub(super) to: Instant,
}

/// All that is known of one change.
#[derive(Clone, Debug)]
pub(super) struct Trace {
    pub(super) change: Change,
    pub(super) acknowledged: Vec<Step>,
    /// The number of all acknowledgments.
    pub(super) proxies: usize,
    pub(super) written: Vec<Step>,
    last: Instant,
}

impl Trace {
    fn is_over(&self, now: Instant) -> bool {
        let since = |then: Instant| now.saturating_duration_since(then);
        since(self.last) >= QUIET || since(self.change.published) >= LONGEST
    }

    /// Returns the end of the last step.
    pub(super) fn end(&self) -> Instant {
        self.last.max(self.change.published)
    }
}

/// An event that is in no trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lost {
    /// A change, for [`MAX_OPEN`] others go on.
    Change,
    /// An acknowledgment of a change without an open trace.
    Acknowledgment,
}

impl Lost {
    /// The label of the counter.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Change => "lost",
            Self::Acknowledgment => "acknowledgment_lost",
        }
    }
}

/// The changes that go on, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Assembly(VecDeque<Trace>);

impl Assembly {
    /// Takes an event. A status without an open trace is none of a traced change, and no loss.
    ///
    /// # Errors
    /// The event is in no trace.
    pub(super) fn take(&mut self, event: Event) -> Result<(), Lost> {
        match event {
            Event::Published(change) => {
                if self.0.len() >= MAX_OPEN {
                    return Err(Lost::Change);
                }
                self.0.push_back(Trace {
                    last: change.published,
                    change,
                    acknowledged: Vec::new(),
                    proxies: 0,
                    written: Vec::new(),
                });
            }
            Event::Acknowledged { proxy, view } => {
                // The views of a change have its time.
                let mut open = self.0.iter_mut();
                let trace = open.find(|trace| trace.change.seen == view.since);
                let trace = trace.ok_or(Lost::Acknowledgment)?;
                trace.proxies += 1;
                trace.last = trace.last.max(view.acknowledged);
                if trace.acknowledged.len() < MAX_ACKNOWLEDGED {
                    trace.acknowledged.push(Step {
                        name: proxy.to_string(),
                        from: view.begun,
                        to: view.acknowledged,
                    });
                }
            }
            Event::Written { object, at } => self.written(&object, at),
        }
        Ok(())
    }

    /// The status of an object belongs to the newest change of the object.
    fn written(&mut self, object: &ObjectRef, at: Instant) {
        let mut open = self.0.iter_mut().rev();
        if let Some(trace) = open.find(|trace| trace.change.objects.contains(object))
            && trace.written.len() < MAX_WRITTEN
        {
            trace.last = trace.last.max(at);
            trace.written.push(Step {
                name: object.to_string(),
                from: trace.change.published,
                to: at,
            });
        }
    }

    /// Removes and returns the changes that are over.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Trace> {
        let all = std::mem::take(&mut self.0).into_iter();
        let (over, open): (Vec<_>, Vec<_>) = all.partition(|trace| trace.is_over(now));
        self.0 = open.into();
        over
    }

    /// Removes and returns all changes.
    pub(super) fn end(&mut self) -> Vec<Trace> {
        std::mem::take(&mut self.0).into()
    }
}

#[cfg(test)]
mod tests {
    use heddle_policy_compiler::ObjectKind;
    use heddle_xds_server::{Converged, SubscriberId};

    use super::*;

    fn split(name: &str) -> ObjectRef {
        ObjectRef::new(ObjectKind::TrafficSplit, "shop", name)
    }

    fn published(revision: u64, seen: Instant, name: &str) -> Event {
        let later = |millis| seen + Duration::from_millis(millis);
        Event::Published(Change {
            revision,
            objects: vec![split(name)],
            count: 1,
            seen,
            begun: later(1),
            compiled: later(2),
            published: later(3),
        })
    }

    fn acknowledged(since: Instant, millis: u64) -> Event {
        Event::Acknowledged {
            proxy: SubscriberId::from("shop/cart-1"),
            view: Converged {
                since,
                begun: since + Duration::from_millis(4),
                acknowledged: since + Duration::from_millis(millis),
            },
        }
    }

    #[test]
    fn steps_go_to_their_change_and_end_with_it() {
        let (start, mut all) = (Instant::now(), Assembly::default());
        let second = start + Duration::from_secs(1);
        for event in [
            published(1, start, "reviews"),
            published(2, second, "reviews"),
            acknowledged(start, 500),
            acknowledged(second, 6),
            Event::Written {
                object: split("reviews"),
                at: second + Duration::from_millis(7),
            },
            Event::Written {
                object: split("other"),
                at: second,
            },
        ] {
            assert_eq!(all.take(event), Ok(()));
        }
        let later = acknowledged(second + Duration::from_secs(1), 6);
        assert_eq!(all.take(later), Err(Lost::Acknowledgment));
        assert!(all.due(start + Duration::from_secs(5)).is_empty());
        let first = all.due(start + Duration::from_millis(5_500));
        assert_eq!(first.len(), 1);
        assert_eq!((first[0].change.revision, first[0].proxies), (1, 1));
        assert!(first[0].written.is_empty(), "the newer change has it");
        assert_eq!(first[0].end(), start + Duration::from_millis(500));
        let last = all.end();
        assert_eq!((last[0].change.revision, last[0].proxies), (2, 1));
        assert_eq!(last[0].written[0].name, "TrafficSplit shop/reviews");
        assert_eq!(last[0].end(), second + Duration::from_millis(7));
    }

    #[test]
    fn a_trace_is_bounded_and_ends_without_quiet() {
        let (start, mut all) = (Instant::now(), Assembly::default());
        assert_eq!(all.take(published(1, start, "reviews")), Ok(()));
        for second in 0..300 {
            assert_eq!(all.take(acknowledged(start, second * 1_000)), Ok(()));
        }
        assert!(all.due(start + Duration::from_secs(59)).is_empty());
        let trace = all.due(start + Duration::from_secs(61)).remove(0);
        assert_eq!(
            (trace.proxies, trace.acknowledged.len()),
            (300, MAX_ACKNOWLEDGED)
        );
    }

    #[test]
    fn changes_beyond_the_bound_have_no_trace() {
        let (start, mut all) = (Instant::now(), Assembly::default());
        let taken = (0..100).filter(|n| all.take(published(*n, start, "reviews")).is_ok());
        assert_eq!(taken.count(), MAX_OPEN);
        let further = all.take(published(100, start, "reviews"));
        assert_eq!(further, Err(Lost::Change));
        assert_eq!(all.end().len(), MAX_OPEN);
    }
}
