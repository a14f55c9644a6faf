//! Which endpoints of a service take traffic.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use crate::envoy::endpoint::Backend;
use crate::world::{Endpoint, Labels, NamespacedName, Port, SpiffeId, Workload, World, selects};

/// How many endpoints there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Readiness {
    pub(crate) ready: usize,
    pub(crate) all: usize,
}

/// The endpoints of a port, perhaps only those of pods with these labels.
fn of_port<'a>(
    world: &'a World,
    service: &NamespacedName,
    port: Port,
    subset: Option<&'a Labels>,
) -> impl Iterator<Item = &'a Endpoint> {
    let name = world
        .services
        .get(service)
        .and_then(|s| s.ports.get(&port))
        .map(|p| p.name.clone());
    let list = name.and_then(|name| world.endpoints.get(service)?.get(&name));
    list.into_iter().flatten().filter(move |endpoint| {
        subset.is_none_or(|labels| {
            workload(world, endpoint).is_some_and(|w| selects(labels, &w.labels))
        })
    })
}

/// The pod behind an endpoint.
pub(crate) fn workload<'a>(world: &'a World, endpoint: &Endpoint) -> Option<&'a Workload> {
    endpoint
        .pod
        .as_ref()
        .and_then(|pod| world.workloads.get(pod))
}

/// Counts for status.
pub(crate) fn readiness(
    world: &World,
    service: &NamespacedName,
    port: Port,
    subset: Option<&Labels>,
) -> Readiness {
    let all: Vec<&Endpoint> = of_port(world, service, port, subset).collect();
    Readiness {
        ready: all.iter().filter(|e| e.ready).count(),
        all: all.len(),
    }
}

/// The endpoints to send to: the ready ones; if there are none, those that end but still answer, so that the last pod of a
/// service that is being moved serves to its end.
pub(crate) fn backends(
    world: &World,
    service: &NamespacedName,
    port: Port,
    subset: Option<&Labels>,
) -> Vec<Backend> {
    let all: Vec<&Endpoint> = of_port(world, service, port, subset).collect();
    let mut chosen: Vec<&&Endpoint> = all.iter().filter(|e| e.ready).collect();
    if chosen.is_empty() {
        chosen = all.iter().filter(|e| e.serving && e.terminating).collect();
    }
    let mut backends: Vec<Backend> = chosen.into_iter().map(|e| backend(world, e)).collect();
    backends.sort();
    backends.dedup();
    backends
}

fn backend(world: &World, endpoint: &Endpoint) -> Backend {
    Backend {
        at: SocketAddr::new(endpoint.ip, endpoint.port.get()),
        meshed: workload(world, endpoint).is_some_and(|w| w.meshed),
    }
}

/// The identities that a client may meet. Of all endpoints, ready or not, so that readiness does not change the cluster.
pub(crate) fn identities(
    world: &World,
    trust_domain: &str,
    service: &NamespacedName,
    port: Port,
    subset: Option<&Labels>,
) -> BTreeSet<SpiffeId> {
    of_port(world, service, port, subset)
        .filter_map(|e| workload(world, e))
        .filter(|w| w.meshed)
        .map(|w| w.identity(trust_domain))
        .collect()
}
