//! The learned scopes as the content of a store: a text for each workload. They outlive the replicas, and the last pod of a workload.
//!
//! Destinations that another replica writes are added to the scope here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use heddle_policy_compiler::{Destination, WorkloadRef};
use tokio::sync::watch;

use super::sharded::{Content, Unsaved, map_of};
use crate::scope::{self, Scopes, Seconds};
use crate::serving::MeshSource;

/// The scopes of all workloads. A workload of 20 destinations takes 1 kB.
pub(super) struct StoredScopes {
    pub(super) scopes: Arc<Scopes>,
    pub(super) mesh: Arc<MeshSource>,
}

impl StoredScopes {
    fn remember(&self, workload: &WorkloadRef, stored: &BTreeMap<Destination, Seconds>) {
        // The replica that serves the pods of a workload has the newest times of use.
        let last_word = !self.mesh.serves(workload);
        if self.scopes.remember(workload, stored, last_word) {
            self.mesh.relearned(workload);
        }
    }
}

impl Content for StoredScopes {
    const LABEL: &str = "heddle.dev/scope";
    const PREFIX: &str = "heddle-scope";
    const NAME: &str = "learned scopes";
    type Owner = WorkloadRef;
    // A full map makes room instead.
    const HALVED: bool = false;

    fn changes(&self) -> watch::Receiver<u64> {
        self.scopes.changes()
    }

    fn take(&self, map: &str, data: &BTreeMap<String, String>) {
        let known = self.scopes.workloads().into_iter();
        let mut gone: BTreeSet<WorkloadRef> =
            known.filter(|workload| shard(workload) == map).collect();
        for (key, text) in data {
            if let Some((workload, held)) = scope::read(key, text) {
                gone.remove(&workload);
                self.remember(&workload, &held);
            }
        }
        for workload in gone {
            self.remember(&workload, &BTreeMap::new());
        }
    }

    fn unsaved(&self) -> Vec<Unsaved<WorkloadRef>> {
        let unsaved = self.scopes.unsaved().into_iter();
        let text = |(workload, held): (WorkloadRef, BTreeMap<_, _>)| Unsaved {
            key: scope::key(&workload),
            text: (!held.is_empty()).then(|| scope::write(&workload, &held)),
            owner: workload,
        };
        unsaved.map(text).collect()
    }

    fn not_saved(&self, owners: Vec<WorkloadRef>) {
        self.scopes.not_saved(owners);
    }

    fn make_room(&self, map: &str, _: &[WorkloadRef]) -> usize {
        let present = self.mesh.present();
        let of_map = |workload: &WorkloadRef| shard(workload) == map;
        self.scopes.forget_some(&present, of_map)
    }
}

/// The ConfigMap that a workload's scope is in.
fn shard(workload: &WorkloadRef) -> String {
    map_of::<StoredScopes>(&scope::key(workload))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use kube::Client;
    use kube::client::Body;
    use serde_json::{Value, json};

    use super::super::NAMESPACE;
    use super::super::sharded::{Blocked, RETRY, SHARDS, Store};
    use super::*;
    use crate::metrics::Metrics;

    /// Returns a store with an API server that refuses one map as too large if a write has more than `room` new scopes.
    fn store(
        full: String,
        room: usize,
        writes: Arc<Mutex<Vec<(String, Value)>>>,
    ) -> (Store<StoredScopes>, Arc<Scopes>) {
        let answer = move |request: http::Request<Body>| {
            let (full, writes) = (full.clone(), Arc::clone(&writes));
            async move {
                let name = request.uri().path().rsplit('/').next().unwrap().to_owned();
                let body = request.into_body().collect_bytes().await.unwrap();
                let patch: Value = serde_json::from_slice(&body).unwrap();
                let new = patch["data"].as_object().unwrap().values();
                let refused = name == full && new.filter(|text| text.is_string()).count() > room;
                let (code, answer) = if refused {
                    let text = "data: Too long: must have at most 1048576 bytes";
                    (
                        422,
                        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 422, "message": text, "reason": "Invalid"}),
                    )
                } else {
                    writes.lock().unwrap().push((name, patch));
                    (
                        200,
                        json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {}}),
                    )
                };
                let response = http::Response::builder().status(code);
                Ok::<_, std::io::Error>(
                    response
                        .body(Body::from(answer.to_string().into_bytes()))
                        .unwrap(),
                )
            }
        };
        let client = Client::new(tower::service_fn(answer), NAMESPACE);
        let (scopes, metrics) = (Arc::<Scopes>::default(), Arc::<Metrics>::default());
        let domain = "cluster.local".parse().unwrap();
        let mesh = MeshSource::new(domain, Arc::clone(&scopes), RETRY, Arc::clone(&metrics));
        let content = StoredScopes {
            scopes: Arc::clone(&scopes),
            mesh: Arc::new(mesh),
        };
        (Store::new(client, Arc::new(content), metrics), scopes)
    }

    #[tokio::test]
    async fn a_full_map_blocks_no_other_and_makes_room() {
        let writes = Arc::default();
        let names = (0..400).map(|n| WorkloadRef::new("ci", &format!("job:{n}")));
        let names: Vec<WorkloadRef> = names.collect();
        let full = shard(&names[0]);
        let in_full = names.iter().filter(|name| shard(name) == full).count();
        let (store, scopes) = store(full.clone(), in_full - 1, Arc::clone(&writes));
        for (age, name) in (1u64..).zip(&names) {
            let db = "service/shop/db:80".parse().unwrap();
            scopes.learn(name, &db, None, age);
        }
        let mut blocked = Blocked::new();
        store.save(&mut blocked).await;
        let written: BTreeSet<String> = writes
            .lock()
            .unwrap()
            .drain(..)
            .map(|(name, _)| name)
            .collect();
        assert_eq!(written.len(), usize::from(SHARDS) - 1);
        assert_eq!(blocked.keys().collect::<Vec<_>>(), [&full]);
        // Blocked, it is left alone; then the oldest scopes have made room for the rest.
        store.save(&mut blocked).await;
        assert!(writes.lock().unwrap().is_empty());
        blocked.clear();
        store.save(&mut blocked).await;
        let writes = writes.lock().unwrap();
        let [(name, patch)] = &writes[..] else {
            panic!("{writes:?}");
        };
        let data = patch["data"].as_object().unwrap();
        let forgotten = data.values().filter(|text| text.is_null()).count();
        assert_eq!(
            (name, data.len(), forgotten),
            (&full, in_full, in_full.div_ceil(4))
        );
        assert!(blocked.is_empty());
        assert_eq!(scopes.workloads().len(), 400 - forgotten);
    }

    #[test]
    fn a_workload_is_always_in_the_same_map() {
        let shards: BTreeSet<String> = (0..1000)
            .map(|n| shard(&WorkloadRef::new("shop", &format!("w{n}"))))
            .collect();
        assert_eq!(shards.len(), usize::from(SHARDS));
        assert_eq!(
            shard(&WorkloadRef::new("shop", "cart")),
            shard(&WorkloadRef::new("shop", "cart"))
        );
    }
}
