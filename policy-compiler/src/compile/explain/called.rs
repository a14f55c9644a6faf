//! The destination of a call, resolved to the objects of the world.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::explanation::{CalledDestination, NamedBy, OutsideHost};
use crate::traffic::ExternalHost;
use crate::world::{Family, Pod, Port, Protocol, Service};

/// The destination of a call.
pub(super) enum Called<'a> {
    /// A port of a service that is called by the address of the service.
    Service {
        service: &'a Service,
        port: Port,
        protocol: Protocol,
        second_family: Option<Family>,
    },
    /// A port of one pod.
    Pod {
        pod: &'a Pod,
        port: Port,
        protocol: Protocol,
    },
    /// A port of the pods of a headless service.
    Headless {
        service: &'a Service,
        port: Port,
        protocol: Protocol,
    },
    /// An address that the mesh does not know.
    Unknown(SocketAddr),
    /// A host outside that an object names, by this name.
    External(&'a ExternalHost, String),
    /// A host outside that no object names for the caller, with its port and the objects that name it otherwise.
    Named(String, u16, BTreeSet<NamedBy>),
}

impl Called<'_> {
    /// Returns the destination as an explanation names it.
    pub(super) fn destination(&self) -> CalledDestination {
        match self {
            Called::Service {
                service,
                port,
                protocol,
                ..
            } => CalledDestination::Service(service.name.clone(), *port, *protocol),
            Called::Headless {
                service,
                port,
                protocol,
            } => CalledDestination::Pods(service.name.clone(), *port, *protocol),
            Called::Pod {
                pod,
                port,
                protocol,
            } => CalledDestination::Pods(pod.name.clone(), *port, *protocol),
            Called::Unknown(at) => CalledDestination::Unknown(at.ip(), at.port()),
            Called::External(host, name) => {
                CalledDestination::External(OutsideHost::new(host, name))
            }
            Called::Named(name, port, by) => {
                CalledDestination::Named(name.clone(), *port, by.clone())
            }
        }
    }
}
