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
    /// Whether this replica writes the statuses, and with them the last good specs.
    leads: bool,
}

/// The last good specs, by the uids of their objects.
#[derive(Debug)]
pub(super) struct LastGoods {
    inner: Mutex<Inner>,
    changed: watch::Sender<u64>,
    failures: watch::Sender<u64>,
}

impl Default for LastGoods {
    fn default() -> Self {
        Self {
            inner: Mutex::default(),
            changed: watch::Sender::new(0),
            failures: watch::Sender::new(0),
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
        let (mut changed, mut late) = (BTreeSet::new(), false);
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
            let known = inner.by_uid.get_mut(uid);
            if let Some(known) = known
                && known.generation() > entry.generation()
                && (!known.stored || inner.leads)
            {
                // The text was written before the own change, which the watch has not returned yet; or late, by a replica that does not
                // lead any more: an older spec must not come back into force.
                if std::mem::take(&mut known.stored) {
                    inner.unsaved.insert(uid.clone());
                    late = true;
                }
                continue;
            }
            let known = inner.by_uid.get(uid);
            if known.map(|known| &known.last_good) != Some(&entry.last_good) {
                changed.insert(entry.object.clone());
            }
            inner.by_uid.insert(uid.clone(), entry);
            inner.failed.remove(uid);
        }
        drop(guard);
        if late {
            self.tick();
        }
        changed
    }

    /// Notes whether this replica writes the statuses.
    pub(super) fn set_leads(&self, leads: bool) {
        self.lock().leads = leads;
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

    /// Ticks when further texts could not be written, so that the statuses must have them.
    pub(super) fn failures(&self) -> watch::Receiver<u64> {
        self.failures.subscribe()
    }

    /// Marks texts that could not be saved.
    pub(super) fn not_saved(&self, uids: Vec<String>) {
        let mut inner = self.lock();
        let before = inner.failed.len();
        // Objects that are gone by now need no status.
        let present = uids.iter().filter(|uid| inner.by_uid.contains_key(*uid));
        let present: Vec<String> = present.cloned().collect();
        inner.failed.extend(present);
        let further = inner.failed.len() > before;
        inner.unsaved.extend(uids);
        drop(inner);
        if further {
            self.failures.send_modify(|tick| *tick += 1);
        }
    }

    /// A map has no room for these texts: they are not tried again before they change. Returns how many those are. This replica keeps the
    /// specs until it ends, and the statuses of our kinds have them.
    pub(super) fn give_up(&self, uids: &[String]) -> usize {
        let mut inner = self.lock();
        let before = inner.unsaved.len();
        let Inner {
            by_uid, unsaved, ..
        } = &mut *inner;
        for uid in uids.iter().filter(|uid| by_uid.contains_key(*uid)) {
            unsaved.remove(uid);
        }
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
#[path = "last_good_tests.rs"]
mod tests;
