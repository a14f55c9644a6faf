use super::*;

fn workload() -> WorkloadRef {
    WorkloadRef::new("shop", "cart")
}

fn to(name: &str) -> Destination {
    format!("service/shop/{name}:80").parse().unwrap()
}

fn active(scopes: &Scopes) -> Vec<String> {
    scopes
        .of(&workload())
        .active
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn learned_destinations_stay_until_unused_for_long() {
    let scopes = Scopes::default();
    assert_eq!(
        scopes.learn(&workload(), &to("db"), None, 100),
        LearnResult::Now
    );
    assert_eq!(
        scopes.learn(&workload(), &to("db"), None, 110),
        LearnResult::Before
    );
    assert_eq!(active(&scopes), ["service/shop/db:80"]);
    assert!(scopes.sweep(150, 60, |_, _, _| true).is_empty());
    assert!(
        scopes.sweep(170, 60, |_, _, _| false).is_empty(),
        "something speaks against it"
    );
    assert_eq!(scopes.sweep(170, 60, |_, _, _| true), [workload()]);
    assert!(active(&scopes).is_empty());
    assert_eq!(
        scopes.of(&workload()).draining.len(),
        1,
        "connections may still drain"
    );
    assert_eq!(
        scopes.sweep(170 + DRAIN_SECONDS, 60, |_, _, _| true),
        [workload()]
    );
    assert_eq!(*scopes.of(&workload()), Sets::default());
}

#[test]
fn a_draining_destination_is_active_again_on_request() {
    let scopes = Scopes::default();
    scopes.learn(&workload(), &to("db"), None, 0);
    scopes.sweep(60, 60, |_, _, _| true);
    assert_eq!(
        scopes.learn(&workload(), &to("db"), None, 61),
        LearnResult::Now
    );
    assert_eq!(active(&scopes).len(), 1);
}

#[test]
fn traffic_keeps_a_destination() {
    let scopes = Scopes::default();
    scopes.learn(&workload(), &to("db"), None, 0);
    scopes.learn(&workload(), &to("mail"), None, 0);
    scopes.used(&workload(), &BTreeSet::from([to("db")]), 50, 10);
    scopes.sweep(70, 60, |_, _, _| true);
    assert_eq!(active(&scopes), ["service/shop/db:80"]);
}

#[test]
fn the_oldest_makes_room_unless_it_is_in_use() {
    const UNUSED: u64 = 600;
    let scopes = Scopes::default();
    let learn = |number: usize, unused, now| {
        scopes.learn(&workload(), &to(&format!("s{number}")), unused, now)
    };
    for number in 0..MAX_ACTIVE {
        assert_eq!(learn(number, None, 1000), LearnResult::Now);
    }
    let found_full = 5000;
    assert_eq!(learn(MAX_ACTIVE, None, found_full), LearnResult::NoRoom);
    assert_eq!(
        learn(MAX_ACTIVE, Some(UNUSED), found_full),
        LearnResult::NoRoom
    );
    // All but two are used since, or were reported on reconnect.
    let mut used = scopes.of(&workload()).active.clone();
    assert!(["s0", "s1", "s2"].iter().all(|name| used.remove(&to(name))));
    scopes.used(&workload(), &used, found_full + 1, u64::MAX);
    scopes.reported_on_reconnect(&workload(), &[to("s2")].into(), found_full + 1);
    let then = found_full + UNUSED;
    assert_eq!(
        learn(MAX_ACTIVE, Some(UNUSED), then - 1),
        LearnResult::NoRoom
    );
    for number in [MAX_ACTIVE, MAX_ACTIVE + 1] {
        assert_eq!(learn(number, None, then), LearnResult::NoRoom, "it may not");
        assert_eq!(learn(number, Some(UNUSED), then), LearnResult::Now);
    }
    assert_eq!(
        learn(MAX_ACTIVE + 2, Some(UNUSED), then),
        LearnResult::NoRoom
    );
    let sets = scopes.of(&workload());
    assert_eq!((sets.active.len(), sets.draining.len()), (MAX_ACTIVE, 2));
    assert!(sets.draining.contains(&to("s0")) && sets.draining.contains(&to("s1")));
    // A drained destination comes back like any other.
    assert_eq!(learn(0, Some(UNUSED), then), LearnResult::NoRoom);
    assert_eq!(learn(0, Some(UNUSED), then + 1), LearnResult::Now);
    assert_eq!(scopes.of(&workload()).active.len(), MAX_ACTIVE);
}

#[test]
fn a_scope_survives_the_store() {
    let scopes = Scopes::default();
    scopes.learn(&workload(), &to("db"), None, 7);
    let unsaved = scopes.unsaved();
    let text = write(&workload(), unsaved.get(&workload()).unwrap());
    assert!(scopes.unsaved().is_empty(), "it is saved once");
    let other = Scopes::default();
    let (name, stored) = read(&key(&workload()), &text).unwrap();
    assert!(other.remember(&name, &stored, false));
    assert!(!other.remember(&name, &stored, true));
    assert_eq!(other.of(&workload()), scopes.of(&workload()));
    assert!(
        other.unsaved().is_empty(),
        "a scope from the store is not written back"
    );
    assert!(
        !other.remember(&name, &BTreeMap::new(), false),
        "another replica may know less"
    );
    assert!(
        other.remember(&name, &BTreeMap::new(), true),
        "used neither here nor elsewhere"
    );
    assert_eq!(*other.of(&workload()), Sets::default());
    let (_, nothing) = read("shop.cart", "nonsense\nservice/shop/db:80 x\n").unwrap();
    assert!(nothing.is_empty());
}

#[test]
fn deleted_destinations_are_forgotten_and_become_unsaved() {
    let scopes = Scopes::default();
    scopes.learn(&workload(), &to("db"), None, 7);
    scopes.unsaved();
    assert_eq!(
        scopes.retain(|destination| *destination != to("db")),
        [workload()]
    );
    assert_eq!(
        scopes.unsaved(),
        BTreeMap::from([(workload(), BTreeMap::new())])
    );
}
