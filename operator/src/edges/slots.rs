//! The last quarter of an hour of one edge: 18 slots of 5 seconds, and before them slots of 30 seconds.

use std::collections::VecDeque;

use heddle_xds_types::edges::EdgeCounts;

/// Seconds since the store began.
pub(super) type Seconds = u64;

/// The length of a new slot, in seconds.
const FINE: Seconds = 5;
/// New slots that are kept: the usual window of a minute, and the length of an older slot, so that none reaches into that window.
const FINE_SLOTS: u64 = 18;
/// The length of an older slot, in seconds.
const COARSE: Seconds = 30;
/// Older slots that are kept. The first of them overlaps the new ones by less than a slot.
const COARSE_SLOTS: u64 = 29;

/// The most new and older slots of an edge at a time. The first older slot may be there still while the last one begins.
const MOST_FINE: usize = 18;
const MOST_COARSE: usize = 30;

/// The longest time over which counts can be asked for, in seconds.
pub const LONGEST_WINDOW: u64 = 900;

/// The seconds up to now of which a window has the counts: it begins with a slot.
pub(super) fn covered(now: Seconds, window: u64) -> Seconds {
    let from = now.saturating_sub(window.min(LONGEST_WINDOW));
    let oldest_fine = (now / FINE + 1).saturating_sub(FINE_SLOTS) * FINE;
    let length = if from >= oldest_fine { FINE } else { COARSE };
    now - from / length * length
}

#[derive(Debug)]
struct Slot {
    /// The time of its beginning, in lengths of a slot.
    number: u64,
    counts: EdgeCounts,
}

/// The slots of one edge that have traffic, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Slots {
    fine: VecDeque<Slot>,
    coarse: VecDeque<Slot>,
}

impl Slots {
    /// Adds counts at a time, which is not before that of an earlier call.
    pub(super) fn add(&mut self, now: Seconds, counts: &EdgeCounts) {
        self.age(now);
        add(&mut self.fine, MOST_FINE, now / FINE, counts);
    }

    /// Returns the counts of the last `window` seconds, to the length of a slot.
    pub(super) fn sum(&self, now: Seconds, window: u64) -> EdgeCounts {
        let from = now.saturating_sub(window.min(LONGEST_WINDOW));
        let mut sum = EdgeCounts::default();
        for (slots, length) in [(&self.fine, FINE), (&self.coarse, COARSE)] {
            let recent = slots
                .iter()
                .filter(|slot| (slot.number + 1) * length > from);
            recent.for_each(|slot| sum.add(&slot.counts));
        }
        sum
    }

    /// Returns the beginning of the first slot with traffic in the last `window` seconds.
    pub(super) fn first(&self, now: Seconds, window: u64) -> Option<Seconds> {
        let from = now.saturating_sub(window.min(LONGEST_WINDOW));
        let of = |slots: &VecDeque<Slot>, length: Seconds| {
            let mut slots = slots.iter();
            let first = slots.find(|slot| (slot.number + 1) * length > from);
            first.map(|slot| (slot.number * length).max(from))
        };
        of(&self.coarse, COARSE).or_else(|| of(&self.fine, FINE))
    }

    /// Moves new slots that are too old into older ones, and forgets the oldest.
    fn age(&mut self, now: Seconds) {
        // Before, so that there is room for those that are moved; and after, for of an idle edge these are too old themselves.
        self.forget(now);
        while let Some(slot) = self
            .fine
            .pop_front_if(|slot| slot.number + FINE_SLOTS <= now / FINE)
        {
            let number = slot.number * FINE / COARSE;
            add(&mut self.coarse, MOST_COARSE, number, &slot.counts);
        }
        self.forget(now);
    }

    fn forget(&mut self, now: Seconds) {
        while self
            .coarse
            .pop_front_if(|slot| slot.number + COARSE_SLOTS + 1 < now / COARSE)
            .is_some()
        {}
    }

    /// Returns the bytes that the slots take beside the edge itself.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        (self.fine.capacity() + self.coarse.capacity()) * size_of::<Slot>()
    }

    #[cfg(test)]
    fn len(&self) -> (usize, usize) {
        (self.fine.len(), self.coarse.len())
    }
}

fn add(slots: &mut VecDeque<Slot>, most: usize, number: u64, counts: &EdgeCounts) {
    match slots.back_mut().filter(|slot| slot.number == number) {
        Some(slot) => slot.counts.add(counts),
        None => {
            grow(slots, most);
            slots.push_back(Slot {
                number,
                counts: counts.clone(),
            });
        }
    }
}

/// Makes room for one more slot, and for no more than there may be: on its own a queue doubles, to almost twice of that.
fn grow(slots: &mut VecDeque<Slot>, most: usize) {
    let (length, capacity) = (slots.len(), slots.capacity());
    if length == capacity {
        let wanted = (2 * length).clamp(1, most.max(length + 1));
        slots.reserve_exact(wanted - length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests(count: u32) -> EdgeCounts {
        EdgeCounts {
            responses: [0, 0, count, 0, 0, 0],
            ..EdgeCounts::default()
        }
    }

    #[test]
    fn a_quarter_of_an_hour_is_kept_in_few_slots() {
        let mut slots = Slots::default();
        for second in 0..3600 {
            slots.add(second, &requests(1));
            let (fine, coarse) = slots.len();
            assert!(
                fine <= MOST_FINE && coarse <= MOST_COARSE,
                "{fine} {coarse} at {second}"
            );
            let most = (MOST_FINE + MOST_COARSE) * size_of::<Slot>();
            assert!(slots.bytes() <= most, "{} bytes at {second}", slots.bytes());
        }
        for (window, slot) in [(5, 5), (30, 5), (60, 5), (300, 30), (900, 30)] {
            let sum = slots.sum(3599, window).requests();
            assert!((window..=window + slot).contains(&sum), "{sum} of {window}");
        }
    }

    #[test]
    fn a_steady_rate_is_the_same_in_every_window_and_at_every_time() {
        let mut slots = Slots::default();
        for now in 0..1200 {
            slots.add(now, &requests(7));
            for window in [5, 30, 60, 300, 900] {
                // The second that has begun is one of them.
                let seconds = u32::try_from(covered(now, window) + 1).unwrap();
                let sum = slots.sum(now, window).requests();
                assert_eq!(sum, u64::from(7 * seconds), "{window} s at {now}");
            }
        }
    }

    #[test]
    fn the_first_traffic_is_known_to_the_length_of_a_slot() {
        let mut slots = Slots::default();
        for now in [103, 250, 400] {
            slots.add(now, &requests(1));
        }
        for (window, first) in [
            (900, Some(90)),
            (200, Some(240)),
            (60, Some(400)),
            (5, Some(400)),
        ] {
            assert_eq!(slots.first(400, window), first, "{window} s");
        }
        assert_eq!(Slots::default().first(400, 900), None);
    }

    #[test]
    fn the_slots_of_an_idle_edge_leave_the_window() {
        let mut slots = Slots::default();
        slots.add(100, &requests(3));
        for (now, window, expected) in [
            (100, 5, 3),
            (130, 60, 3),
            (170, 60, 0),
            (170, 900, 3),
            (1100, 900, 0),
        ] {
            let sum = slots.sum(now, window).requests();
            assert_eq!(sum, expected, "{window} s at {now}");
        }
        slots.add(5000, &requests(1));
        assert_eq!(slots.len(), (1, 0));
    }
}
