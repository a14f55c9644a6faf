//! The last good specs: the content of a store, by the uid of the object, so that a new object of the same name inherits nothing.
//!
//! The status of an object of our kinds has the spec, too, while it matters or the store does not have it. Of both the newer one counts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use heddle_crds::LastGood;
use heddle_policy_compiler::{KubeObject, ObjectKind, ObjectRef, ingest};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::sharded::{Content, Unsaved, map_of};

/// The last good spec of one object.
#[derive(Clone, Debug, PartialEq)]
struct Entry {
    object: ObjectRef,
    last_good: LastGood,
    /// Whether it was read from the store.
    stored: bool,
}

impl Entry {
    const fn generation(&self) -> i64 {
        self.last_good.generation
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Text {
    kind: String,
    namespace: String,
    name: String,
    last_good: LastGood,
}

/// The place of a last good spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// The store has it.
    Stored,
    /// The store does not have it yet.
    Unsaved,
    /// The store could not be written.
    Failed,
}

#[derive(Debug, Default)]
struct Inner {
    by_uid: BTreeMap<String, Entry>,
    unsaved: BTreeSet<String>,
    /// The objects of texts that could not be written, until the store has one.
    failed: BTreeSet<String>,
    read: bool,
}

/// The last good specs, by the uids of their objects.
#[derive(Debug)]
pub(super) struct LastGoods {
    inner: Mutex<Inner>,
    changed: watch::Sender<u64>,
}

impl Default for LastGoods {
    fn default() -> Self {
        Self {
            inner: Mutex::default(),
            changed: watch::Sender::new(0),
        }
    }
}

impl LastGoods {
    /// Returns an object with its past, as the status and the store have it.
    pub(super) fn attach(&self, object: KubeObject) -> KubeObject {
        let KubeObject::Declared(object) = object else {
            return object;
        };
        let mut remembered = ingest::remembered(object.object.kind, &object.status);
        let stored = object.uid.as_deref().and_then(|uid| self.of(uid));
        remembered.last_good = newer(remembered.last_good, stored);
        if object.remembered == remembered {
            return KubeObject::Declared(object);
        }
        let mut object = Arc::unwrap_or_clone(object);
        object.remembered = remembered;
        KubeObject::Declared(Arc::new(object))
    }

    /// The last good spec of an object.
    fn of(&self, uid: &str) -> Option<LastGood> {
        let inner = self.lock();
        inner.by_uid.get(uid).map(|entry| entry.last_good.clone())
    }

    /// Keeps the last good spec of an object, or that it has none. Returns whether that is new.
    pub(super) fn keep(&self, object: &ObjectRef, uid: &str, last_good: Option<&LastGood>) -> bool {
        let mut inner = self.lock();
        let known = inner.by_uid.get(uid).map(|entry| &entry.last_good);
        if known == last_good {
            return false;
        }
        match last_good {
            Some(last_good) => {
                let entry = Entry {
                    object: object.clone(),
                    last_good: last_good.clone(),
                    stored: false,
                };
                inner.by_uid.insert(uid.to_owned(), entry);
            }
            None => {
                inner.by_uid.remove(uid);
                inner.failed.remove(uid);
            }
        }
        inner.unsaved.insert(uid.to_owned());
        drop(inner);
        self.tick();
        true
    }

    /// The place of the last good spec of an object.
    pub(super) fn kept(&self, uid: &str) -> Kept {
        let inner = self.lock();
        match inner.by_uid.get(uid) {
            Some(entry) if entry.stored => Kept::Stored,
            Some(_) | None if inner.failed.contains(uid) => Kept::Failed,
            Some(_) | None => Kept::Unsaved,
        }
    }

    /// The objects with a last good spec, and their uids.
    pub(super) fn objects(&self) -> Vec<(ObjectRef, String)> {
        let inner = self.lock();
        let all = inner.by_uid.iter();
        all.map(|(uid, entry)| (entry.object.clone(), uid.clone()))
            .collect()
    }

    /// Forgets objects.
    pub(super) fn forget(&self, uids: Vec<String>) {
        if uids.is_empty() {
            return;
        }
        let mut inner = self.lock();
        for uid in uids {
            inner.by_uid.remove(&uid);
            inner.failed.remove(&uid);
            inner.unsaved.insert(uid);
        }
        drop(inner);
        self.tick();
    }

    /// Takes a stored map. Returns the objects with another last good spec than before.
    pub(super) fn take<C: Content>(
        &self,
        map: &str,
        data: &BTreeMap<String, String>,
    ) -> BTreeSet<ObjectRef> {
        let mut changed = BTreeSet::new();
        let mut guard = self.lock();
        let inner = &mut *guard;
        inner.by_uid.retain(|uid, entry| {
            let gone = entry.stored && map_of::<C>(uid) == map && !data.contains_key(uid);
            let gone = gone && !inner.unsaved.contains(uid);
            if gone {
                changed.insert(entry.object.clone());
            }
            !gone
        });
        for (uid, text) in data {
            // The own change is newer, and follows.
            if inner.unsaved.contains(uid) {
                continue;
            }
            let Some(entry) = read(text) else {
                tracing::warn!(
                    map,
                    uid,
                    "a stored last good spec cannot be read; it is ignored"
                );
                continue;
            };
            let known = inner.by_uid.get(uid);
            // The text was written before the own change, which the watch has not returned yet.
            if known.is_some_and(|known| !known.stored && known.generation() > entry.generation()) {
                continue;
            }
            if known.map(|known| &known.last_good) != Some(&entry.last_good) {
                changed.insert(entry.object.clone());
            }
            inner.by_uid.insert(uid.clone(), entry);
            inner.failed.remove(uid);
        }
        changed
    }

    /// A map is gone: its texts are written again.
    pub(super) fn lost<C: Content>(&self, map: &str) {
        let mut guard = self.lock();
        let inner = &mut *guard;
        let of_map = |(uid, entry): &(&String, &mut Entry)| entry.stored && map_of::<C>(uid) == map;
        for (uid, entry) in inner.by_uid.iter_mut().filter(of_map) {
            entry.stored = false;
            inner.unsaved.insert(uid.clone());
        }
        let unsaved = !inner.unsaved.is_empty();
        drop(guard);
        if unsaved {
            self.tick();
        }
    }

    /// All that is stored has been read once.
    pub(super) fn set_read(&self) {
        self.lock().read = true;
    }

    /// Whether all that is stored has been read once.
    pub(super) fn is_read(&self) -> bool {
        self.lock().read
    }

    /// Ticks when there is something unsaved.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Returns the changed texts by uid.
    pub(super) fn unsaved(&self) -> Vec<Unsaved<String>> {
        let mut inner = self.lock();
        let uids = std::mem::take(&mut inner.unsaved);
        let texts = uids.into_iter().map(|uid| {
            let entry = inner.by_uid.get(&uid);
            Unsaved {
                text: entry.map(write),
                owner: uid.clone(),
                key: uid,
            }
        });
        texts.collect()
    }

    /// Marks texts that could not be saved.
    pub(super) fn not_saved(&self, uids: Vec<String>) {
        let mut inner = self.lock();
        inner.failed.extend(uids.iter().cloned());
        inner.unsaved.extend(uids);
    }

    /// A map is full: its unsaved texts are not tried again before they change. Returns how many those are. This replica keeps the specs
    /// until it ends, and the statuses of our kinds have them.
    pub(super) fn give_up<C: Content>(&self, map: &str) -> usize {
        let mut inner = self.lock();
        let before = inner.unsaved.len();
        let Inner {
            by_uid, unsaved, ..
        } = &mut *inner;
        unsaved.retain(|uid| map_of::<C>(uid) != map || !by_uid.contains_key(uid));
        before - inner.unsaved.len()
    }

    fn tick(&self) {
        self.changed.send_modify(|tick| *tick += 1);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic elsewhere leaves the maps whole: every change is a plain insert or remove.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Of the last good specs in the status and in the store, the newer one. The status has one of its own only if the store did not have it.
fn newer(status: Option<LastGood>, stored: Option<LastGood>) -> Option<LastGood> {
    match (status, stored) {
        (Some(status), Some(stored)) if stored.generation > status.generation => Some(stored),
        (Some(status), _) => Some(status),
        (None, stored) => stored,
    }
}

fn write(entry: &Entry) -> String {
    let text = Text {
        kind: entry.object.kind.as_str().to_owned(),
        namespace: entry.object.namespace.to_string(),
        name: entry.object.name.to_string(),
        last_good: entry.last_good.clone(),
    };
    serde_json::to_string(&text).unwrap_or_default()
}

/// Reads a text; `None` also for a kind that this version does not know.
fn read(text: &str) -> Option<Entry> {
    let text: Text = serde_json::from_str(text).ok()?;
    let kind = ObjectKind::by_name(&text.kind)?;
    Some(Entry {
        object: ObjectRef::new(kind, &text.namespace, &text.name),
        last_good: text.last_good,
        stored: true,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// The names of some maps.
    struct Maps;

    impl Content for Maps {
        const LABEL: &str = "";
        const PREFIX: &str = "map";
        const NAME: &str = "";
        type Owner = ();

        fn changes(&self) -> watch::Receiver<u64> {
            watch::channel(0).1
        }

        fn take(&self, _: &str, _: &BTreeMap<String, String>) {}

        fn unsaved(&self) -> Vec<Unsaved<()>> {
            Vec::new()
        }

        fn not_saved(&self, _: Vec<()>) {}

        fn make_room(&self, _: &str) -> usize {
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
        assert_eq!(goods.give_up::<Maps>(&map_of::<Maps>("uid-1")), 1);
        assert!(stored(&goods).is_empty());
        assert_eq!(take(&goods, "uid-1", &BTreeMap::new()), 0);
        assert_eq!(goods.of("uid-1"), Some(good(3)));
    }
}
