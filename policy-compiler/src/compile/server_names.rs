//! The clusters of ports with rules for server names of TLS: one for each rule, with its weights in the endpoints. The listener chooses by
//! name, so it changes with the names, and not with the weights or the endpoints.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::cluster_inputs::ClusterInputs;
use super::facet::OutPort;
use super::rule_upstreams::of_connections;
use super::upstreams::{ClusterAndEndpoints, KnownClusters};
use crate::traffic::{RouteEntry, RuleId, by_server_name};
use crate::world::Service;

/// The server names of a rule, and the cluster of their connections.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct NamedCluster {
    /// As Envoy writes them.
    pub(crate) names: Vec<Arc<str>>,
    pub(crate) cluster: Arc<str>,
}

/// The clusters of the rules of a port for server names, and their names. None: it has no such rule, and takes all connections.
pub(super) fn named(
    scene: &ClusterInputs<'_>,
    service: &Service,
    key: &OutPort,
    rules: &[&RouteEntry],
    known: &mut KnownClusters,
) -> Option<(Vec<ClusterAndEndpoints>, Arc<[NamedCluster]>)> {
    let entries = by_server_name(rules.iter().copied());
    let mut by_rule = BTreeMap::<&RuleId, (&RouteEntry, Vec<Arc<str>>)>::new();
    for entry in entries {
        let name = entry.matcher.server_name.iter();
        let (_, names) = by_rule.entry(&entry.rule.id).or_insert((entry, Vec::new()));
        names.extend(name.map(|name| name.to_string().into()));
    }
    if by_rule.is_empty() {
        return None;
    }
    let mut clusters = Vec::new();
    let mut named = Vec::new();
    for (entry, names) in by_rule.into_values() {
        let pair = of_connections(scene, service, key, &entry.rule, known);
        let cluster = Arc::clone(pair.name());
        clusters.push(pair);
        named.push(NamedCluster { names, cluster });
    }
    Some((clusters, named.into()))
}
