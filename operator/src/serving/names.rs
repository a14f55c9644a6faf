//! Classifies the on-demand names that a proxy requests, and adds their destinations to the scope of its workload.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use heddle_policy_compiler::{
    Bucket, Destination, Proxy, WorkloadRef, listener_address, on_demand_address,
};
use heddle_xds_server::Name;

use super::subscribers::ViewRequest;
use super::{MeshSource, now};
use crate::scope::{LearnResult, Recent, Scopes, Seconds, Sets};
use crate::snapshot::Snapshot;

/// Overflow: addresses for which a proxy gets on-demand clusters beyond the scope of its workload; names of further
/// addresses are denied. Each cluster costs the proxy memory, and a workload that calls more addresses is scanning. An
/// address overflows if it is not a destination, if the scope is full, or if the destination is not declared where a
/// declaration is required.
const MAX_OVERFLOW: usize = 256;

/// Seconds after its last use in which a destination is not evicted in favor of another one.
const KEPT: Seconds = 600;

/// The requested names by result, with the scope of the workload.
#[derive(Debug, Default)]
pub(super) struct ClassifiedRequests {
    pub(super) sets: Arc<Sets>,
    pub(super) granted: BTreeSet<Name>,
    pub(super) denied: BTreeSet<Name>,
    /// The granted names beyond the scope of the workload.
    pub(super) overflow: BTreeSet<Name>,
}

impl MeshSource {
    /// Divides the requested names of a proxy into granted and denied ones, and learns the destinations of new names.
    pub(super) fn classify(
        &self,
        snapshot: &Snapshot,
        proxy: &Proxy,
        workload: &WorkloadRef,
        request: &ViewRequest,
    ) -> ClassifiedRequests {
        let now = now();
        let mut classifier = RequestClassifier {
            scopes: &self.scopes,
            snapshot,
            proxy,
            workload,
            learns: proxy.on_demand() && snapshot.compiled.tells_on_demand(),
            recent: Recent::at(Bucket::of(snapshot.compiled.idle_after()), now),
            unused: KEPT.max(self.reported_within().as_secs()),
            now,
            sets: self.scopes.of(workload),
            learned: false,
            overflow: BTreeSet::new(),
            overflow_addresses: BTreeSet::new(),
        };
        let (on_demand, answered) = (&request.on_demand, &request.answered);
        classifier.reported_on_reconnect(
            on_demand
                .reported_listeners
                .difference(&answered.reported_listeners),
        );
        // Names that are in the overflow already keep their addresses; new names come after them.
        let overflows = |name: &&Name| request.overflow.contains(*name);
        let (overflowing, others): (Vec<_>, Vec<_>) =
            on_demand.clusters.iter().partition(overflows);
        let (granted, denied) = overflowing
            .into_iter()
            .chain(others)
            .cloned()
            .partition(|name| classifier.answers(name, !answered.clusters.contains(name)));
        if classifier.learned {
            classifier.sets = self.scopes.of(workload);
            self.relearned(workload);
        }
        if classifier.overflow.len() >= MAX_OVERFLOW && request.overflow.len() < MAX_OVERFLOW {
            tracing::warn!(proxy = %request.pod, addresses = MAX_OVERFLOW, "the proxy exceeded the bound of addresses beyond the scope of its workload; further addresses are denied");
        }
        ClassifiedRequests {
            sets: classifier.sets,
            granted,
            denied,
            overflow: classifier.overflow,
        }
    }
}

/// Sorts the names of one proxy.
struct RequestClassifier<'a> {
    scopes: &'a Scopes,
    snapshot: &'a Snapshot,
    proxy: &'a Proxy,
    workload: &'a WorkloadRef,
    learns: bool,
    recent: Recent,
    /// A destination unused for so many seconds makes room for a new one.
    unused: Seconds,
    now: Seconds,
    /// The scope of the workload at the start.
    sets: Arc<Sets>,
    /// Whether it holds more by now.
    learned: bool,
    overflow: BTreeSet<Name>,
    /// Their addresses: one in steady use is asked for under a new name in each bucket.
    overflow_addresses: BTreeSet<SocketAddr>,
}

impl RequestClassifier<'_> {
    fn known(&self, at: SocketAddr) -> Option<Destination> {
        self.snapshot.compiled.destination_at(at)
    }

    /// Learns the destinations of the listeners that a proxy reports on reconnect, once: they may be in use.
    fn reported_on_reconnect<'n>(&mut self, listeners: impl Iterator<Item = &'n Name>) {
        let addresses = listeners.filter_map(|name| listener_address(name));
        let reported: BTreeSet<_> = addresses.filter_map(|at| self.known(at)).collect();
        if self.learns && !reported.is_empty() {
            for destination in &reported {
                self.learn(destination, None);
            }
            self.scopes
                .reported_on_reconnect(self.workload, &reported, self.now);
        }
    }

    /// Whether a name is answered. Only a new one is a call: those of before are asked for as long as the stream lives.
    fn answers(&mut self, name: &Name, new: bool) -> bool {
        let Some(at) = on_demand_address(name) else {
            return self.snapshot.compiled.is_external_cluster(self.proxy, name);
        };
        match self.known(at) {
            Some(destination) if self.sets.active.contains(&destination) => true,
            Some(_) | None if !self.recent.has(name) => false,
            Some(destination) if self.learns => {
                self.learn(&destination, new.then_some(self.unused)) || self.take_overflow(name, at)
            }
            Some(_) if self.snapshot.compiled.may_have(self.proxy, at) => true,
            Some(_) | None => self.take_overflow(name, at),
        }
    }

    /// Whether the workload holds the destination now.
    fn learn(&mut self, destination: &Destination, unused: Option<Seconds>) -> bool {
        if self.sets.active.contains(destination) {
            return true;
        }
        let learned = self
            .scopes
            .learn(self.workload, destination, unused, self.now);
        self.learned |= learned == LearnResult::Now;
        learned != LearnResult::NoRoom
    }

    /// Takes a place for an address, if it has none and there is one left.
    fn take_overflow(&mut self, name: &Name, at: SocketAddr) -> bool {
        if self.overflow_addresses.len() >= MAX_OVERFLOW && !self.overflow_addresses.contains(&at) {
            return false;
        }
        self.overflow_addresses.insert(at);
        self.overflow.insert(Name::clone(name));
        true
    }
}

#[cfg(test)]
mod tests {
    use std::ops::RangeInclusive;
    use std::time::Duration;

    use heddle_identity::TrustDomain;
    use heddle_policy_compiler::{KubeObject, NamespacedName, World, ingest};
    use heddle_xds_server::OnDemandRequests;
    use k8s_openapi::jiff::{SignedDuration, Timestamp};
    use serde_json::json;

    use super::*;
    use crate::scope::MAX_ACTIVE;

    const AT: &str = "10.96.0.1";

    /// A pod with a sidecar in `shop`.
    fn client() -> KubeObject {
        let pod = json!({
            "metadata": {"name": "client-1", "namespace": "shop"},
            "spec": {"serviceAccountName": "client", "containers": [{"name": "app"}, {"name": "heddle-proxy"}]},
            "status": {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}]},
        });
        KubeObject::Pod(Arc::new(serde_json::from_value(pod).unwrap()))
    }

    /// The client, and a service of so many ports.
    fn snapshot(namespace: &str, ports: usize, on_demand: &str) -> Snapshot {
        let ports = (1..=ports).map(|port| json!({"name": format!("tcp-{port}"), "port": port}));
        let service = json!({
            "metadata": {"name": "all", "namespace": namespace},
            "spec": {"clusterIP": AT, "clusterIPs": [AT], "ports": ports.collect::<Vec<_>>()},
        });
        let mesh = json!({
            "apiVersion": "heddle.dev/v1alpha1", "kind": "Mesh",
            "metadata": {"name": "default"}, "spec": {"scope": {"onDemand": on_demand}},
        });
        let service = serde_json::from_value(service).unwrap();
        let (mesh, _) = ingest::parse_json("test", mesh);
        let mut builder = World::builder();
        builder.apply(KubeObject::Service(Arc::new(service)));
        builder.apply(client());
        for object in mesh {
            builder.apply(object);
        }
        Snapshot::of(builder.world())
    }

    fn name(at: &str, hours_ago: i64) -> Name {
        let then = Timestamp::now() - SignedDuration::from_hours(hours_ago);
        format!("dst|{at}|{}", then.strftime(Bucket::Hour.format())).into()
    }

    fn ports(ports: RangeInclusive<usize>) -> BTreeSet<Name> {
        ports.map(|port| name(&format!("{AT}:{port}"), 0)).collect()
    }

    /// Classifies names, given the names of the last computation and the names in the overflow.
    fn classified(
        snapshot: &Snapshot,
    ) -> impl Fn(&BTreeSet<Name>, &BTreeSet<Name>, &BTreeSet<Name>) -> ClassifiedRequests {
        let mesh = MeshSource::new(
            "cluster.local".parse::<TrustDomain>().unwrap(),
            Arc::default(),
            Duration::from_secs(60),
            Arc::default(),
        );
        let requests = |names: &BTreeSet<Name>| {
            Arc::new(OnDemandRequests {
                clusters: names.clone(),
                ..OnDemandRequests::default()
            })
        };
        move |names, answered, overflow| {
            let pod = NamespacedName::new("shop", "client-1");
            let proxy = &snapshot.compiled.proxies[&pod];
            let request = ViewRequest {
                bootstrap: 0,
                pod,
                on_demand: requests(names),
                answered: requests(answered),
                retired: Arc::default(),
                overflow: Arc::new(overflow.clone()),
            };
            mesh.classify(snapshot, proxy, &proxy.workload(), &request)
        }
    }

    #[test]
    fn names_beyond_scope_and_overflow_are_denied() {
        const REFUSED: usize = 200;
        const ALL: usize = MAX_ACTIVE + MAX_OVERFLOW + REFUSED;
        let (snapshot, none) = (snapshot("shop", ALL, "Enabled"), BTreeSet::new());
        let sort = classified(&snapshot);
        let mut names = ports(1..=ALL);
        let first = sort(&names, &none, &none);
        assert_eq!(first.sets.active.len(), MAX_ACTIVE);
        assert_eq!(first.overflow.len(), MAX_OVERFLOW);
        assert_eq!(first.granted.len(), MAX_ACTIVE + MAX_OVERFLOW);
        assert_eq!(first.denied.len(), REFUSED);

        // A new name does not take the place of an earlier one, in any order of the names.
        let before = names.clone();
        names.extend(["10.1.1.1:80", "10.96.0.0:80"].map(|at| name(at, 0)));
        let second = sort(&names, &before, &first.overflow);
        assert_eq!(second.sets, first.sets);
        assert_eq!(second.granted, first.granted);
        assert_eq!(second.denied.len(), REFUSED + 2);
        // An address keeps its place from hour to hour.
        let placed = first.overflow.first().unwrap();
        let address = on_demand_address(placed).unwrap().to_string();
        names.insert(name(&address, 1));
        let third = sort(&names, &before, &first.overflow);
        assert_eq!(third.granted.len(), MAX_ACTIVE + MAX_OVERFLOW + 1);
        // A place that was given up is taken.
        names.remove(&name(&address, 1));
        names.remove(placed);
        let fourth = sort(&names, &names, &first.overflow);
        assert_eq!(fourth.granted.len(), MAX_ACTIVE + MAX_OVERFLOW);
        assert!(fourth.granted.contains(&name("10.1.1.1:80", 0)));
    }

    #[test]
    fn clusters_of_hosts_outside_are_granted_to_namespaces_that_may_call_them() {
        let mut builder = World::builder();
        for (namespace, name) in [("shop", "own"), ("till", "other")] {
            let external = json!({
                "apiVersion": "heddle.dev/v1alpha1", "kind": "ExternalService",
                "metadata": {"name": name, "namespace": namespace},
                "spec": {"hosts": [format!("{name}.example.com")], "ports": [{"port": 443, "protocol": "TLS"}]},
            });
            let (external, findings) = ingest::parse_json("test", external);
            assert!(findings.is_empty(), "{findings:?}");
            external
                .into_iter()
                .for_each(|object| _ = builder.apply(object));
        }
        builder.apply(client());
        let snapshot = Snapshot::of(builder.world());
        let names = [
            "dst|own.example.com:443|shop/own",
            "dst|own.example.com:80|shop/own",
            "dst|other.example.com:443|till/other",
        ];
        let (names, none) = (names.map(Name::from).into(), BTreeSet::new());
        let classified = classified(&snapshot)(&names, &none, &none);
        let granted: Vec<_> = classified.granted.iter().map(|name| &**name).collect();
        assert_eq!(granted, ["dst|own.example.com:443|shop/own"]);
        assert_eq!(classified.denied.len(), 2);
        assert!(classified.overflow.is_empty());
    }

    #[test]
    fn declared_destinations_do_not_count_as_overflow() {
        const MANY: usize = MAX_OVERFLOW + 50;
        let none = BTreeSet::new();
        // Without an annotation a pod's own namespace is declared.
        for (namespace, answered) in [("shop", MANY), ("elsewhere", MAX_OVERFLOW)] {
            let snapshot = snapshot(namespace, MANY, "Disabled");
            let classified = classified(&snapshot)(&ports(1..=MANY), &none, &none);
            assert_eq!(classified.granted.len(), answered, "{namespace}");
            assert_eq!(classified.sets.active.len(), 0);
        }
    }
}
