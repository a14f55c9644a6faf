//! Services with endpoints that depend on more than the pods that their slices name.

use std::collections::BTreeSet;
use std::net::IpAddr;

use imbl::{OrdMap, OrdSet};

use crate::world::{Endpoint, EndpointsByPort, NamespacedName};

/// Finds the services that a change of pods concerns. Both lists are short: controllers name pods, and copies last moments.
#[derive(Clone, Debug, Default)]
pub(crate) struct NamedByAddress {
    /// Services with an endpoint at this address for which the slice names no pod.
    by_address: OrdMap<IpAddr, OrdSet<NamespacedName>>,
    /// Services with several copies of an endpoint.
    with_copies: OrdSet<NamespacedName>,
}

impl NamedByAddress {
    /// Puts the endpoints of a service in the place of the old ones. Returns the addresses of both for which no pod is named.
    pub(crate) fn update(
        &mut self,
        service: &NamespacedName,
        old: Option<&EndpointsByPort>,
        new: Option<&EndpointsByPort>,
    ) -> BTreeSet<IpAddr> {
        self.set_copies(service, new);
        let (old, new) = (addresses_without_pod(old), addresses_without_pod(new));
        for ip in old.difference(&new) {
            if let Some(services) = self.by_address.get_mut(ip) {
                services.remove(service);
                if services.is_empty() {
                    self.by_address.remove(ip);
                }
            }
        }
        for ip in new.difference(&old) {
            let services = self.by_address.entry(*ip).or_default();
            services.insert(service.clone());
        }
        old.union(&new).copied().collect()
    }

    /// Notes whether a service has several copies of an endpoint.
    fn set_copies(&mut self, service: &NamespacedName, new: Option<&EndpointsByPort>) {
        let mut lists = new.into_iter().flat_map(|by_port| by_port.values());
        let copies = lists.any(|list| list.windows(2).any(is_copy));
        if copies {
            self.with_copies.insert(service.clone());
        } else if self.with_copies.contains(service) {
            self.with_copies.remove(service);
        }
    }

    /// The services with an endpoint that is known by this address alone.
    pub(crate) fn at(&self, ip: IpAddr) -> impl Iterator<Item = &NamespacedName> {
        self.by_address.get(&ip).into_iter().flatten()
    }

    /// The services in which one copy of an endpoint has to be chosen.
    pub(crate) fn with_copies(&self) -> &OrdSet<NamespacedName> {
        &self.with_copies
    }
}

fn is_copy(pair: &[Endpoint]) -> bool {
    matches!(pair, [a, b] if a.same_place(b))
}

/// The addresses for which no pod is named.
pub(crate) fn addresses_without_pod(endpoints: Option<&EndpointsByPort>) -> BTreeSet<IpAddr> {
    let all = endpoints.into_iter().flat_map(|by_port| by_port.values());
    let unnamed = all.flatten().filter(|endpoint| endpoint.pod.is_none());
    unnamed.map(|endpoint| endpoint.ip.to_canonical()).collect()
}
