//! The servers that sidecars call for the mesh itself: the collector of telemetry, the rate limit service.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::traffic::is_private;
use crate::world::{NamespacedName, Port};

/// A server that sidecars call for the mesh itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum CalledServer {
    /// A port of a service.
    Service(NamespacedName, Port),
    /// A host outside the mesh.
    Outside(Outside),
}

/// A port of a host outside the mesh.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Outside {
    /// The host.
    pub(crate) host: Host,
    /// The port.
    pub(crate) port: Port,
    /// TLS to it. None: plain text.
    pub(crate) tls: Option<HostTls>,
}

impl Outside {
    /// Whether bytes to it leave the cluster in plain text, as far as its address or name shows.
    pub(crate) fn is_readable_outside(&self, cluster_domain: &str) -> bool {
        let is_near = match &self.host {
            Host::Ip(ip) => ip.is_loopback() || is_private(IpNet::from(*ip)),
            Host::Name(name) => {
                let mut labels = name.split('.');
                name.ends_with(&format!(".{cluster_domain}")) || labels.any(|label| label == "svc")
            }
        };
        self.tls.is_none() && !is_near
    }
}

/// TLS to a host outside the mesh.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct HostTls {
    /// The certificates of the authorities, in PEM. None: those of the sidecar's image.
    pub(crate) authorities: Option<Arc<str>>,
}

impl CalledServer {
    /// Whether it is a port of this service.
    pub(crate) fn is(&self, service: &NamespacedName, port: Port) -> bool {
        matches!(self, Self::Service(name, number) if name == service && *number == port)
    }

    /// Whether it is a service with this name.
    pub(crate) fn is_service(&self, service: &NamespacedName) -> bool {
        matches!(self, Self::Service(name, _) if name == service)
    }

    /// The service and the port.
    pub(crate) const fn service(&self) -> Option<(&NamespacedName, Port)> {
        match self {
            Self::Service(name, port) => Some((name, *port)),
            Self::Outside(_) => None,
        }
    }

    /// The host outside the mesh.
    pub(crate) const fn outside(&self) -> Option<&Outside> {
        match self {
            Self::Outside(host) => Some(host),
            Self::Service(..) => None,
        }
    }
}

/// A host outside the mesh.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Host {
    /// An address.
    Ip(IpAddr),
    /// A DNS name.
    Name(Arc<str>),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

impl Host {
    /// Reads a host: an address, else a name.
    pub(crate) fn of(text: &str) -> Self {
        let ip = text.parse().map(Self::Ip);
        ip.unwrap_or_else(|_| Self::Name(text.into()))
    }
}
