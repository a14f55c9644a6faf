//! Tests of the store of last good specs.

use serde_json::{Value, json};

use super::*;

/// The names of some maps.
struct Maps;

impl Content for Maps {
    const LABEL: &str = "";
    const PREFIX: &str = "map";
    const NAME: &str = "";
    type Owner = ();
    const HALVED: bool = false;

    fn changes(&self) -> watch::Receiver<u64> {
        watch::channel(0).1
    }

    fn take(&self, _: &str, _: &BTreeMap<String, String>) {}

    fn unsaved(&self) -> Vec<Unsaved<()>> {
        Vec::new()
    }

    fn not_saved(&self, _: Vec<()>) {}

    fn make_room(&self, _: &str, _: &[()]) -> usize {
        0
    }
}

fn route() -> ObjectRef {
    ObjectRef::new(ObjectKind::TrafficSplit, "shop", "reviews")
}

fn good(generation: i64) -> LastGood {
    LastGood {
        generation,
        spec: json!({"of": generation}),
        selected: None,
    }
}

/// The data of the map of one uid, from the unsaved texts.
fn stored(goods: &LastGoods) -> BTreeMap<String, String> {
    let unsaved = goods.unsaved().into_iter();
    unsaved.filter_map(|u| Some((u.key, u.text?))).collect()
}

fn take(goods: &LastGoods, uid: &str, data: &BTreeMap<String, String>) -> usize {
    goods.take::<Maps>(&map_of::<Maps>(uid), data).len()
}

#[test]
fn another_replica_reads_the_last_good_spec_and_another_uid_has_none() {
    let (writer, reader) = (LastGoods::default(), LastGoods::default());
    assert!(writer.keep(&route(), "uid-1", Some(&good(3))));
    assert!(!writer.keep(&route(), "uid-1", Some(&good(3))));
    let data = stored(&writer);
    assert_eq!(take(&reader, "uid-1", &data), 1);
    assert_eq!(take(&reader, "uid-1", &data), 0, "nothing new");
    assert_eq!(reader.of("uid-1"), Some(good(3)));
    assert_eq!(reader.of("uid-2"), None);
    assert!(stored(&reader).is_empty(), "a read text is saved");
}

#[test]
fn a_removed_text_is_forgotten_and_an_own_newer_one_stays() {
    let goods = LastGoods::default();
    goods.keep(&route(), "uid-1", Some(&good(3)));
    let data = stored(&goods);
    goods.keep(&route(), "uid-1", Some(&good(4)));
    assert_eq!(take(&goods, "uid-1", &data), 0, "an older text");
    assert_eq!(goods.of("uid-1"), Some(good(4)));
    let newer = stored(&goods);
    assert_eq!(take(&goods, "uid-1", &data), 0, "the write is on its way");
    assert_eq!(take(&goods, "uid-1", &BTreeMap::new()), 0);
    assert_eq!(take(&goods, "uid-1", &newer), 0);
    assert_eq!(goods.of("uid-1"), Some(good(4)));
    assert_eq!(take(&goods, "uid-1", &BTreeMap::new()), 1);
    assert_eq!(goods.of("uid-1"), None);
}

#[test]
fn a_replica_that_led_before_brings_no_older_spec_back() {
    let goods = LastGoods::default();
    goods.keep(&route(), "uid-1", Some(&good(3)));
    let older = stored(&goods);
    goods.keep(&route(), "uid-1", Some(&good(4)));
    let newer = stored(&goods);
    assert_eq!(take(&goods, "uid-1", &newer), 0);
    goods.set_leads(true);
    let mut changes = goods.changes();
    assert_eq!(take(&goods, "uid-1", &older), 0, "a late write");
    assert_eq!(goods.of("uid-1"), Some(good(4)));
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    assert_eq!(stored(&goods), newer, "it is written again");
    assert_eq!(take(&goods, "uid-1", &newer), 0);
    assert_eq!(goods.kept("uid-1"), Kept::Stored);
    // A replica that does not lead takes all that the leader writes.
    goods.set_leads(false);
    assert_eq!(take(&goods, "uid-1", &older), 1);
    assert_eq!(goods.of("uid-1"), Some(good(3)));
}

#[test]
fn a_failed_write_is_told_once() {
    let goods = LastGoods::default();
    let mut failures = goods.failures();
    goods.keep(&route(), "uid-1", Some(&good(3)));
    for told in [true, false] {
        goods.not_saved(vec!["uid-1".to_owned()]);
        assert_eq!(failures.has_changed().unwrap(), told);
        failures.mark_unchanged();
    }
}

#[test]
fn texts_of_a_newer_version_are_ignored_or_read_as_far_as_they_are_known() {
    let goods = LastGoods::default();
    let text = |kind: &str| {
        let good = json!({"generation": 3, "json": "{\"new\":1}", "later": true});
        let text = json!({"kind": kind, "namespace": "shop", "name": "reviews", "lastGood": good, "later": 1});
        BTreeMap::from([("uid-1".to_owned(), text.to_string())])
    };
    assert_eq!(take(&goods, "uid-1", &text("LaterKind")), 0);
    assert_eq!(goods.of("uid-1"), None);
    assert_eq!(take(&goods, "uid-1", &text("TrafficSplit")), 1);
    assert_eq!(
        goods.of("uid-1").map(|good| good.spec),
        Some(json!({"new": 1}))
    );
    for broken in ["", "{}", "[]", "\u{0}", "{\"kind\":\"TrafficSplit\"}"] {
        let data = BTreeMap::from([("uid-2".to_owned(), broken.to_owned())]);
        assert_eq!(take(&goods, "uid-2", &data), 0, "{broken}");
    }
    assert!(stored(&goods).is_empty(), "texts of others are left alone");
}

#[test]
fn the_newer_spec_of_store_and_status_counts() {
    let goods = LastGoods::default();
    let generation = |last_good: Value| {
        let object = json!({
            "apiVersion": "heddle.dev/v1alpha1", "kind": "TrafficSplit", "spec": {},
            "metadata": {"name": "reviews", "namespace": "shop", "uid": "uid-1", "generation": 5},
            "status": {"lastGood": last_good},
        });
        let object = ingest::parse_json("a test", object).0.pop().unwrap();
        let KubeObject::Declared(object) = goods.attach(object) else {
            panic!("a declared object");
        };
        let good = object.remembered.last_good.as_ref();
        good.map(|good| good.generation)
    };
    let with_spec = |generation: i64| json!({"generation": generation, "json": "{}"});
    assert_eq!(generation(json!({"generation": 3})), None);
    assert_eq!(generation(with_spec(2)), Some(2));
    goods.keep(&route(), "uid-1", Some(&good(3)));
    assert_eq!(generation(json!({"generation": 3})), Some(3));
    assert_eq!(generation(with_spec(2)), Some(3));
    assert_eq!(generation(with_spec(4)), Some(4));
}

#[test]
fn a_deleted_map_is_written_again() {
    let goods = LastGoods::default();
    goods.keep(&route(), "uid-1", Some(&good(3)));
    let data = stored(&goods);
    take(&goods, "uid-1", &data);
    assert_eq!(goods.kept("uid-1"), Kept::Stored);
    goods.lost::<Maps>("another");
    assert!(stored(&goods).is_empty());
    goods.lost::<Maps>(&map_of::<Maps>("uid-1"));
    assert_eq!(goods.kept("uid-1"), Kept::Unsaved);
    assert_eq!(stored(&goods), data);
}

#[test]
fn a_text_that_cannot_be_written_is_marked_until_it_is_stored() {
    let goods = LastGoods::default();
    goods.keep(&route(), "uid-1", Some(&good(3)));
    goods.not_saved(vec!["uid-1".to_owned()]);
    goods.keep(&route(), "uid-1", Some(&good(4)));
    assert_eq!(goods.kept("uid-1"), Kept::Failed);
    let data = stored(&goods);
    take(&goods, "uid-1", &data);
    assert_eq!(goods.kept("uid-1"), Kept::Stored);
}

#[test]
fn the_text_of_a_forgotten_object_is_removed() {
    let goods = LastGoods::default();
    goods.keep(&route(), "uid-1", Some(&good(3)));
    goods.keep(&route(), "uid-2", Some(&good(5)));
    assert_eq!(stored(&goods).len(), 2);
    assert_eq!(goods.objects().len(), 2);
    goods.forget(vec!["uid-1".to_owned()]);
    let removed: Vec<(String, bool)> = goods
        .unsaved()
        .into_iter()
        .map(|unsaved| (unsaved.key, unsaved.text.is_some()))
        .collect();
    assert_eq!(removed, [("uid-1".to_owned(), false)]);
}

#[test]
fn a_full_map_keeps_the_spec_in_memory_and_gives_up_on_the_store() {
    let goods = LastGoods::default();
    goods.keep(&route(), "uid-1", Some(&good(3)));
    let unsaved = goods.unsaved();
    goods.not_saved(unsaved.into_iter().map(|u| u.owner).collect());
    assert_eq!(goods.give_up(&["uid-1".to_owned()]), 1);
    assert!(stored(&goods).is_empty());
    assert_eq!(take(&goods, "uid-1", &BTreeMap::new()), 0);
    assert_eq!(goods.of("uid-1"), Some(good(3)));
}
