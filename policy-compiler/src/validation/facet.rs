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
    /// Callers of this namespace, which has routes of its own for the port; None: of every namespace without such routes. The route
    /// configuration has the same name, for a proxy is of one namespace.
    pub(crate) namespace: Option<Arc<str>>,
}

/// A port of a service as some of its callers see it.
pub(crate) type OutPort = (Port, Facet);

/// The entry for a caller. A namespace with routes of its own has an entry for callers on other nodes, too.
pub(crate) fn for_caller<'a, V>(
    map: &'a BTreeMap<OutPort, V>,
    port: Port,
    caller: &Facet,
) -> Option<&'a V> {
    let of = |namespace: Option<&Arc<str>>, node: Option<&Arc<str>>| {
        let facet = Facet {
            family: caller.family,
            node: node.cloned(),
            namespace: namespace.cloned(),
        };
        map.get(&(port, facet))
    };
    let at = |namespace: Option<&Arc<str>>| {
        let local = caller
            .node
            .as_ref()
            .and_then(|node| of(namespace, Some(node)));
        local.or_else(|| of(namespace, None))
    };
    let own = caller.namespace.as_ref();
    own.and_then(|own| at(Some(own))).or_else(|| at(None))
}

/// Returns the values of a port that an entry may equal: its own old one first, then those of other callers, old and new. So equal
/// values are shared, and a caller that changes its kind keeps the values that do not differ.
pub(crate) fn candidates<'a, V>(
    old: Option<&'a BTreeMap<OutPort, V>>,
    new: &'a BTreeMap<OutPort, V>,
    key: &OutPort,
) -> Vec<&'a V> {
    let of_port = |map: &'a BTreeMap<OutPort, V>| {
        let from = (key.0, Facet::default());
        map.range(from..)
            .take_while(|((port, _), _)| *port == key.0)
            .map(|(_, value)| value)
    };
    let own = old.and_then(|old| old.get(key));
    let others = old.into_iter().flat_map(of_port);
    own.into_iter().chain(others).chain(of_port(new)).collect()
}

/// How a caller reaches endpoints.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller<'a> {
    /// The family of the address that was called; None: not known.
    pub(crate) family: Option<Family>,
    pub(crate) node: Node<'a>,
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
    /// A caller of a service.
    pub(crate) fn of(service: &Service, facet: &'a Facet) -> Self {
        Self {
            family: facet.family.or_else(|| service.families.first().copied()),
            node: Node::At(facet.node.as_deref()),
        }
    }
}
