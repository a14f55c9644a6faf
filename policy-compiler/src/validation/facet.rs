//! Callers for which a service port is compiled apart: they get other endpoints, or have rules of their own.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::world::{Family, Port, Service};

/// The callers for which a service port is the same. Almost every port has only the default ones.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Facet {
    /// Callers of the service's second family; None: of its first, or only one. Clusters and routes of the second family have names of
    /// their own.
    pub(crate) family: Option<Family>,
    /// Callers on this node, where `internalTrafficPolicy: Local` counts; None: on every node without a local endpoint. The names are the
    /// same, for a proxy is on one node.
    pub(crate) node: Option<Arc<str>>,
    /// Callers of this namespace, which has routes or traffic policies of its own for the port; None: of every namespace without. The route
    /// configuration has the same name, for a proxy is of one namespace.
    pub(crate) namespace: Option<Arc<str>>,
    /// Callers of the namespaces that the mesh bypasses: without rules and policies. The names are the same. Only ports with rules or policies
    /// have such callers apart.
    pub(crate) bypassed: bool,
}

/// The callers of a port that have rules or policies of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Callers<'a> {
    /// Those without rules and policies of their own.
    All,
    /// Those of a namespace with routes or traffic policies of its own.
    Of(&'a Arc<str>),
    /// Those of bypassed namespaces.
    Bypassed,
}

impl<'a> Callers<'a> {
    pub(crate) const fn of(namespace: Option<&'a Arc<str>>) -> Self {
        match namespace {
            None => Self::All,
            Some(namespace) => Self::Of(namespace),
        }
    }

    /// The namespace with routes of its own.
    pub(crate) const fn namespace(self) -> Option<&'a Arc<str>> {
        match self {
            Self::Of(namespace) => Some(namespace),
            Self::All | Self::Bypassed => None,
        }
    }
}

/// A port of a service as some of its callers see it.
pub(crate) type OutPort = (Port, Facet);

/// The entry for a caller. A namespace with routes of its own has an entry for callers on other nodes, too.
pub(crate) fn for_caller<'a, V>(
    map: &'a BTreeMap<OutPort, V>,
    port: Port,
    caller: &Facet,
) -> Option<&'a V> {
    let of = |namespace: Option<&Arc<str>>, bypassed: bool, node: Option<&Arc<str>>| {
        let facet = Facet {
            family: caller.family,
            node: node.cloned(),
            namespace: namespace.cloned(),
            bypassed,
        };
        map.get(&(port, facet))
    };
    let at = |namespace: Option<&Arc<str>>, bypassed: bool| {
        let local = caller
            .node
            .as_ref()
            .and_then(|node| of(namespace, bypassed, Some(node)));
        local.or_else(|| of(namespace, bypassed, None))
    };
    let own = match (caller.bypassed, &caller.namespace) {
        (true, _) => at(None, true),
        (false, Some(own)) => at(Some(own), false),
        (false, None) => None,
    };
    own.or_else(|| at(None, false))
}

/// How a caller reaches endpoints.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller<'a> {
    /// The family of the address that was called; None: not known.
    pub(crate) family: Option<Family>,
    pub(crate) node: Node<'a>,
    /// Whether the mesh bypasses its namespace.
    pub(crate) bypassed: bool,
}

/// The node of a caller.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Node<'a> {
    /// Endpoints of all nodes, for counts.
    Any,
    /// None: one without local endpoints.
    At(Option<&'a str>),
}

impl<'a> Caller<'a> {
    /// Callers of all nodes, for counts.
    pub(crate) const fn any(family: Option<Family>) -> Self {
        Self {
            family,
            node: Node::Any,
            bypassed: false,
        }
    }

    /// A caller of a service.
    pub(crate) fn of(service: &Service, facet: &'a Facet) -> Self {
        Self {
            family: facet.family.or_else(|| service.families.first().copied()),
            node: Node::At(facet.node.as_deref()),
            bypassed: facet.bypassed,
        }
    }
}
