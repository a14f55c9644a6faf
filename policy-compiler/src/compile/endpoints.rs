//! Which endpoints of a service take traffic.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::envoy::endpoint::Backend;
use crate::world::{
    Endpoint, Labels, NamespacedName, Port, Shape, SpiffeId, Workload, World, selects,
};

/// How many endpoints there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Readiness {
    pub(crate) ready: usize,
    pub(crate) all: usize,
}

/// The endpoints of a port.
fn of_port<'a>(world: &'a World, service: &NamespacedName, port: Port) -> &'a [Endpoint] {
    let definition = world.services.get(service);
    let name = definition.and_then(|s| s.ports.get(&port)).map(|p| &p.name);
    let list = name.and_then(|name| world.endpoints.get(service)?.get(name));
    list.map_or(&[], Vec::as_slice)
}

/// The pod behind an endpoint.
fn workload<'a>(world: &'a World, endpoint: &Endpoint) -> Option<&'a Workload> {
    let pod = endpoint.pod.as_ref()?;
    world.workloads.get(pod).map(|workload| &**workload)
}

fn within(subset: Option<&Labels>, workload: Option<&Workload>) -> bool {
    subset.is_none_or(|labels| workload.is_some_and(|w| selects(labels, &w.shape.labels)))
}

/// Counts for status, perhaps only of pods with these labels.
pub(crate) fn readiness(
    world: &World,
    service: &NamespacedName,
    port: Port,
    subset: Option<&Labels>,
) -> Readiness {
    let mut readiness = Readiness::default();
    for endpoint in of_port(world, service, port) {
        if subset.is_some() && !within(subset, workload(world, endpoint)) {
            continue;
        }
        readiness.all += 1;
        readiness.ready += usize::from(endpoint.ready);
    }
    readiness
}

/// What a client must know of the endpoints of a port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reached {
    /// Where to send: the ready ones; if there are none, those that end but still answer, so that the last pod of a service that is
    /// being moved serves to its end.
    pub(crate) backends: Vec<Backend>,
    /// The identities that a client may meet. Of all endpoints, ready or not, so that readiness does not change the cluster.
    pub(crate) identities: BTreeSet<SpiffeId>,
    /// Whether any endpoint, ready or not, has no sidecar.
    pub(crate) unmeshed: bool,
}

/// Looks at the endpoints of a port, perhaps only those of pods with these labels.
pub(crate) fn reached(
    world: &World,
    trust_domain: &str,
    service: &NamespacedName,
    port: Port,
    subset: Option<&Labels>,
) -> Reached {
    let mut reached = Reached::default();
    let mut ending = Vec::new();
    // Most pods of a service share one shape, which has one identity.
    let mut shapes: Vec<&Arc<Shape>> = Vec::new();
    for endpoint in of_port(world, service, port) {
        let pod = workload(world, endpoint);
        if !within(subset, pod) {
            continue;
        }
        let meshed = pod.filter(|pod| pod.shape.meshed);
        reached.unmeshed |= meshed.is_none();
        if let Some(pod) = meshed
            && !shapes.iter().any(|shape| Arc::ptr_eq(shape, &pod.shape))
        {
            shapes.push(&pod.shape);
            reached.identities.insert(pod.shape.identity(trust_domain));
        }
        let backend = Backend {
            at: SocketAddr::new(endpoint.ip, endpoint.port.get()),
            plain: meshed.is_none(),
        };
        if endpoint.ready {
            reached.backends.push(backend);
        } else if endpoint.serving && endpoint.terminating {
            ending.push(backend);
        }
    }
    if reached.backends.is_empty() {
        reached.backends = ending;
    }
    reached.backends.sort();
    reached.backends.dedup();
    reached.backends.shrink_to_fit();
    reached
}
