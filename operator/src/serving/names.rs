//! What becomes of the names that a proxy asked for, and what its workload learns by them.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use heddle_policy_compiler::{
    Bucket, Destination, Proxy, WorkloadRef, listener_address, on_demand_address,
};
use heddle_xds_server::Name;

use super::subscribers::Wish;
use super::{MeshSource, now};
use crate::picture::Picture;
use crate::scope::{Learned, Recent, Scopes, Seconds, Sets};

/// Beyond what its workload holds, a proxy is answered for so many names at a time, the others are refused: each costs it
/// memory, and who calls more is scanning. These are addresses that nobody knows, and destinations that there was no room for.
const MAX_BEYOND: usize = 256;

/// What was used within so many seconds makes no room for others.
const KEPT: Seconds = 600;

/// The names a proxy asked for, by what becomes of them.
#[derive(Debug, Default)]
pub(super) struct Sorted {
    pub(super) sets: Arc<Sets>,
    pub(super) wanted: BTreeSet<Name>,
    pub(super) refused: BTreeSet<Name>,
    /// Those of the wanted that are beyond what the workload holds.
    pub(super) beyond: BTreeSet<Name>,
}

impl MeshSource {
    /// Sorts the names that a proxy asked for into those that are answered and those that are refused, and learns what it calls.
    pub(super) fn sort(
        &self,
        picture: &Picture,
        proxy: &Proxy,
        workload: &WorkloadRef,
        wish: &Wish,
    ) -> Sorted {
        let now = now();
        let mut sorter = Sorter {
            scopes: &self.scopes,
            picture,
            workload,
            learns: proxy.on_demand() && picture.compiled.tells_on_demand(),
            recent: Recent::at(Bucket::of(picture.compiled.idle_after()), now),
            // Three reports, for one may be late.
            unused: KEPT.max(3 * self.load_report_interval.as_secs()),
            now,
            sets: self.scopes.of(workload),
            learned: false,
            beyond: BTreeSet::new(),
        };
        let (asked, looked) = (&wish.asked, &wish.looked);
        // A proxy that comes back shows by its listeners what is in use, once.
        for name in asked.listeners.difference(&looked.listeners) {
            if let Some(destination) = listener_address(name).and_then(|at| sorter.known(at)) {
                sorter.learn(&destination, None);
            }
        }
        // Who has a place has it before those that come later.
        let has_place = |name: &&Name| wish.beyond.contains(*name);
        let (placed, others): (Vec<_>, Vec<_>) = asked.names.iter().partition(has_place);
        let (wanted, refused) = placed
            .into_iter()
            .chain(others)
            .cloned()
            .partition(|name| sorter.answers(name, !looked.names.contains(name)));
        if sorter.learned {
            sorter.sets = self.scopes.of(workload);
            self.relearned(workload);
        }
        let full = |places: &BTreeSet<Name>| places.len() == MAX_BEYOND;
        if full(&sorter.beyond) && !full(&wish.beyond) {
            tracing::warn!(proxy = %wish.pod, names = MAX_BEYOND, "the proxy is answered for so many names beyond what its workload holds; more are refused");
        }
        Sorted {
            sets: sorter.sets,
            wanted,
            refused,
            beyond: sorter.beyond,
        }
    }
}

/// Sorts the names of one proxy.
struct Sorter<'a> {
    scopes: &'a Scopes,
    picture: &'a Picture,
    workload: &'a WorkloadRef,
    learns: bool,
    recent: Recent,
    /// What was not used for so long makes room for what is called now.
    unused: Seconds,
    now: Seconds,
    /// What the workload held at first.
    sets: Arc<Sets>,
    /// Whether it holds more by now.
    learned: bool,
    beyond: BTreeSet<Name>,
}

impl Sorter<'_> {
    fn known(&self, at: SocketAddr) -> Option<Destination> {
        self.picture.compiled.destination_at(at)
    }

    /// Whether a name is answered. Only a new one is a call: those of before are asked for as long as the stream lives.
    fn answers(&mut self, name: &Name, new: bool) -> bool {
        let destination = on_demand_address(name).and_then(|at| self.known(at));
        match destination {
            Some(destination) if self.sets.held.contains(&destination) => true,
            Some(_) | None if !self.recent.has(name) => false,
            Some(destination) if self.learn(&destination, new.then_some(self.unused)) => true,
            Some(_) | None => self.is_beyond(name),
        }
    }

    /// Whether the workload holds the destination now.
    fn learn(&mut self, destination: &Destination, unused: Option<Seconds>) -> bool {
        if !self.learns || self.sets.held.contains(destination) {
            return self.learns;
        }
        let learned = self
            .scopes
            .learn(self.workload, destination, unused, self.now);
        self.learned |= learned == Learned::Now;
        learned != Learned::NoRoom
    }

    /// Takes a place for a name, if there is one left.
    fn is_beyond(&mut self, name: &Name) -> bool {
        self.beyond.len() < MAX_BEYOND && self.beyond.insert(Name::clone(name))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use heddle_identity::TrustDomain;
    use heddle_policy_compiler::{KubeObject, NamespacedName, World, compile};
    use heddle_xds_server::Asked;
    use k8s_openapi::jiff::Timestamp;
    use serde_json::json;

    use super::*;
    use crate::scope::MAX_HELD;

    /// A pod with a sidecar, and a service of so many ports.
    fn picture(ports: usize) -> Picture {
        let ports = (1..=ports).map(|port| json!({"name": format!("tcp-{port}"), "port": port}));
        let service = json!({
            "metadata": {"name": "all", "namespace": "shop"},
            "spec": {"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"], "ports": ports.collect::<Vec<_>>()},
        });
        let pod = json!({
            "metadata": {"name": "client-1", "namespace": "shop"},
            "spec": {"serviceAccountName": "client", "containers": [{"name": "app"}, {"name": "heddle-proxy"}]},
            "status": {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}]},
        });
        let mut builder = World::builder();
        let service = serde_json::from_value(service).unwrap();
        let pod = serde_json::from_value(pod).unwrap();
        builder.apply(KubeObject::Service(Arc::new(service)));
        builder.apply(KubeObject::Pod(Arc::new(pod)));
        let world = builder.world();
        Picture {
            compiled: compile(&world),
            world,
            ..Picture::default()
        }
    }

    fn name(at: &str) -> Name {
        let hour = Timestamp::now().strftime(Bucket::Hour.format());
        format!("dst|{at}|{hour}").into()
    }

    #[test]
    fn who_asks_for_more_than_there_is_room_for_is_refused_the_rest() {
        const REFUSED: usize = 200;
        let picture = picture(MAX_HELD + MAX_BEYOND + REFUSED);
        let mesh = MeshSource::new(
            "cluster.local".parse::<TrustDomain>().unwrap(),
            Arc::default(),
            Duration::from_secs(60),
            Arc::default(),
        );
        let pod = NamespacedName::new("shop", "client-1");
        let proxy = &picture.compiled.proxies[&pod];
        let sort = |names: &BTreeSet<Name>, looked: &BTreeSet<Name>, beyond: &BTreeSet<Name>| {
            let asked = |names: &BTreeSet<Name>| {
                Arc::new(Asked {
                    names: names.clone(),
                    ..Asked::default()
                })
            };
            let wish = Wish {
                pod: pod.clone(),
                asked: asked(names),
                looked: asked(looked),
                settled: Arc::default(),
                beyond: Arc::new(beyond.clone()),
            };
            mesh.sort(&picture, proxy, &proxy.workload(), &wish)
        };
        let none = BTreeSet::new();
        let ports = 1..=MAX_HELD + MAX_BEYOND + REFUSED;
        let mut names: BTreeSet<Name> = ports.map(|p| name(&format!("10.96.0.1:{p}"))).collect();
        let first = sort(&names, &none, &none);
        assert_eq!(first.sets.held.len(), MAX_HELD);
        assert_eq!(first.beyond.len(), MAX_BEYOND);
        assert_eq!(first.wanted.len(), MAX_HELD + MAX_BEYOND);
        assert_eq!(first.refused.len(), REFUSED);

        // Who comes later takes no place from who has one, whatever their names.
        let before = names.clone();
        names.extend(["10.1.1.1:80", "10.96.0.0:80"].map(name));
        let second = sort(&names, &before, &first.beyond);
        assert_eq!(second.sets, first.sets);
        assert_eq!(second.wanted, first.wanted);
        assert_eq!(second.refused.len(), REFUSED + 2);
        // A place that was given up is taken.
        let given_up = first.beyond.first().unwrap();
        names.remove(given_up);
        let third = sort(&names, &names, &first.beyond);
        assert_eq!(third.wanted.len(), MAX_HELD + MAX_BEYOND);
        assert!(third.wanted.contains(&name("10.1.1.1:80")));
    }
}
