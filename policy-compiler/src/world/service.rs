//! Services and their endpoints as the mesh sees them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::names::{Labels, NamespacedName, PodRef, Port};
use super::protocol::Protocol;

/// A TCP port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// The port clients dial.
    pub port: Port,
    /// Its name; empty for the only, unnamed port.
    pub name: Arc<str>,
    /// What it speaks.
    pub protocol: Protocol,
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
    /// The pods' labels; empty for services whose endpoints someone else writes.
    pub selector: Labels,
    /// `publishNotReadyAddresses`.
    pub publish_not_ready: bool,
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
