use super::*;

fn workload() -> WorkloadRef {
    WorkloadRef::new("shop", "cart")
}

fn to(name: &str) -> Destination {
    format!("service/shop/{name}:80").parse().unwrap()
}

fn held(scopes: &Scopes) -> Vec<String> {
    scopes
        .of(&workload())
        .held
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn what_is_learned_stays_until_it_is_unused_for_long() {
    let scopes = Scopes::default();
    assert_eq!(scopes.learn(&workload(), &to("db"), 100), Learned::Now);
    assert_eq!(scopes.learn(&workload(), &to("db"), 110), Learned::Before);
    assert_eq!(held(&scopes), ["service/shop/db:80"]);
    assert!(scopes.sweep(150, 60, |_, _, _| true).is_empty());
    assert!(
        scopes.sweep(170, 60, |_, _, _| false).is_empty(),
        "something speaks against it"
    );
    assert_eq!(scopes.sweep(170, 60, |_, _, _| true), [workload()]);
    assert!(held(&scopes).is_empty());
    assert_eq!(
        scopes.of(&workload()).retiring.len(),
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
fn what_is_asked_for_while_it_leaves_is_held_again() {
    let scopes = Scopes::default();
    scopes.learn(&workload(), &to("db"), 0);
    scopes.sweep(60, 60, |_, _, _| true);
    assert_eq!(scopes.learn(&workload(), &to("db"), 61), Learned::Now);
    assert_eq!(held(&scopes).len(), 1);
}

#[test]
fn traffic_keeps_a_destination() {
    let scopes = Scopes::default();
    scopes.learn(&workload(), &to("db"), 0);
    scopes.learn(&workload(), &to("mail"), 0);
    scopes.used(&workload(), &BTreeSet::from([to("db")]), 50, 10);
    scopes.sweep(70, 60, |_, _, _| true);
    assert_eq!(held(&scopes), ["service/shop/db:80"]);
}

#[test]
fn the_oldest_makes_room_unless_it_is_in_use() {
    let scopes = Scopes::default();
    let learn = |number: usize, now| scopes.learn(&workload(), &to(&format!("s{number}")), now);
    for number in 0..MAX_HELD {
        let learned = learn(number, 1000 + u64::from(number > 0));
        assert_eq!(learned, Learned::Now);
    }
    let then = 1000 + KEPT_SECONDS;
    assert_eq!(learn(MAX_HELD, then - 1), Learned::NoRoom);
    assert_eq!(learn(MAX_HELD, then), Learned::Now);
    // The next one is a second younger.
    assert_eq!(learn(MAX_HELD + 1, then), Learned::NoRoom);
    let sets = scopes.of(&workload());
    assert_eq!(sets.held.len(), MAX_HELD);
    assert!(!sets.held.contains(&to("s0")) && sets.held.contains(&to("s1")));
}

#[test]
fn a_scope_survives_the_store() {
    let scopes = Scopes::default();
    scopes.learn(&workload(), &to("db"), 7);
    let unsaved = scopes.unsaved();
    let text = write(unsaved.get(&workload()).unwrap());
    assert!(scopes.unsaved().is_empty(), "it is saved once");
    let other = Scopes::default();
    let name = parse(&key(&workload())).unwrap();
    assert!(other.remember(&name, &read(&text), false));
    assert!(!other.remember(&name, &read(&text), true));
    assert_eq!(other.of(&workload()), scopes.of(&workload()));
    assert!(
        other.unsaved().is_empty(),
        "what came from the store need not go there"
    );
    assert!(
        !other.remember(&name, &BTreeMap::new(), false),
        "another replica may know less"
    );
    assert!(
        other.remember(&name, &BTreeMap::new(), true),
        "nobody here uses it, and nobody elsewhere"
    );
    assert_eq!(*other.of(&workload()), Sets::default());
    assert!(read("nonsense\nservice/shop/db:80 x\n").is_empty());
}

#[test]
fn what_does_not_exist_any_more_is_forgotten_and_the_store_told() {
    let scopes = Scopes::default();
    scopes.learn(&workload(), &to("db"), 7);
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
