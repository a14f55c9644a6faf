//! Services and their endpoints as the mesh sees them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::family::Family;
use super::names::{Labels, NamespacedName, PodRef, Port};
use super::protocol::Protocol;
use super::workload::OtherTransport;

/// A TCP port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// The port clients dial.
    pub port: Port,
    /// Its name; empty for the only, unnamed port.
    pub name: Arc<str>,
    /// The declared protocol.
    pub protocol: Protocol,
    /// Where it leads in the pod.
    pub target: TargetPort,
}

/// A port of a service that no sidecar captures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherServicePort {
    /// The port clients dial.
    pub port: Port,
    /// Its transport.
    pub transport: OtherTransport,
    /// Where it leads in the pod.
    pub target: TargetPort,
}

/// `targetPort`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    /// By number.
    Number(Port),
    /// By the name of a container port.
    Name(Arc<str>),
}

/// A service, `ExternalName` excepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Namespace and name.
    pub name: NamespacedName,
    /// Cluster addresses; empty for headless services.
    pub cluster_ips: Vec<IpAddr>,
    /// `clusterIP: None`.
    pub headless: bool,
    /// TCP ports, by number.
    pub ports: BTreeMap<Port, ServicePort>,
    /// Ports of UDP and SCTP, in the order of the object.
    pub other_ports: Vec<OtherServicePort>,
    /// The pods' labels; empty for services with endpoints that another component writes.
    pub selector: Labels,
    /// `publishNotReadyAddresses`.
    pub publish_not_ready: bool,
    /// The families of its addresses, the first one first; empty while they are not known.
    pub families: Vec<Family>,
    /// `internalTrafficPolicy: Local`: a caller reaches endpoints on its own node only.
    pub local: bool,
    /// `sessionAffinity: ClientIP`: a caller stays with one endpoint.
    pub sticky: bool,
    /// The wish for endpoints near the caller.
    pub near: Option<Near>,
    /// The field with addresses that lead here from outside of the cluster, which the mesh does not read.
    pub external: Option<ExternalAddresses>,
}

/// A wish for endpoints near the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Near {
    /// `spec.trafficDistribution`: those of the caller's zone, as long as there is one.
    Zone,
    /// `PreferSameNode` of the same field, which the mesh takes for the zone.
    Node,
    /// The field of a wish that the mesh does not read.
    Unread(&'static str),
}

impl Near {
    /// Whether endpoints of the caller's zone come first.
    pub(crate) const fn by_zone(self) -> bool {
        matches!(self, Self::Zone | Self::Node)
    }
}

/// A field with addresses of a service beside those of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExternalAddresses {
    /// `spec.externalIPs`.
    ExternalIps,
    /// `status.loadBalancer.ingress`.
    LoadBalancer,
}

impl Service {
    /// Whether callers prefer endpoints of their own zone.
    pub(crate) fn by_zone(&self) -> bool {
        self.near.is_some_and(Near::by_zone)
    }

    /// Returns the family of the endpoints for a call to an address of this family: the same family, or the first one if the service
    /// does not have it (a backend of a split may have fewer families than the split service). `None`: the families are not known, and
    /// all endpoints count.
    pub(crate) fn reached_by(&self, called: Option<Family>) -> Option<Family> {
        let same = called.filter(|family| self.families.contains(family));
        same.or_else(|| self.families.first().copied())
    }

    /// The reason for which a port is not one of the mesh's.
    pub(crate) fn not_a_port(&self, port: Port) -> String {
        let mut others = self.other_ports.iter();
        match others.find(|other| other.port == port) {
            Some(other) => format!(
                "port {port} of service {} is {}, which no sidecar captures",
                self.name, other.transport
            ),
            None => format!("{port} is not a port of service {}", self.name),
        }
    }

    /// The second family of a dual-stack service.
    pub(crate) fn second_family(&self) -> Option<Family> {
        self.families.get(1).copied()
    }

    /// The same family, if it is the second one.
    pub(crate) fn if_second(&self, called: Option<Family>) -> Option<Family> {
        self.second_family()
            .filter(|second| Some(*second) == called)
    }
}

/// One address behind one port of a service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// The address.
    pub ip: IpAddr,
    /// The port there.
    pub port: Port,
    /// The pod of the service's namespace that the slice names.
    pub pod: Option<PodRef>,
    /// The node that the slice names.
    pub node: Option<Arc<str>>,
    /// The zone that the slice names.
    pub zone: Option<Arc<str>>,
    /// Takes new traffic.
    pub ready: bool,
    /// Still answers (also while terminating).
    pub serving: bool,
    /// Shutting down.
    pub terminating: bool,
}

impl Endpoint {
    /// Whether both are copies of one address and port.
    pub(crate) fn same_place(&self, other: &Self) -> bool {
        self.ip == other.ip && self.port == other.port
    }
}

/// The endpoints of one service by the name of the service's port. Copies of one address and port stand together; several are left only
/// where no slice is known to be newer, or where the copies name different pods.
pub type EndpointsByPort = BTreeMap<Arc<str>, Vec<Endpoint>>;
