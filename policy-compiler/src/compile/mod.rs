//! From a world to what every proxy gets.
//!
//! Each step is a function of a small explicit input: the client's side of a service ([`clusters`]), the server's side of a class of pods
//! ([`server`]), the listener of a destination ([`client`]). Pods with equal inputs share the result.

mod client;
mod clusters;
pub(crate) mod endpoints;
mod inbound;
mod server;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use heddle_crds::ConditionType;

use client::{Caller, Destinations, Listens};
use clusters::{Scope, Units};
use inbound::Inbound;

use crate::authz::PortAuthz;
use crate::finding::{Finding, ObjectKind, ObjectRef};
use crate::kinds::{auth_policy, mesh, traffic_split};
use crate::resource::{Resource, View};
use crate::status::ObjectStatus;
use crate::world::{Capture, NamespacedName, PodRef, Port, Service, SpiffeId, World};

/// One meshed pod.
#[derive(Clone, Debug)]
pub struct Proxy {
    /// Namespace and name of the pod: the node id is `namespace/name`.
    pub pod: PodRef,
    /// The identity its certificate must show.
    pub identity: SpiffeId,
    /// Whether the pod is Ready as the API knows it, so that it counts for `Programmed`.
    pub ready: bool,
    class: Arc<Class>,
}

/// What pods with equal inputs share.
#[derive(Debug)]
struct Class {
    caller: Caller,
    /// Captured pods are told destinations on demand; for others all are declared.
    on_demand: bool,
    base: Vec<Arc<Resource>>,
    input: Inbound,
}

/// The result of a compile.
#[derive(Clone, Debug, Default)]
pub struct Compiled {
    /// Every living meshed pod.
    pub proxies: BTreeMap<PodRef, Proxy>,
    /// What the status of each of our objects should say.
    pub statuses: BTreeMap<ObjectRef, ObjectStatus>,
    /// What users should know; sorted. Findings of ingest are not repeated here.
    pub findings: Vec<Finding>,
    units: Units,
    destinations: Destinations,
    pass_unknown: bool,
    mesh: BTreeSet<ObjectRef>,
}

/// What judging the objects yields beside the resources.
#[derive(Default)]
pub(crate) struct Outcome {
    pub(crate) statuses: BTreeMap<ObjectRef, ObjectStatus>,
    pub(crate) findings: Vec<Finding>,
}

impl Outcome {
    /// Sets a condition unless it already has this verdict: the first reason found stays, and audit outranks what is only a detail.
    pub(crate) fn once(
        &mut self,
        object: &ObjectRef,
        kind: ConditionType,
        holds: bool,
        reason: &str,
        message: &str,
    ) {
        let Some(status) = self.statuses.get_mut(object) else {
            return;
        };
        let same = |c: &heddle_crds::Verdict| c.status == heddle_crds::ConditionStatus::from(holds);
        if !status.condition(kind).is_some_and(same) {
            status.set(kind, holds, reason, message);
        }
    }
}

impl Compiled {
    /// What a proxy should have, given the names it asked for on demand. None: no such meshed pod.
    #[must_use]
    pub fn view(&self, pod: &PodRef, wanted: &BTreeSet<Arc<str>>) -> Option<View> {
        let class = &self.proxies.get(pod)?.class;
        let mut view = View::default();
        view.add(&class.base);
        for name in wanted {
            let Some(at) = on_demand_address(name).filter(|_| class.on_demand) else {
                if !view.resources.keys().any(|key| key.name == *name) {
                    view.absent.insert(Arc::clone(name));
                }
                continue;
            };
            match self.destinations.get(&at) {
                Some(here) => {
                    let resources =
                        client::destination(&class.caller, at, Listens::Handed, here, &self.units);
                    view.add(&[client::marked(name, at, &resources)]);
                    view.add(&resources);
                }
                None if self.pass_unknown => view.add(&[client::passthrough(name, at, &self.mesh)]),
                None => {
                    view.absent.insert(Arc::clone(name));
                }
            }
        }
        Some(view)
    }

    /// What decides requests to a port of a meshed pod: for `heddle why`, by [`evaluate`](crate::authz::evaluate).
    #[must_use]
    pub fn authz(&self, pod: &PodRef, port: Port) -> Option<&PortAuthz> {
        let input = &self.proxies.get(pod)?.class.input;
        if port == Port::METRICS {
            return Some(&input.metrics);
        }
        Some(
            input
                .ports
                .get(&port)
                .map_or(&input.rest.authz, |port| &port.authz),
        )
    }

    /// Every address that the mesh knows.
    pub fn destinations(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.destinations.keys().copied()
    }

    /// The on-demand name under which a proxy asks for an address in an hour (`%Y%m%d%H`).
    #[must_use]
    pub fn on_demand_name(at: SocketAddr, hour: &str) -> Arc<str> {
        format!("dst|{at}|{hour}").into()
    }
}

/// `dst|<ip:port>|<bucket>`
fn on_demand_address(name: &str) -> Option<SocketAddr> {
    let (address, bucket) = name.strip_prefix("dst|")?.split_once('|')?;
    let at: SocketAddr = address.parse().ok()?;
    (!bucket.is_empty()).then(|| SocketAddr::new(at.ip().to_canonical(), at.port()))
}

pub(crate) fn service_ref(name: &NamespacedName) -> ObjectRef {
    ObjectRef {
        kind: ObjectKind::Service,
        namespace: Arc::clone(&name.namespace),
        name: Arc::clone(&name.name),
    }
}

/// Compiles a world.
#[must_use]
pub fn compile(world: &World) -> Compiled {
    let mut outcome = Outcome::default();
    // The kinds, in the order in which they need each other.
    let settings = mesh::settings(world, &mut outcome);
    let splits = traffic_split::splits(world, &mut outcome);
    let policies = auth_policy::policies(world, &settings, &mut outcome);

    let units = clusters::units(&Scope {
        world,
        settings: &settings,
        splits: &splits,
    });
    let destinations = client::destinations(world, &settings.trust_domain);
    let services: Vec<&Service> = world.services.values().collect();
    let mut classes: BTreeMap<(Caller, Inbound), Arc<Class>> = BTreeMap::new();
    let mut proxies = BTreeMap::new();
    let mesh: BTreeSet<ObjectRef> = settings.origin.iter().cloned().collect();
    for workload in world.workloads.values().filter(|w| w.meshed && w.alive) {
        let identity = workload.identity(&settings.trust_domain);
        let caller = Caller {
            namespace: Arc::clone(&workload.name.namespace),
            owner: Arc::clone(&workload.owner),
            principal: identity.clone(),
        };
        let input = inbound::inbound(workload, &services, &policies, &settings, &mut outcome);
        let class = classes
            .entry((caller, input))
            .or_insert_with_key(|(caller, input)| {
                Arc::new(class(caller, input, world, &units, &mesh))
            });
        let proxy = Proxy {
            pod: workload.name.clone(),
            identity,
            ready: workload.ready,
            class: Arc::clone(class),
        };
        proxies.insert(workload.name.clone(), proxy);
    }
    let Outcome {
        statuses,
        mut findings,
    } = outcome;
    findings.sort();
    findings.dedup();
    Compiled {
        proxies,
        statuses,
        findings,
        units,
        destinations,
        pass_unknown: settings.pass_unknown,
        mesh,
    }
}

fn class(
    caller: &Caller,
    input: &Inbound,
    world: &World,
    units: &Units,
    mesh: &BTreeSet<ObjectRef>,
) -> Class {
    let mut base = server::server(input);
    match &input.capture {
        Capture::Redirect => base.extend(client::capture_listeners(mesh)),
        Capture::Standalone(standalone) => {
            for ((name, port), at) in &standalone.upstreams {
                let protocol = world
                    .services
                    .get(name)
                    .and_then(|s| s.ports.get(port))
                    .map(|p| p.protocol);
                let here = protocol.map(|protocol| client::Destination::Service {
                    name: name.clone(),
                    port: *port,
                    protocol,
                });
                base.extend(here.into_iter().flat_map(|here| {
                    client::destination(caller, *at, Listens::Bound, &here, units)
                }));
            }
        }
    }
    Class {
        caller: caller.clone(),
        on_demand: input.capture == Capture::Redirect,
        base,
        input: input.clone(),
    }
}
