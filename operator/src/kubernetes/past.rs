//! The past of objects of other projects' kinds: the last good specs in the cache, as the content of a store.

use std::collections::{BTreeMap, BTreeSet};

use heddle_crds::LastGood;
use heddle_policy_compiler::ObjectRef;
use tokio::sync::watch;

use super::cache::Cache;
use super::sharded::{Content, Unsaved};

impl Cache {
    /// Keeps the last good spec of an object.
    pub(super) fn keep_last_good(&self, object: &ObjectRef, uid: &str, good: Option<&LastGood>) {
        if self.last_goods.keep(object, uid, good) {
            self.remember_again(BTreeSet::from([object.clone()]));
        }
    }

    /// Forgets the past of objects that are gone.
    pub(super) fn forget_gone(&self) {
        if !self.is_complete() {
            return;
        }
        let gone = |(object, uid): (ObjectRef, String)| {
            (self.uid(&object).as_deref() != Some(&*uid)).then_some(uid)
        };
        let all = self.last_goods.objects().into_iter();
        self.last_goods.forget(all.filter_map(gone).collect());
    }
}

impl Content for Cache {
    const LABEL: &str = "heddle.dev/lastgood";
    const PREFIX: &str = "heddle-lastgood";
    const NAME: &str = "last good specs";
    type Owner = String;

    fn changes(&self) -> watch::Receiver<u64> {
        self.last_goods.changes()
    }

    fn take(&self, map: &str, data: &BTreeMap<String, String>) {
        let changed = self.last_goods.take::<Self>(map, data);
        self.remember_again(changed);
    }

    fn complete(&self) {
        self.last_goods.set_read();
        self.tick();
    }

    fn unsaved(&self) -> Vec<Unsaved<String>> {
        self.last_goods.unsaved()
    }

    fn not_saved(&self, owners: Vec<String>) {
        self.last_goods.not_saved(owners);
    }

    fn make_room(&self, map: &str) -> usize {
        self.last_goods.give_up::<Self>(map)
    }
}
