//! Pods as the mesh sees them.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::names::{Labels, NamespacedName, PodRef, Port, SpiffeId};

/// How the bytes get into and out of a pod's sidecar.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Capture {
    /// All traffic is redirected to the sidecar by rules in the pod.
    Redirect,
    /// No redirection: listeners are bound where the annotations say.
    Standalone(Standalone),
}

/// Where the listeners of an uncaptured pod are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Standalone {
    /// The address the application itself listens on.
    pub app: IpAddr,
    /// Service and port, and where the sidecar listens for it.
    pub upstreams: BTreeMap<(NamespacedName, Port), SocketAddr>,
}

/// How the kubelet asks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProbeKind {
    /// `GET` of exactly this path (without its query).
    Http {
        /// Path without query.
        path: Arc<str>,
    },
    /// `POST /grpc.health.v1.Health/Check`.
    Grpc,
    /// HTTPS to the application: opaque to the sidecar.
    Https,
    /// A connection.
    Tcp,
}

/// One probe of one container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Probe {
    /// The port, resolved if it was named.
    pub port: Port,
    /// How.
    pub kind: ProbeKind,
}

/// A declared container port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ContainerPort {
    /// The number.
    pub port: Port,
    /// The name, if any.
    pub name: Option<Arc<str>>,
}

/// A pod, or (offline) the pod template of a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Namespace and pod name.
    pub name: PodRef,
    /// The pod's addresses.
    pub ips: Vec<IpAddr>,
    /// The pod's labels.
    pub labels: Labels,
    /// `spec.serviceAccountName`, `default` when unset.
    pub service_account: Arc<str>,
    /// The name of the workload that owns the pod (`reviews` for `reviews-7d4b9c-x2x1z`), else the pod's own.
    pub owner: Arc<str>,
    /// Whether a sidecar of ours is in it.
    pub meshed: bool,
    /// Capture or standalone.
    pub capture: Capture,
    /// `Ready` condition.
    pub ready: bool,
    /// Not in a final phase and not being deleted.
    pub alive: bool,
    /// Declared TCP container ports, sorted.
    pub ports: Vec<ContainerPort>,
    /// Probes, sorted and without repetition.
    pub probes: Vec<Probe>,
}

impl Workload {
    /// The pod's identity in a trust domain.
    #[must_use]
    pub fn identity(&self, trust_domain: &str) -> SpiffeId {
        SpiffeId::new(trust_domain, &self.name.namespace, &self.service_account)
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
