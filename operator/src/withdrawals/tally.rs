//! The count of one withdrawal in one replica: a state machine without I/O.

use std::collections::BTreeSet;
use std::time::{Instant, SystemTime};

use heddle_xds_server::Name;

/// One moment by both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moment {
    pub(super) instant: Instant,
    pub(super) at: SystemTime,
}

impl Moment {
    pub(super) fn now() -> Self {
        Self {
            instant: Instant::now(),
            at: SystemTime::now(),
        }
    }
}

/// How a caller stands to the removal of the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Caller {
    /// The configuration that it must have still has the pod.
    Has,
    /// It must do without the pod, and has not acknowledged all endpoints of the services.
    Pending,
    /// It has acknowledged the removal.
    Acknowledged,
    /// It has no stream to any replica.
    Away,
}

/// The callers of a terminating pod with a stream to this replica.
#[derive(Debug, Default)]
pub(super) struct Tally {
    acknowledged: BTreeSet<Name>,
    pending: BTreeSet<Name>,
    away: u32,
    withdrawn: Option<Moment>,
    complete: Option<Moment>,
}

impl Tally {
    /// Takes a look at all callers. `ready`: a slice lists the pod as ready. Once every caller has acknowledged, later looks
    /// change nothing: a caller that comes later never had the pod.
    pub(super) fn look(
        &mut self,
        now: Moment,
        ready: bool,
        callers: impl Iterator<Item = (Name, Caller)>,
    ) {
        if self.complete.is_some() {
            return;
        }
        self.pending.clear();
        self.away = 0;
        let mut has = ready;
        for (name, caller) in callers {
            match caller {
                Caller::Acknowledged => _ = self.acknowledged.insert(name),
                Caller::Away => self.away += 1,
                Caller::Has | Caller::Pending => {
                    has |= caller == Caller::Has;
                    self.acknowledged.remove(&name);
                    self.pending.insert(name);
                }
            }
        }
        if has {
            self.withdrawn = None;
            return;
        }
        self.withdrawn.get_or_insert(now);
        if self.pending.is_empty() && self.away == 0 {
            self.complete = Some(now);
        }
    }

    /// Since when no configuration of this replica has the pod.
    pub(super) const fn withdrawn(&self) -> Option<Moment> {
        self.withdrawn
    }

    /// When the last caller acknowledged.
    pub(super) const fn complete(&self) -> Option<Moment> {
        self.complete
    }

    pub(super) const fn away(&self) -> u32 {
        self.away
    }

    /// All callers but those that are away, and those that have acknowledged.
    pub(super) fn counts(&self) -> (u32, u32) {
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let acknowledged = number(self.acknowledged.len());
        (
            acknowledged.saturating_add(number(self.pending.len())),
            acknowledged,
        )
    }

    /// The callers that have not acknowledged.
    pub(super) const fn missing(&self) -> &BTreeSet<Name> {
        &self.pending
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Caller::{Acknowledged, Away, Has, Pending};
    use super::*;

    /// The withdrawal, its completion, and the counts after looks, one a second.
    fn after(looks: &[(bool, &[Caller])]) -> (Option<u64>, Option<u64>, (u32, u32)) {
        let (mut tally, start) = (Tally::default(), Moment::now());
        for (second, (ready, callers)) in (1..).zip(looks) {
            let now = Moment {
                instant: start.instant + Duration::from_secs(second),
                at: start.at,
            };
            let named = callers.iter().zip(["a", "b", "c"]);
            tally.look(now, *ready, named.map(|(of, name)| (name.into(), *of)));
        }
        let second = |at: Option<Moment>| at.map(|at| (at.instant - start.instant).as_secs());
        (
            second(tally.withdrawn()),
            second(tally.complete()),
            tally.counts(),
        )
    }

    #[test]
    fn a_withdrawal_is_complete_once_every_caller_has_acknowledged_it() {
        for (looks, expected) in [
            // While a slice lists it as ready, nothing has begun.
            (&[(true, &[Pending][..])][..], (None, None, (1, 0))),
            (
                &[
                    (false, &[Has, Acknowledged]),
                    (false, &[Pending, Acknowledged]),
                    (false, &[Acknowledged, Acknowledged]),
                    (false, &[Pending, Pending, Pending]),
                ],
                (Some(2), Some(3), (2, 2)),
            ),
            // The last endpoint of a service comes back while no other is ready.
            (
                &[(false, &[Pending]), (false, &[Has]), (false, &[Pending])],
                (Some(3), None, (1, 0)),
            ),
            // No caller: complete with the withdrawal.
            (
                &[(true, &[]), (false, &[]), (false, &[])],
                (Some(2), Some(2), (0, 0)),
            ),
            // One that moves to another replica is away, and acknowledges there.
            (
                &[(false, &[Pending, Pending]), (false, &[Away, Acknowledged])],
                (Some(1), None, (1, 1)),
            ),
            (
                &[(false, &[Away, Acknowledged]), (false, &[])],
                (Some(1), Some(2), (1, 1)),
            ),
        ] {
            assert_eq!(after(looks), expected, "{looks:?}");
        }
    }
}
