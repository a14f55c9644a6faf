//! The destination of a call, by the host of its URL.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::super::Compiled;
use super::super::resolved::DestinationTarget;
use super::called::Called;
use super::explanation::{Call, Unexplained};
use crate::world::{NamespacedName, Pod, PodRef, Port, Protocol, Service, in_namespace};

/// So many names are listed in a message.
const NAMED: usize = 5;

impl Compiled {
    /// Finds the destination of a call from a namespace.
    pub(super) fn called(
        &self,
        call: &Call,
        namespace: &Arc<str>,
    ) -> Result<Called<'_>, Unexplained> {
        if let Ok(ip) = call.host.parse::<IpAddr>() {
            let found = self.called_address(SocketAddr::new(ip, call.port))?;
            // Of an address that the mesh does not know, the name in the request decides.
            return Ok(match (found, self.external_host(call, namespace)) {
                (Called::Unknown(_), Some(host)) => Called::External(host, call.host_header()),
                (found, _) => found,
            });
        }
        let name = match self.service_name(&call.host, namespace) {
            Ok(name) => name,
            Err(error) => return self.called_outside(call, namespace, error),
        };
        let Some(service) = self.world.services.get(&name) else {
            return self.called_outside(call, namespace, self.no_service(call, &name));
        };
        let (port, protocol) = port_of(service, call.port)?;
        Ok(match service.headless {
            true => Called::Headless {
                service,
                port,
                protocol,
            },
            false => Called::Service {
                service,
                port,
                protocol,
                second_family: None,
            },
        })
    }

    fn called_address(&self, at: SocketAddr) -> Result<Called<'_>, Unexplained> {
        let Some(resolved) = self.resolve(at) else {
            let ip = at.ip().to_canonical();
            let mut services = self.addresses.services(ip);
            let service = services.find_map(|name| self.world.services.get(name));
            return match service {
                Some(service) => port_of(service, at.port()).map(|_| Called::Unknown(at)),
                None => Ok(Called::Unknown(at)),
            };
        };
        let (name, port) = (&resolved.destination.name, resolved.destination.port);
        let protocol = resolved.protocol;
        let found = match resolved.target {
            DestinationTarget::ServicePort { second_family } => {
                let service = self.world.services.get(name);
                service.map(|service| Called::Service {
                    service,
                    port,
                    protocol,
                    second_family,
                })
            }
            DestinationTarget::Pod { .. } => self.world.pods.get(name).map(|pod| Called::Pod {
                pod,
                port,
                protocol,
            }),
        };
        Ok(found.unwrap_or(Called::Unknown(at)))
    }

    /// The service that a host means for a caller of a namespace, as its resolver completes it.
    fn service_name(&self, host: &str, namespace: &str) -> Result<NamespacedName, Unexplained> {
        let lower = host.to_ascii_lowercase();
        let bare = lower.strip_suffix('.').unwrap_or(&lower);
        let in_cluster = format!(".svc.{}", self.mesh_spec.cluster_domain);
        let bare = bare.strip_suffix(&*in_cluster).unwrap_or(bare);
        let bare = bare.strip_suffix(".svc").unwrap_or(bare);
        let parts: Vec<&str> = bare.split('.').collect();
        match &*parts {
            [name] => Ok(NamespacedName::new(namespace, name)),
            [name, namespace] => Ok(NamespacedName::new(namespace, name)),
            _ => Err(Unexplained::new(
                format!("{host} is not the name of a service"),
                "write NAME, NAME.NAMESPACE or NAME.NAMESPACE.svc, or call an address outside, and a single pod, by IP:PORT",
            )),
        }
    }

    fn no_service(&self, call: &Call, name: &NamespacedName) -> Unexplained {
        if let Some(host) = self.world.external.get(name) {
            return Unexplained::new(
                format!("{name} is not a service of the mesh, but of type ExternalName"),
                format!("call an address of {host} by IP:PORT"),
            );
        }
        let all = in_namespace(&self.world.services, &name.namespace);
        let names = listed(all.map(|(name, _)| name));
        let fix = match names {
            Some(names) => format!("namespace {} has {names}", name.namespace),
            None => format!("no service of namespace {} is known", name.namespace),
        };
        let message = format!("{} is not a known service ({name})", call.host);
        Unexplained::new(
            message,
            format!("correct the host, or add the service: {fix}"),
        )
    }

    /// The pod of a name, else the first pod of the workload of that name.
    pub(super) fn sender(&self, from: &NamespacedName) -> Result<&Pod, Unexplained> {
        let alive = |pod: &&Pod| pod.alive;
        let pods = || in_namespace(&self.world.pods, &from.namespace).map(|(_, pod)| &**pod);
        let mut of_workload = pods()
            .filter(alive)
            .filter(|pod| pod.template.workload() == *from);
        let exact = self.world.pods.get(from).map(|pod| &**pod).filter(alive);
        let name = exact.or_else(|| of_workload.next()).map(|pod| &pod.name);
        let found = name.and_then(|name| self.world.pods.get(name));
        found.map(|pod| &**pod).ok_or_else(|| {
            let mut names: Vec<PodRef> = pods().map(|pod| pod.template.workload()).collect();
            names.dedup();
            let fix = listed(names.iter()).map_or_else(
                || format!("no workload of namespace {} is known", from.namespace),
                |names| format!("namespace {} has {names}", from.namespace),
            );
            let message = format!("{from} is not a known workload or pod");
            Unexplained::new(
                message,
                format!("correct --from, or add the workload: {fix}"),
            )
        })
    }
}

fn port_of(service: &Service, number: u16) -> Result<(Port, Protocol), Unexplained> {
    let port = Port::try_from(i32::from(number)).ok();
    let found = port.and_then(|port| Some((port, service.ports.get(&port)?.protocol)));
    found.ok_or_else(|| {
        let ports: Vec<String> = service.ports.keys().map(ToString::to_string).collect();
        let name = &service.name;
        Unexplained::new(
            match port {
                Some(port) => service.not_a_port(port),
                None => format!("{number} is not a port of service {name}"),
            },
            format!("call port {}", ports.join(" or ")),
        )
    })
}

fn listed<'a>(names: impl Iterator<Item = &'a NamespacedName>) -> Option<String> {
    let names: Vec<&str> = names.map(|name| &*name.name).collect();
    let first = names.get(..NAMED.min(names.len()))?.join(", ");
    match names.len() {
        0 => None,
        all if all > NAMED => Some(format!("{first} and {} more", all - NAMED)),
        _ => Some(first),
    }
}
