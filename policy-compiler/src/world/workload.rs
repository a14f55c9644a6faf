//! Pods as the mesh sees them.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::declared_destinations::DeclaredDestination;
use super::names::{Labels, NamespacedName, PodRef, Port, SpiffeId, WorkloadRef};

/// How the bytes get into and out of a pod's sidecar.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Capture {
    /// All traffic is redirected to the sidecar by rules in the pod.
    Redirect,
    /// No redirection: listeners are bound where the annotations say.
    Standalone(Standalone),
}

/// Where the listeners of an uncaptured pod are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Standalone {
    /// The address the application itself listens on.
    pub app: IpAddr,
    /// The pod's own addresses, which the sidecar binds itself.
    pub binds: Vec<IpAddr>,
    /// Service and port, and where the sidecar listens for it.
    pub upstreams: BTreeMap<(NamespacedName, Port), SocketAddr>,
}

/// The request that a probe or a lifecycle hook sends.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProbeKind {
    /// `GET` of exactly this path and query.
    Http {
        /// Path with query.
        path: Arc<str>,
    },
    /// `POST /grpc.health.v1.Health/Check`.
    Grpc,
    /// The same in TLS of the application's own.
    Https {
        /// Path with query.
        path: Arc<str>,
    },
    /// A connection.
    Tcp,
}

/// One request of the kubelet: a probe, or a lifecycle hook, of one container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Probe {
    /// The port, resolved if it was named.
    pub port: Port,
    /// How.
    pub kind: ProbeKind,
}

/// A declared container port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerPort {
    /// The number.
    pub port: Port,
    /// The name, if any.
    pub name: Option<Arc<str>>,
}

/// A transport that capture does not redirect: its packets reach the application past the sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OtherTransport {
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl OtherTransport {
    /// Reads the `protocol` of a port. `None`: it is TCP, or not a protocol of Kubernetes.
    pub(crate) fn of(protocol: &str) -> Option<Self> {
        match protocol {
            "UDP" => Some(Self::Udp),
            "SCTP" => Some(Self::Sctp),
            _ => None,
        }
    }
}

impl fmt::Display for OtherTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

/// A declared container port that no sidecar captures.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OtherPort {
    /// The number.
    pub port: Port,
    /// Its transport.
    pub transport: OtherTransport,
    /// The name, if any.
    pub name: Option<Arc<str>>,
}

/// The properties that all pods of one template have in common. They share one copy of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PodTemplate {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The name of the workload that owns the pod (`reviews` for `reviews-7d4b9c-x2x1z`), else the pod's own.
    pub owner: Arc<str>,
    /// `spec.serviceAccountName`, `default` when unset.
    pub service_account: Arc<str>,
    /// Whether a sidecar of ours is in it.
    pub meshed: bool,
    /// The pod's labels.
    pub labels: Labels,
    /// Capture or standalone.
    pub capture: Capture,
    /// Declared TCP container ports, sorted.
    pub ports: Vec<ContainerPort>,
    /// Declared container ports of UDP and SCTP, sorted.
    pub other_ports: Box<[OtherPort]>,
    /// Probes, sorted and without repetition.
    pub probes: Vec<Probe>,
    /// Inbound ports that are not captured, sorted.
    pub uncaptured: Box<[Port]>,
    /// The annotation `heddle.dev/destinations`, sorted. None: it is not there.
    pub destinations: Option<Vec<DeclaredDestination>>,
}

/// Compares field by field. Interned templates that are equal are the same, and their fields are not compared.
impl Ord for PodTemplate {
    fn cmp(&self, other: &Self) -> Ordering {
        if std::ptr::eq(self, other) {
            return Ordering::Equal;
        }
        self.fields().cmp(&other.fields())
    }
}

impl PartialOrd for PodTemplate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PodTemplate {
    /// Every field, in the order of comparison.
    fn fields(&self) -> impl Ord {
        let Self {
            namespace,
            owner,
            service_account,
            meshed,
            labels,
            capture,
            ports,
            other_ports,
            probes,
            uncaptured,
            destinations,
        } = self;
        (
            (namespace, owner, service_account, meshed, labels),
            (
                capture,
                ports,
                other_ports,
                probes,
                uncaptured,
                destinations,
            ),
        )
    }

    /// The identity of its pods in a trust domain.
    #[must_use]
    pub fn identity(&self, trust_domain: &str) -> SpiffeId {
        SpiffeId::new(trust_domain, &self.namespace, &self.service_account)
    }

    /// The workload that people deployed.
    #[must_use]
    pub fn workload(&self) -> WorkloadRef {
        WorkloadRef {
            namespace: Arc::clone(&self.namespace),
            name: Arc::clone(&self.owner),
        }
    }

    /// The port of that name.
    #[must_use]
    pub fn port_named(&self, name: &str) -> Option<Port> {
        self.ports
            .iter()
            .find(|p| p.name.as_deref() == Some(name))
            .map(|p| p.port)
    }
}

/// A pod, or (offline) the pod template of a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Namespace and pod name.
    pub name: PodRef,
    /// The pod's addresses.
    pub ips: Box<[IpAddr]>,
    /// `Ready` condition.
    pub ready: bool,
    /// Not in a final phase: containers run, or will. A terminating pod is alive until its containers have ended.
    pub alive: bool,
    /// Being deleted: its containers have been asked to end.
    pub terminating: bool,
    /// `metadata.uid`, only of a pod that is being deleted: it distinguishes the ends of pods of one name.
    pub uid: Option<Arc<str>>,
    /// `spec.nodeName`.
    pub node: Option<Arc<str>>,
    /// All else.
    pub template: Arc<PodTemplate>,
}

impl Pod {
    /// Whether a proxy of ours runs in it.
    #[must_use]
    pub fn proxied(&self) -> bool {
        self.alive && self.template.meshed
    }
}
