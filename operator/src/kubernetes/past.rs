//! The past of objects: their statuses, and their last good specs in the cache, as the content of a store.

use std::collections::{BTreeMap, BTreeSet};

use heddle_policy_compiler::{ObjectRef, ObjectStatus};
use tokio::sync::watch;

use super::cache::Cache;
use super::last_good::Kept;
use super::sharded::{Content, Unsaved};
use crate::status::{WrittenStatus, needs_last_good, own_parents};

impl Cache {
    /// Keeps the last good spec of the status `after` in the store. The status of an object of our kinds has the spec itself while it matters,
    /// and where the store does not have it. Otherwise the status has its generation, so that `kubectl describe` shows no spec twice.
    pub(super) fn keep_last_good(
        &self,
        object: &ObjectRef,
        compiled: &ObjectStatus,
        before: &WrittenStatus,
        after: &mut WrittenStatus,
    ) {
        let good = after.last_good.as_ref();
        let Some(uid) = compiled.uid.as_deref() else {
            after.last_good_in_status = good.is_some();
            return;
        };
        if self.last_goods.keep(object, uid, good) {
            self.remember_again(BTreeSet::from([object.clone()]));
        }
        if object.kind.is_foreign() || good.is_none() {
            return;
        }
        after.last_good_in_status = needs_last_good(compiled)
            || match self.last_goods.kept(uid) {
                Kept::Stored => false,
                Kept::Unsaved => before.last_good_in_status,
                Kept::Failed => true,
            };
    }

    /// Ticks when the store could not be written: the statuses must have the last good specs then.
    pub(super) fn unkept(&self) -> watch::Receiver<u64> {
        self.last_goods.failures()
    }

    /// Notes whether this replica writes the statuses.
    pub(super) fn set_leads(&self, leads: bool) {
        self.last_goods.set_leads(leads);
    }

    /// The status of an object as the API server has it.
    pub(super) fn status(&self, object: &ObjectRef) -> Option<WrittenStatus> {
        let declared = self.declared(object)?;
        if object.kind.is_foreign() {
            return Some(WrittenStatus {
                parents: object
                    .kind
                    .status_entries()
                    .map(|of| own_parents(&declared.status, of))
                    .unwrap_or_default(),
                last_good: declared.remembered.last_good.clone(),
                ..WrittenStatus::default()
            });
        }
        let good = declared.status.get("lastGood");
        let in_status = good.is_some_and(|good| good.get("json").or(good.get("spec")).is_some());
        let mut status = declared.status.clone();
        if let Some(fields) = status.as_object_mut() {
            fields.remove("lastGood");
        }
        Some(WrittenStatus {
            last_good: declared.remembered.last_good.clone(),
            last_good_in_status: in_status,
            ..serde_json::from_value(status).unwrap_or_default()
        })
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
    const HALVED: bool = true;

    fn changes(&self) -> watch::Receiver<u64> {
        self.last_goods.changes()
    }

    fn take(&self, map: &str, data: &BTreeMap<String, String>) {
        let changed = self.last_goods.take::<Self>(map, data);
        self.remember_again(changed);
    }

    fn lost(&self, map: &str) {
        self.last_goods.lost::<Self>(map);
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

    fn make_room(&self, _: &str, owners: &[String]) -> usize {
        self.last_goods.give_up(owners)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use heddle_crds::{ConditionType, DesiredCondition, LastGood};
    use heddle_policy_compiler::ObjectKind;
    use kube::Client;
    use kube::client::Body;
    use serde_json::{Value, json};

    use super::super::sharded::{Blocked, Store, map_of, own_texts};
    use super::*;

    fn good(generation: i64) -> LastGood {
        LastGood {
            generation,
            spec: json!({"of": generation}),
            selected: None,
        }
    }

    /// The status of an object with generation 2, which is accepted, or not.
    fn compiled(accepted: bool) -> ObjectStatus {
        let condition = DesiredCondition {
            kind: ConditionType::Accepted,
            status: accepted.into(),
            reason: "Reason".to_owned(),
            message: "a message".to_owned(),
            generation: None,
        };
        ObjectStatus {
            uid: Some("uid-1".into()),
            observed_generation: 2,
            conditions: vec![condition],
            ..ObjectStatus::default()
        }
    }

    /// The status that follows one that has the spec, or not.
    fn status(cache: &Cache, accepted: bool, before: bool) -> WrittenStatus {
        let before = WrittenStatus {
            last_good_in_status: before,
            ..WrittenStatus::default()
        };
        let mut after = WrittenStatus {
            last_good: Some(good(if accepted { 2 } else { 1 })),
            ..WrittenStatus::default()
        };
        let object = ObjectRef::new(ObjectKind::TrafficSplit, "shop", "reviews");
        cache.keep_last_good(&object, &compiled(accepted), &before, &mut after);
        after
    }

    /// Stores the unsaved texts, and delivers them by the watch.
    fn store(cache: &Cache) {
        let texts = cache.unsaved().into_iter();
        let data = texts.filter_map(|u| Some((u.key, u.text?))).collect();
        cache.take(&map_of::<Cache>("uid-1"), &data);
    }

    #[test]
    fn the_status_has_the_last_good_spec_only_while_it_matters() {
        let cache = Cache::new(Arc::default());
        let first = status(&cache, true, false);
        assert_eq!(first.body(), json!({"lastGood": {"generation": 2}}));
        store(&cache);
        assert!(!status(&cache, true, false).last_good_in_status);
        let faulty = status(&cache, false, false);
        let in_force = json!({"lastGood": {"generation": 1, "json": "{\"of\":1}"}});
        assert_eq!(faulty.body(), in_force);
        store(&cache);
        assert!(status(&cache, false, true).last_good_in_status);
        // Mended: the status loses the spec once the store has it.
        assert!(status(&cache, true, true).last_good_in_status);
        store(&cache);
        assert!(!status(&cache, true, true).last_good_in_status);
    }

    /// An API server that takes no map with a text of more than 1,000 bytes, and the texts that it took.
    fn api_server(taken: Arc<Mutex<BTreeMap<String, String>>>) -> Client {
        let answer = move |request: http::Request<Body>| {
            let taken = Arc::clone(&taken);
            async move {
                let body = request.into_body().collect_bytes().await.unwrap();
                let patch: Value = serde_json::from_slice(&body).unwrap();
                let texts = patch["data"].as_object().unwrap().iter();
                let texts =
                    texts.map(|(key, text)| (key.clone(), text.as_str().unwrap().to_owned()));
                let texts: BTreeMap<String, String> = texts.collect();
                let refused = texts.values().any(|text| text.len() > 1000);
                let (code, answer) = if refused {
                    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 422, "message": "Too long"});
                    (422, status)
                } else {
                    taken.lock().unwrap().extend(texts);
                    (
                        200,
                        json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {}}),
                    )
                };
                let body = Body::from(answer.to_string().into_bytes());
                let response = http::Response::builder().status(code).body(body);
                Ok::<_, std::io::Error>(response.unwrap())
            }
        };
        Client::new(tower::service_fn(answer), "heddle-system")
    }

    #[test]
    fn a_copy_of_a_map_does_not_compete_with_it() {
        let map = |name: String| {
            let metadata = json!({"name": name, "labels": {"heddle.dev/lastgood": "true"}});
            let data = json!({"uid-1": "text"});
            serde_json::from_value(json!({"metadata": metadata, "data": data})).unwrap()
        };
        let own = map_of::<Cache>("uid-1");
        assert_eq!(own_texts::<Cache>(map(own.clone())).len(), 1);
        for other in [format!("{own}-backup"), "heddle-lastgood-99".to_owned()] {
            assert!(own_texts::<Cache>(map(other)).is_empty());
        }
    }

    #[tokio::test]
    async fn a_spec_without_room_takes_no_other_with_it() {
        let (cache, taken) = (Arc::new(Cache::new(Arc::default())), Arc::default());
        let map = map_of::<Cache>("uid-1");
        let uids = (1..2000).map(|n| format!("uid-{n}"));
        let uids: Vec<String> = uids.filter(|uid| map_of::<Cache>(uid) == map).collect();
        assert!(uids.len() > 20, "{}", uids.len());
        let large = &uids[7];
        for uid in &uids {
            let object = ObjectRef::new(ObjectKind::TrafficSplit, "shop", uid);
            let text = if uid == large {
                "x".repeat(1000)
            } else {
                String::new()
            };
            let good = LastGood {
                spec: json!(text),
                ..good(1)
            };
            cache.last_goods.keep(&object, uid, Some(&good));
        }
        let store = Store::new(
            api_server(Arc::clone(&taken)),
            Arc::clone(&cache),
            Arc::default(),
        );
        let unkept = cache.unkept();
        store.save(&mut Blocked::new()).await;
        let taken = taken.lock().unwrap().clone();
        assert_eq!(taken.len(), uids.len() - 1);
        assert!(!taken.contains_key(large));
        assert!(unkept.has_changed().unwrap(), "the status must have it now");
        cache.take(&map, &taken);
        for uid in &uids {
            let expected = if uid == large {
                Kept::Failed
            } else {
                Kept::Stored
            };
            assert_eq!(cache.last_goods.kept(uid), expected, "{uid}");
        }
        assert!(
            cache.unsaved().is_empty(),
            "it is not tried again before it changes"
        );
    }

    #[test]
    fn the_status_keeps_the_last_good_spec_where_the_store_cannot_be_written() {
        let cache = Cache::new(Arc::default());
        assert!(!status(&cache, true, false).last_good_in_status);
        let unsaved = cache.unsaved();
        cache.not_saved(unsaved.into_iter().map(|u| u.owner).collect());
        assert!(status(&cache, true, false).last_good_in_status);
        let owners = ["uid-1".to_owned()];
        assert_eq!(cache.make_room(&map_of::<Cache>("uid-1"), &owners), 1);
        assert!(cache.unsaved().is_empty(), "the map is full");
        assert!(status(&cache, true, true).last_good_in_status);
    }
}
