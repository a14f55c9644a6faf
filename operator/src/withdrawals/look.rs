//! Looks at the callers of terminating pods: compares the acknowledgments of each with the view that it must have.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use heddle_policy_compiler::{NamespacedName, PodRef, World};
use heddle_xds_server::{Name, OnDemandRequests, Registry, ResourceKind, SubscriberId, View};
use imbl::ordmap::DiffItem;

use super::tally::{Caller, Moment};
use super::{Ending, Inner, PeerReport, Withdrawals};
use crate::snapshot::Snapshot;

/// The views of proxies.
pub trait Views {
    /// Returns the proxies with a view that depends on one of the services, also those without a stream.
    fn viewers(&self, services: &BTreeSet<NamespacedName>) -> BTreeSet<Name>;

    /// Returns the view that a proxy must have now, for the requests of its current stream.
    fn expected(&self, who: &Name, on_demand: &Arc<OnDemandRequests>) -> Option<Arc<View>>;
}

/// The endpoints of some services in the view of a caller.
struct Seen {
    caller: Caller,
    /// Their encoded messages.
    endpoints: Vec<Bytes>,
}

impl Withdrawals {
    /// Looks at the callers of all terminating pods, and publishes the counts to their agents. Returns whether a count changed.
    pub fn look(&self, snapshot: &Snapshot, views: &dyn Views, registry: &Registry) -> bool {
        let now = Moment::now();
        let mut inner = self.lock();
        inner.follow(snapshot, now);
        // The pods of one service have the same callers.
        let due = inner.open.values().filter(|ending| ending.is_due());
        let called: BTreeSet<_> = due.map(|ending| ending.exposure.called.clone()).collect();
        let peers = Arc::clone(&inner.peers);
        drop(inner);
        // Without the lock: views are made, while agents report and ask.
        let look = Look {
            snapshot,
            views,
            registry,
            peers: &peers,
        };
        let callers = called.into_iter().map(|called| {
            let callers = look.callers(&called);
            (called, callers)
        });
        let callers: BTreeMap<BTreeSet<NamespacedName>, BTreeMap<Name, Seen>> = callers.collect();
        let mut inner = self.lock();
        let mut changed = false;
        for ending in inner.open.values_mut().filter(|ending| ending.is_due()) {
            // Only looks begin or change a withdrawal, and they follow each other.
            if let Some(callers) = callers.get(&ending.exposure.called) {
                changed |= ending.look(now, callers);
            }
        }
        inner.publish();
        changed
    }
}

impl Inner {
    /// Takes over the pods that terminate, and those that are gone, from the snapshot.
    fn follow(&mut self, snapshot: &Snapshot, now: Moment) {
        if self.revision == snapshot.revision {
            return;
        }
        self.revision = snapshot.revision;
        let proxies = snapshot.compiled.proxies.clone();
        let before = std::mem::replace(&mut self.proxies, proxies.clone());
        for difference in before.diff(&proxies) {
            match difference {
                DiffItem::Add(pod, proxy)
                | DiffItem::Update {
                    new: (pod, proxy), ..
                } => {
                    if proxy.terminating {
                        let uid = snapshot.world.pods().get(pod);
                        let uid = uid.and_then(|pod| pod.uid.clone());
                        if self.is_ending(pod) && self.open.get(pod).is_some_and(|of| of.uid != uid)
                        {
                            // Another pod of that name began and ended between two looks.
                            self.close(pod, now.instant);
                        }
                        if let Some(ending) = self.entry(pod, &proxy.workload()) {
                            ending.terminating.get_or_insert(now);
                            ending.uid = uid;
                        }
                    } else if self.is_ending(pod) {
                        // A new pod of that name, which replaced the old one between two looks.
                        self.close(pod, now.instant);
                    }
                }
                DiffItem::Remove(pod, _) => self.close(pod, now.instant),
            }
        }
        // Agents that asked about pods that do not end, and left.
        self.open
            .retain(|_, ending| ending.terminating.is_some() || ending.state.receiver_count() > 0);
        for (pod, ending) in self.open.iter_mut().filter(|(_, ending)| ending.is_due()) {
            ending.exposure = snapshot.compiled.exposure(pod);
            if ending.addresses.is_empty() {
                ending.addresses = addresses(&snapshot.world, pod);
            }
        }
    }
}

impl Ending {
    fn is_due(&self) -> bool {
        self.terminating.is_some() && self.tally.complete().is_none()
    }

    fn look(&mut self, now: Moment, callers: &BTreeMap<Name, Seen>) -> bool {
        let before = (self.tally.counts(), self.tally.complete());
        let Self {
            tally,
            exposure,
            addresses,
            ..
        } = self;
        // Shared by most callers.
        let mut known: HashMap<*const u8, bool> = HashMap::new();
        let mut has = |seen: &Seen| {
            seen.endpoints.iter().any(|body| {
                let found = || addresses.iter().any(|address| contains(body, address));
                *known.entry(body.as_ptr()).or_insert_with(found)
            })
        };
        let callers = callers.iter().map(|(name, seen)| {
            let caller = match seen.caller {
                Caller::Away => Caller::Away,
                _ if has(seen) => Caller::Has,
                other => other,
            };
            (Name::clone(name), caller)
        });
        tally.look(now, exposure.ready, callers);
        before != (tally.counts(), tally.complete())
    }
}

/// The state of the replica at one look.
struct Look<'a> {
    snapshot: &'a Snapshot,
    views: &'a dyn Views,
    registry: &'a Registry,
    peers: &'a [PeerReport],
}

impl Look<'_> {
    /// The proxies with one of these services in their view.
    fn callers(&self, called: &BTreeSet<NamespacedName>) -> BTreeMap<Name, Seen> {
        let prefixes: Vec<String> = called
            .iter()
            .map(|service| format!("out|{}/{}|", service.namespace, service.name))
            .collect();
        let viewers = self.views.viewers(called).into_iter();
        viewers
            .filter_map(|name| {
                let seen = self.caller(&name, &prefixes)?;
                Some((name, seen))
            })
            .collect()
    }

    fn caller(&self, name: &Name, prefixes: &[String]) -> Option<Seen> {
        let (namespace, pod) = name.split_once('/')?;
        let pod = PodRef::new(namespace, pod);
        let proxy = self.snapshot.compiled.proxies.get(&pod)?;
        let progress = self.registry.get(&SubscriberId(Name::clone(name)));
        let Some(progress) = progress.filter(|progress| progress.connected) else {
            let elsewhere = self.peers.iter();
            let mut elsewhere = elsewhere.filter(|peer| peer.connected.contains(&**name));
            // A pod that ends, or does not work yet, makes no calls that another one waits for.
            let away = proxy.ready && !proxy.terminating && elsewhere.next().is_none();
            return away.then(|| Seen {
                caller: Caller::Away,
                endpoints: Vec::new(),
            });
        };
        let expected = self.views.expected(name, &progress.on_demand)?;
        let of_services = |key: &heddle_xds_server::ResourceKey| {
            key.kind == ResourceKind::Endpoints
                && prefixes
                    .iter()
                    .any(|prefix| key.name.starts_with(&**prefix))
        };
        let lacks = progress.view.is_none()
            || progress
                .unacknowledged_of(&expected)
                .into_iter()
                .any(of_services);
        let endpoints = expected.iter();
        let endpoints = endpoints.filter(|resource| of_services(&resource.key));
        Some(Seen {
            caller: match lacks {
                true => Caller::Pending,
                false => Caller::Acknowledged,
            },
            endpoints: endpoints.map(|resource| resource.body.clone()).collect(),
        })
    }
}

/// The addresses of a pod as a `SocketAddress` has them on the wire: field 2 with the address, then the tag of field 3, the port.
fn addresses(world: &World, pod: &PodRef) -> Vec<Vec<u8>> {
    let pod = world.pods().get(pod);
    let ips = pod.iter().flat_map(|pod| &pod.ips);
    ips.map(address).collect()
}

fn address(ip: &IpAddr) -> Vec<u8> {
    let text = ip.to_string();
    let mut bytes = vec![0x12, u8::try_from(text.len()).unwrap_or(u8::MAX)];
    bytes.extend_from_slice(text.as_bytes());
    bytes.push(0x18);
    bytes
}

fn contains(body: &[u8], bytes: &[u8]) -> bool {
    body.windows(bytes.len()).any(|window| window == bytes)
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
    use envoy_types::pb::envoy::config::core::v3::{Address, SocketAddress, address as of_address};
    use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
    use envoy_types::pb::envoy::config::endpoint::v3::{
        ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints,
    };
    use prost::Message;

    use super::*;

    fn endpoints(ips: &[&str]) -> Vec<u8> {
        let endpoint = |ip: &&str| LbEndpoint {
            host_identifier: Some(HostIdentifier::Endpoint(Endpoint {
                address: Some(Address {
                    address: Some(of_address::Address::SocketAddress(SocketAddress {
                        address: (*ip).to_owned(),
                        port_specifier: Some(PortSpecifier::PortValue(8080)),
                        ..SocketAddress::default()
                    })),
                }),
                ..Endpoint::default()
            })),
            ..LbEndpoint::default()
        };
        let assignment = ClusterLoadAssignment {
            cluster_name: "out|shop/web|80".to_owned(),
            endpoints: vec![LocalityLbEndpoints {
                lb_endpoints: ips.iter().map(endpoint).collect(),
                ..LocalityLbEndpoints::default()
            }],
            ..ClusterLoadAssignment::default()
        };
        assignment.encode_to_vec()
    }

    #[test]
    fn an_address_is_found_whole_or_not_at_all() {
        let body = endpoints(&["10.0.0.50", "110.0.0.5", "fd00::5", "10.0.0.7"]);
        for (ip, found) in [
            ("10.0.0.5", false),
            ("10.0.0.50", true),
            ("10.0.0.7", true),
            ("0.0.0.7", false),
            ("fd00::5", true),
            ("fd00::", false),
        ] {
            assert_eq!(
                contains(&body, &address(&ip.parse().unwrap())),
                found,
                "{ip}"
            );
        }
    }
}
