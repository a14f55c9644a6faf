//! What a proxy says on a delta-ADS stream, as a state machine without I/O: Envoy's order of asking.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType};
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::config::listener::v3::{Listener, filter::ConfigType};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, http_connection_manager::RouteSpecifier,
};
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse,
};
use prost::Message;

/// Type URL of clusters.
pub const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
/// Type URL of endpoints.
pub const ENDPOINTS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
/// Type URL of listeners.
pub const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
/// Type URL of routes.
pub const ROUTE: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";

/// How far the proxy has come in what Envoy does at its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Clusters are asked for.
    Clusters,
    /// Clusters are there, their endpoints are not all there yet.
    Endpoints,
    /// Listeners are asked for.
    Listeners,
    /// Everything of the start is there.
    Started,
}

/// One proxy's side of a stream.
#[derive(Debug)]
pub struct Proxy {
    node: Option<Node>,
    on_demand: BTreeSet<String>,
    phase: Phase,
    /// Endpoints and routes asked for by name, from the clusters and listeners that refer to them.
    asked: BTreeMap<&'static str, BTreeSet<String>>,
    held: BTreeMap<&'static str, BTreeMap<String, String>>,
    refused: BTreeSet<String>,
}

impl Proxy {
    /// A proxy of a node id that asks for everything of its own, and besides for some clusters on demand.
    pub fn new(node_id: &str, cluster: &str, on_demand: impl IntoIterator<Item = String>) -> Self {
        let node = Node {
            id: node_id.to_owned(),
            cluster: cluster.to_owned(),
            user_agent_name: "envoy".to_owned(),
            ..Node::default()
        };
        Self {
            node: Some(node),
            on_demand: on_demand.into_iter().collect(),
            phase: Phase::Clusters,
            asked: BTreeMap::new(),
            held: BTreeMap::new(),
            refused: BTreeSet::new(),
        }
    }

    /// What opens the stream: all clusters, with the node.
    pub fn open(&mut self) -> Vec<DeltaDiscoveryRequest> {
        vec![self.request(CLUSTER)]
    }

    /// Takes a response in: its ACK, and what Envoy asks for in consequence.
    ///
    /// # Errors
    /// When a resource is not what its type says. A real Envoy would refuse it; here it ends the measurement.
    pub fn receive(
        &mut self,
        response: &DeltaDiscoveryResponse,
    ) -> Result<Vec<DeltaDiscoveryRequest>> {
        let mut out = vec![DeltaDiscoveryRequest {
            response_nonce: response.nonce.clone(),
            ..self.request(&response.type_url)
        }];
        let wanted = self.remember(response)?;
        match known(&response.type_url) {
            Some(CLUSTER) => {
                out.extend(self.ask_for(ENDPOINTS, wanted));
                if self.phase == Phase::Clusters {
                    self.phase = Phase::Endpoints;
                }
            }
            Some(LISTENER) => {
                out.extend(self.ask_for(ROUTE, wanted));
                if self.phase == Phase::Listeners {
                    self.phase = Phase::Started;
                    out.extend(self.ask_on_demand());
                }
            }
            _ => {}
        }
        // Envoy starts its listeners when every cluster of the first answer has its endpoints.
        if self.phase == Phase::Endpoints && self.has_all(ENDPOINTS) {
            self.phase = Phase::Listeners;
            out.push(self.request(LISTENER));
        }
        Ok(out)
    }

    /// Whether the start is over and every name asked for is there or refused.
    pub fn synced(&self) -> bool {
        let clusters = self.held.get(CLUSTER);
        let there = |name| {
            clusters.is_some_and(|held| held.contains_key(name)) || self.refused.contains(name)
        };
        self.phase == Phase::Started
            && self.has_all(ENDPOINTS)
            && self.has_all(ROUTE)
            && self.on_demand.iter().all(|name| there(name.as_str()))
    }

    /// How many resources it holds.
    pub fn resources(&self) -> usize {
        self.held.values().map(BTreeMap::len).sum()
    }

    /// Names asked for on demand that the server refused.
    pub fn refused(&self) -> usize {
        self.refused.len()
    }

    fn request(&mut self, type_url: &str) -> DeltaDiscoveryRequest {
        // Envoy says who it is in the first request of a stream only.
        DeltaDiscoveryRequest {
            node: self.node.take(),
            type_url: type_url.to_owned(),
            ..Default::default()
        }
    }

    fn ask_on_demand(&mut self) -> Option<DeltaDiscoveryRequest> {
        if self.on_demand.is_empty() {
            return None;
        }
        let names = self.on_demand.iter().cloned().collect();
        Some(DeltaDiscoveryRequest {
            resource_names_subscribe: names,
            ..self.request(CLUSTER)
        })
    }

    /// One request with the names that are new, as Envoy sends it after it has taken a whole response in.
    fn ask_for(&mut self, kind: &'static str, names: Vec<String>) -> Option<DeltaDiscoveryRequest> {
        let asked = self.asked.entry(kind).or_default();
        let new: Vec<String> = names
            .into_iter()
            .filter(|name| asked.insert(name.clone()))
            .collect();
        if new.is_empty() {
            return None;
        }
        Some(DeltaDiscoveryRequest {
            resource_names_subscribe: new,
            ..self.request(kind)
        })
    }

    fn has_all(&self, kind: &'static str) -> bool {
        let held = self.held.get(kind);
        self.asked.get(kind).is_none_or(|asked| {
            asked
                .iter()
                .all(|name| held.is_some_and(|h| h.contains_key(name)))
        })
    }

    /// Notes names and versions; gives the names that the resources refer to.
    fn remember(&mut self, response: &DeltaDiscoveryResponse) -> Result<Vec<String>> {
        let Some(kind) = known(&response.type_url) else {
            return Ok(Vec::new());
        };
        let held = self.held.entry(kind).or_default();
        let mut wanted = Vec::new();
        for resource in &response.resources {
            held.insert(resource.name.clone(), resource.version.clone());
            if kind == CLUSTER {
                self.refused.remove(&resource.name);
            }
            if let Some(body) = &resource.resource {
                let of = || format!("{kind} {}", resource.name);
                match kind {
                    CLUSTER => wanted.extend(endpoints_of(&body.value).with_context(of)?),
                    LISTENER => wanted.extend(routes_of(&body.value).with_context(of)?),
                    _ => {}
                }
            }
        }
        for name in &response.removed_resources {
            held.remove(name);
            if kind == CLUSTER && self.on_demand.contains(name) {
                self.refused.insert(name.clone());
            }
        }
        Ok(wanted)
    }
}

fn known(type_url: &str) -> Option<&'static str> {
    [CLUSTER, ENDPOINTS, LISTENER, ROUTE]
        .into_iter()
        .find(|known| *known == type_url)
}

fn endpoints_of(body: &[u8]) -> Result<Option<String>> {
    let cluster = Cluster::decode(body)?;
    if cluster.cluster_discovery_type != Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into()))
    {
        return Ok(None);
    }
    let service = cluster
        .eds_cluster_config
        .map(|config| config.service_name)
        .filter(|name| !name.is_empty());
    Ok(Some(service.unwrap_or(cluster.name)))
}

fn routes_of(body: &[u8]) -> Result<Vec<String>> {
    let listener = Listener::decode(body)?;
    let chains = listener
        .filter_chains
        .into_iter()
        .chain(listener.default_filter_chain);
    let mut names = Vec::new();
    for filter in chains.flat_map(|chain| chain.filters) {
        let Some(ConfigType::TypedConfig(config)) = filter.config_type else {
            continue;
        };
        if !config.type_url.ends_with(".HttpConnectionManager") {
            continue;
        }
        let manager = HttpConnectionManager::decode(config.value.as_slice())?;
        if let Some(RouteSpecifier::Rds(rds)) = manager.route_specifier {
            names.push(rds.route_config_name);
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests;
