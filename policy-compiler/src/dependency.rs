//! The inputs of views.

use std::net::IpAddr;
use std::sync::Arc;

use crate::world::{NamespacedName, PodRef};

/// Something that views are made from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dependency {
    /// The pod itself: it came or went; its class, identity or readiness changed.
    Pod(PodRef),
    /// The client's side of a service, its addresses, or whom it admits.
    Service(NamespacedName),
    /// Who owns an address.
    Address(IpAddr),
    /// The definitions of a namespace's services: they say what the ports of its pods speak.
    Namespace(Arc<str>),
}
