//! The objects that are set aside: the generation of each that Envoy rejects, a proxy's and the control plane's own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use heddle_policy_compiler::{ObjectRef, ObjectRejection};
use tokio::sync::watch;

/// The rejections seen by this process. A rejection stands until the object's generation changes or the object is gone.
#[derive(Debug)]
pub struct RejectionStore {
    by_object: Mutex<BTreeMap<ObjectRef, ObjectRejection>>,
    changed: watch::Sender<u64>,
}

impl Default for RejectionStore {
    fn default() -> Self {
        Self {
            by_object: Mutex::default(),
            changed: watch::Sender::new(0),
        }
    }
}

impl RejectionStore {
    /// Keeps a rejection. The first text for a generation stays, so that a status does not flap between two wordings.
    /// Returns whether it is new.
    pub fn reject(&self, rejection: ObjectRejection) -> bool {
        let mut rejections = self.lock();
        if rejections
            .get(&rejection.object)
            .is_some_and(|known| known.generation >= rejection.generation)
        {
            return false;
        }
        rejections.insert(rejection.object.clone(), rejection);
        drop(rejections);
        self.changed.send_modify(|tick| *tick += 1);
        true
    }

    /// Drops rejections of objects that are gone or have a newer generation. Does not tick: the caller has just compiled
    /// without them, because the compiler ignores a rejection of another generation, too.
    pub fn retain(&self, present: impl Fn(&ObjectRef) -> Option<i64>) {
        self.lock().retain(|object, rejection| {
            present(object).is_some_and(|generation| generation <= rejection.generation)
        });
    }

    /// All rejections.
    #[must_use]
    pub fn all(&self) -> Vec<ObjectRejection> {
        self.lock().values().cloned().collect()
    }

    /// The rejected objects.
    #[must_use]
    pub fn objects(&self) -> BTreeSet<ObjectRef> {
        self.lock().keys().cloned().collect()
    }

    /// Ticks with every new rejection.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ObjectRef, ObjectRejection>> {
        // A panic elsewhere leaves the map whole: every change is a plain insert or remove.
        self.by_object
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use heddle_policy_compiler::ObjectKind;

    use super::*;

    fn rejection(generation: i64, text: &str) -> ObjectRejection {
        let object = ObjectRef::new(ObjectKind::AuthPolicy, "shop", "cart");
        ObjectRejection {
            object,
            generation,
            text: text.to_owned(),
        }
    }

    #[test]
    fn the_first_text_of_a_generation_stays_until_the_next() {
        let rejections = RejectionStore::default();
        assert!(rejections.reject(rejection(1, "first")));
        assert!(!rejections.reject(rejection(1, "second")));
        assert!(rejections.reject(rejection(2, "third")));
        assert!(!rejections.reject(rejection(1, "late")));
        assert_eq!(rejections.all(), [rejection(2, "third")]);
        let object = rejection(2, "").object;
        rejections.retain(|known| (*known == object).then_some(2));
        assert_eq!(rejections.all().len(), 1);
        rejections.retain(|known| (*known == object).then_some(3));
        assert!(rejections.all().is_empty());
    }
}
