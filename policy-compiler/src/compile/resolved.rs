//! Resolved destinations: from an address to its owner, and from a destination to its addresses.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::Compiled;
use super::facet::Facet;
use super::inbound::protocol_of;
use super::pods::PodGroup;
use super::scope::{Destination, DestinationKind, Family};
use super::service_targets::{PortReference, service_targets};
use crate::dependency::Dependency;
use crate::finding::ObjectRef;
use crate::world::{
    Endpoint, NamespacedName, Pod, PodTemplate, Port, Protocol, Service, in_namespace, selects,
};

/// A destination as a proxy reaches it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ResolvedDestination {
    /// Its name.
    pub(crate) destination: Destination,
    /// The protocol of its connections.
    pub(crate) protocol: Protocol,
    /// Where its connections go.
    pub(crate) target: DestinationTarget,
}

/// Where the connections of a destination go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DestinationTarget {
    /// The client side of a service port, for the second family of the service or for the first one (`None`).
    ServicePort { second_family: Option<Family> },
    /// One pod of this group, with the service ports that lead to its port.
    Pod {
        group: PodGroup,
        services: BTreeSet<(NamespacedName, Port)>,
    },
}

impl ResolvedDestination {
    fn of_service(service: &Service, port: Port, family: Family) -> Option<Self> {
        Some(Self {
            protocol: service.ports.get(&port)?.protocol,
            target: DestinationTarget::ServicePort {
                second_family: service.if_second(Some(family)),
            },
            destination: Destination {
                kind: DestinationKind::Service,
                name: service.name.clone(),
                port,
                family,
            },
        })
    }

    /// Returns the service ports that lead there; of a service port only itself.
    pub(crate) fn services(&self) -> impl Iterator<Item = (&NamespacedName, Port)> {
        let Destination { name, port, .. } = &self.destination;
        let (own, of_pod) = match &self.target {
            DestinationTarget::ServicePort { .. } => (Some((name, *port)), None),
            DestinationTarget::Pod { services, .. } => (None, Some(services)),
        };
        let of_pod = of_pod.into_iter().flatten();
        own.into_iter()
            .chain(of_pod.map(|(name, port)| (name, *port)))
    }

    /// Returns the inputs of the resolution at its address, and of its target.
    pub(crate) fn depends(&self, at: SocketAddr) -> impl Iterator<Item = Dependency> + use<> {
        let name = &self.destination.name;
        let [first, second] = match &self.target {
            DestinationTarget::ServicePort { .. } => {
                [Some(Dependency::Service(name.clone())), None]
            }
            DestinationTarget::Pod { .. } => [
                Some(Dependency::Address(at.ip().to_canonical())),
                Some(Dependency::Namespace(Arc::clone(&name.namespace))),
            ],
        };
        first.into_iter().chain(second)
    }

    /// Returns the objects that define it.
    pub(crate) fn origins(&self) -> BTreeSet<ObjectRef> {
        self.services()
            .map(|(name, _)| super::service_ref(name))
            .collect()
    }
}

impl Compiled {
    /// The destination at an address; None if the mesh does not know it.
    #[must_use]
    pub fn destination_at(&self, at: SocketAddr) -> Option<Destination> {
        Some(self.resolve(at)?.destination)
    }

    /// The address of a destination; None if it is not there now.
    #[must_use]
    pub fn address_of(&self, destination: &Destination) -> Option<SocketAddr> {
        self.locate(destination).map(|(at, _)| at)
    }

    /// Returns the address of a destination and the destination as it is reached there; `None` if it is not there now.
    pub(crate) fn locate(
        &self,
        destination: &Destination,
    ) -> Option<(SocketAddr, ResolvedDestination)> {
        let ips: &[IpAddr] = match destination.kind {
            DestinationKind::Service => &self.world.services.get(&destination.name)?.cluster_ips,
            DestinationKind::Pod => &self.world.pods.get(&destination.name)?.ips,
        };
        let ip = ips
            .iter()
            .find(|ip| Family::of(**ip) == destination.family)?;
        let at = SocketAddr::new(*ip, destination.port.get());
        let resolved = self.resolve(at)?;
        // Another may have the address, or the port.
        (resolved.destination == *destination).then_some((at, resolved))
    }

    /// Returns the clusters of a destination for the callers of a namespace, also those of the backends of rules: traffic in any of them
    /// shows that the destination is used. Pods of a service account share their clusters, and count as used together.
    #[must_use]
    pub fn clusters_of(&self, destination: &Destination, namespace: &Arc<str>) -> Vec<Arc<str>> {
        match destination.kind {
            DestinationKind::Service => {
                let service = self.world.services.get(&destination.name);
                let caller = Facet {
                    family: service.and_then(|s| s.if_second(Some(destination.family))),
                    // The names are the same for the callers of every node.
                    node: None,
                    namespace: Some(Arc::clone(namespace)),
                    bypassed: self.settings.bypasses(namespace),
                };
                self.client_side(&destination.name, destination.port, &caller)
                    .map(|side| side.clusters().cloned().collect())
                    .unwrap_or_default()
            }
            DestinationKind::Pod => self
                .address_of(destination)
                .and_then(|at| self.pod_cluster(at))
                .into_iter()
                .collect(),
        }
    }

    fn pod_cluster(&self, at: SocketAddr) -> Option<Arc<str>> {
        match self.resolve(at)?.target {
            DestinationTarget::Pod { group, .. } => Some(group.cluster_name()),
            DestinationTarget::ServicePort { .. } => None,
        }
    }

    /// Every address of a service or pod of the mesh. Looks at all of it: for tests and tools.
    pub fn destinations(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.addresses.ips().flat_map(|ip| {
            let of_services = self.addresses.services(ip).flat_map(|name| {
                let service = self.world.services.get(name);
                service.into_iter().flat_map(|s| s.ports.keys().copied())
            });
            let pod = self.addresses.pod(ip);
            let pod = pod.and_then(|pod| self.world.pods.get(pod));
            let of_pod = pod.into_iter().flat_map(|pod| self.pod_ports(pod));
            let ports: BTreeSet<Port> = of_services.chain(of_pod).collect();
            ports
                .into_iter()
                .map(move |port| SocketAddr::new(ip, port.get()))
        })
    }

    /// Returns the destination at an address, with its target; `None` if the mesh has none there.
    pub(crate) fn resolve(&self, at: SocketAddr) -> Option<ResolvedDestination> {
        let ip = at.ip().to_canonical();
        let port = Port::try_from(i32::from(at.port())).ok()?;
        let mut services = self.addresses.services(ip);
        let service = services.find_map(|name| {
            let service = self.world.services.get(name)?;
            ResolvedDestination::of_service(service, port, Family::of(ip))
        });
        service.or_else(|| {
            let pod = self.world.pods.get(self.addresses.pod(ip)?)?;
            self.resolve_pod(pod, port, ip)
        })
    }

    /// Returns a port of a service, reached by its first family.
    pub(crate) fn resolve_service(
        &self,
        name: &NamespacedName,
        port: Port,
    ) -> Option<ResolvedDestination> {
        let service = self.world.services.get(name)?;
        let family = service.reached_by(None).unwrap_or(Family::V4);
        ResolvedDestination::of_service(service, port, family)
    }

    /// Returns the port of a headless service that lists this address without a pod in its slice. Callers dial the address itself.
    pub(crate) fn headless_at(&self, at: SocketAddr) -> Option<(&NamespacedName, Port)> {
        let ip = at.ip().to_canonical();
        let leads_here = |endpoint: &Endpoint| {
            endpoint.pod.is_none()
                && endpoint.port.get() == at.port()
                && endpoint.ip.to_canonical() == ip
        };
        self.named_by_address.at(ip).find_map(|name| {
            let service = self.world.services.get(name).filter(|s| s.headless)?;
            let by_port = self.world.endpoints(name)?;
            let mut ports = service.ports.values();
            let port = ports.find(|port| {
                let list = by_port.get(&port.name);
                list.is_some_and(|list| list.iter().any(leads_here))
            })?;
            Some((name, port.port))
        })
    }

    fn resolve_pod(&self, pod: &Pod, port: Port, ip: IpAddr) -> Option<ResolvedDestination> {
        let template = &pod.template;
        let services = self.services_selecting(template);
        let targets = service_targets(&services, template);
        let headless = self.headless_at(SocketAddr::new(ip, port.get()));
        if !dialled(template, port, targets.get(&port)) && headless.is_none() {
            return None;
        }
        let protocol = if port == Port::METRICS {
            Protocol::Http
        } else {
            protocol_of(port, &targets, template)
        };
        let references = targets.get(&port).into_iter().flatten();
        let references = references.map(|s| (s.service.name.clone(), s.port));
        let headless = headless.map(|(name, port)| (name.clone(), port));
        Some(ResolvedDestination {
            protocol,
            target: DestinationTarget::Pod {
                group: PodGroup::of(template, protocol),
                services: references.chain(headless).collect(),
            },
            destination: Destination {
                kind: DestinationKind::Pod,
                name: pod.name.clone(),
                port,
                family: Family::of(ip),
            },
        })
    }

    fn pod_ports(&self, pod: &Pod) -> BTreeSet<Port> {
        let services = self.services_selecting(&pod.template);
        let targets = service_targets(&services, &pod.template);
        let own = pod.template.ports.iter().map(|p| p.port);
        let all = own.chain(targets.keys().copied()).chain([Port::METRICS]);
        all.filter(|port| dialled(&pod.template, *port, targets.get(port)))
            .collect()
    }

    fn services_selecting<'a>(&'a self, template: &'a PodTemplate) -> Vec<&'a Service> {
        if let Some(served) = self.compiled_template(template) {
            let services = served.services.iter();
            return services
                .filter_map(|name| self.world.services.get(name))
                .map(|service| &**service)
                .collect();
        }
        let namespace = in_namespace(&self.world.services, &template.namespace);
        let services = namespace.map(|(_, service)| &**service);
        services
            .filter(|service| selects(&service.selector, &template.labels))
            .collect()
    }
}

/// Returns whether a port of a pod is a destination: with a sidecar every declared port, without one only the ports that headless
/// services lead to.
fn dialled(
    template: &PodTemplate,
    port: Port,
    references: Option<&Vec<PortReference<'_>>>,
) -> bool {
    if template.meshed {
        port == Port::METRICS
            || references.is_some()
            || template.ports.iter().any(|p| p.port == port)
    } else {
        references.is_some_and(|all| all.iter().any(|reference| reference.service.headless))
    }
}
