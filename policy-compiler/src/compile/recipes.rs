//! How the resources of a service's client side are made.

use std::collections::BTreeSet;
use std::sync::Arc;

use prost::Message;

use super::memo::Recipe;
use crate::envoy::{cluster, endpoint, route};
use crate::finding::ObjectRef;
use crate::resource::{Resource, ResourceKey, ResourceKind, RuleOrigins};
use crate::traffic::{EndpointAssignment, Origins, RouteTable, Upstream};

fn objects(origins: &Origins) -> BTreeSet<ObjectRef> {
    let service = super::service_ref(&origins.service);
    std::iter::once(service)
        .chain(origins.rules.iter().cloned())
        .collect()
}

impl Recipe for Upstream {
    fn make(&self) -> Arc<Resource> {
        Resource::new(
            ResourceKind::Cluster,
            &self.name,
            cluster::eds(self).encode_to_vec(),
            Vec::new(),
            objects(&self.origins),
        )
    }
}

impl Recipe for EndpointAssignment {
    fn make(&self) -> Arc<Resource> {
        let mut groups = self.groups.iter();
        Resource::endpoints(
            &self.name,
            endpoint::assignment(&self.name, &self.groups).encode_to_vec(),
            groups.all(|group| group.hosts.is_empty()),
            objects(&self.origins),
        )
    }
}

/// The route configuration of a table.
pub(crate) fn route_configuration(table: &RouteTable) -> Arc<Resource> {
    table.make()
}

impl Recipe for RouteTable {
    fn make(&self) -> Arc<Resource> {
        let all = self.upstreams.values().chain(self.mirrors.values());
        let names = all.map(|upstream| &upstream.name);
        Resource::merged(
            ResourceKind::Route,
            &self.name,
            route::outbound(self).encode_to_vec(),
            names.flat_map(pair_keys).collect(),
            objects(&self.origins),
            rules(self),
        )
    }
}

/// The objects of each route, in the order of the route configuration.
fn rules(table: &RouteTable) -> Vec<RuleOrigins> {
    let mut rules = Vec::new();
    for (host, of) in table.hosts.iter().enumerate() {
        let entries = of.entries.iter();
        let names = entries.flat_map(|entry| route::names(entry).map(move |name| (entry, name)));
        rules.extend(names.enumerate().map(|(route, (entry, name))| RuleOrigins {
            id: name.into(),
            host,
            route,
            objects: entry.rule.origins.clone(),
        }));
    }
    rules
}

fn pair_keys(name: &Arc<str>) -> [ResourceKey; 2] {
    [ResourceKind::Cluster, ResourceKind::Endpoints].map(|kind| ResourceKey {
        kind,
        name: Arc::clone(name),
    })
}
