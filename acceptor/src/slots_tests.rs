use std::net::Ipv4Addr;

use futures::FutureExt;
use proptest::prelude::*;

use super::*;

fn source(host: u8) -> Source {
    Source::Address(Ipv4Addr::new(10, 0, 0, host).into())
}

fn slots(connections: usize, per_source: usize, reserved: usize) -> Arc<Slots> {
    let bounds = Bounds {
        connections,
        per_source,
        reserved,
        displace_busy: false,
    };
    Slots::new(bounds, Arc::default())
}

fn is_displaced(slot: &ConnectionSlot) -> bool {
    slot.displaced.is_cancelled()
}

#[test]
fn a_newcomer_displaces_the_oldest_silent_connection_of_the_largest_source() {
    let slots = slots(4, 4, 0);
    let first: Vec<_> = (0..3).map(|_| slots.enter(source(1)).unwrap()).collect();
    let other = slots.enter(source(2)).unwrap();
    first[0].set_state(SlotState::Busy);
    let newcomer = slots.enter(source(3)).unwrap();
    let displaced: Vec<_> = first.iter().map(is_displaced).collect();
    assert_eq!(displaced, [false, true, false]);
    assert!(!is_displaced(&other) && !is_displaced(&newcomer));
}

#[test]
fn a_source_at_its_share_displaces_only_its_own_idle_connections() {
    let slots = slots(100, 2, 0);
    let own: Vec<_> = (0..2).map(|_| slots.enter(source(1)).unwrap()).collect();
    let third = slots.enter(source(1)).unwrap();
    assert_eq!(
        [is_displaced(&own[0]), is_displaced(&own[1])],
        [true, false]
    );
    own[1].set_state(SlotState::Busy);
    third.set_state(SlotState::Busy);
    assert_eq!(slots.enter(source(1)).err(), Some(Refused::Source));
    own[1].set_state(SlotState::Quiet);
    slots.enter(source(1)).unwrap();
    assert!(is_displaced(&own[1]));
}

#[test]
fn the_reserve_is_for_sources_without_a_connection() {
    let slots = slots(4, 4, 2);
    let busy = |host| {
        let slot = slots.enter(source(host)).unwrap();
        slot.set_state(SlotState::Busy);
        slot
    };
    let _held = [busy(1), busy(1)];
    assert_eq!(slots.enter(source(1)).err(), Some(Refused::Full));
    let _reserve = [busy(2), busy(3)];
    assert_eq!(slots.enter(source(4)).err(), Some(Refused::Full));
}

#[test]
fn running_requests_are_displaced_only_where_anybody_is_answered() {
    let bounds = Bounds {
        connections: 2,
        per_source: 2,
        reserved: 0,
        displace_busy: true,
    };
    let slots = Slots::new(bounds, Arc::default());
    let held: Vec<_> = (0..2).map(|_| slots.enter(source(1)).unwrap()).collect();
    held.iter().for_each(|slot| slot.set_state(SlotState::Busy));
    let newcomer = slots.enter(source(2)).unwrap();
    assert!(is_displaced(&held[0]));
    newcomer.set_state(SlotState::Busy);
    // From here on every source has one connection, and none loses it in the middle of a request.
    assert_eq!(slots.enter(source(3)).err(), Some(Refused::Full));
}

#[test]
fn a_displaced_connection_counts_until_it_is_closed() {
    let slots = slots(MAX_LEAVING, MAX_LEAVING, 0);
    let enter = || (0..MAX_LEAVING).map(|_| slots.enter(source(1)).unwrap());
    let (held, newcomers): (Vec<_>, Vec<_>) = (enter().collect(), enter().collect());
    assert!(slots.settled().now_or_never().is_none());
    assert_eq!(slots.counters.snapshot().open, 2 * MAX_LEAVING as u64);
    drop(held);
    assert!(slots.settled().now_or_never().is_some());
    drop(newcomers);
    assert_eq!(slots.counters.snapshot().open, 0);
}

#[derive(Clone, Debug)]
enum Step {
    Enter(u8),
    Stand(usize, u8),
    Close(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0u8..6).prop_map(Step::Enter),
        2 => (any::<usize>(), 0u8..2).prop_map(|(at, state)| Step::Stand(at, state)),
        1 => any::<usize>().prop_map(Step::Close),
    ]
}

proptest! {
    /// After any steps, the bounds hold, and a source without a connection is refused only if every connection is busy.
    #[test]
    fn bounds_hold(steps in prop::collection::vec(step(), 1..200), displace_busy: bool) {
        let bounds = Bounds { connections: 8, per_source: 4, reserved: 2, displace_busy };
        let slots = Slots::new(bounds, Arc::default());
        let mut held: Vec<(u8, ConnectionSlot)> = Vec::new();
        for step in steps {
            match step {
                Step::Enter(host) => {
                    let own = held.iter().filter(|(of, _)| *of == host).count();
                    let idle = slots.lock().open.values().any(|open| open.state != SlotState::Busy);
                    match slots.enter(source(host)) {
                        Ok(slot) => held.push((host, slot)),
                        Err(_) => prop_assert!(own > 0 || !idle),
                    }
                    held.retain(|(_, slot)| !is_displaced(slot));
                }
                Step::Stand(at, state) if !held.is_empty() => {
                    let state = [SlotState::Quiet, SlotState::Busy][usize::from(state)];
                    held[at % held.len()].1.set_state(state);
                }
                Step::Close(at) if !held.is_empty() => {
                    held.swap_remove(at % held.len());
                }
                Step::Stand(..) | Step::Close(_) => {}
            }
            prop_assert!(held.len() <= bounds.connections);
            for host in 0..6 {
                prop_assert!(held.iter().filter(|(of, _)| *of == host).count() <= bounds.per_source);
            }
            let table = slots.lock();
            prop_assert_eq!((table.open.len(), table.leaving), (held.len(), 0));
            prop_assert_eq!(table.ranks.len(), table.sources.len());
        }
        drop(held);
        let table = slots.lock();
        prop_assert!(table.open.is_empty() && table.sources.is_empty() && table.ranks.is_empty());
    }
}
