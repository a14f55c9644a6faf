//! The inputs of views.

use std::net::IpAddr;
use std::sync::Arc;

use crate::world::{NamespacedName, PodRef};

/// Something that views are made from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dependency {
    /// The pod itself: it came or went; its inbound config, identity or readiness changed.
    Pod(PodRef),
    /// The client's side of a service, its addresses, or its caller filters.
    Service(NamespacedName),
    /// The owner of an address.
    Address(IpAddr),
    /// The definitions of a namespace's services: they declare the protocols of its pods' ports.
    Namespace(Arc<str>),
    /// The hosts outside the mesh for the workloads of a namespace; for those of namespaces that no object names (`None`).
    Egress(Option<Arc<str>>),
}
