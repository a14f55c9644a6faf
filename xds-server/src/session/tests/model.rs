//! A model of Envoy as a client of the incremental protocol: it checks each resource that it receives as Envoy uses it.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse,
};
use envoy_types::pb::google::rpc::Status;

use super::super::*;

/// A resource that the model holds.
#[derive(Clone, Debug)]
pub struct Holding {
    pub version: String,
    pub refers: Vec<ResourceKey>,
    /// Clusters: the endpoints have come since the last update, or it needs none.
    pub warm: bool,
}

/// The client. It would serve traffic with the resources in `held`.
#[derive(Debug, Default)]
pub struct Client {
    pub held: BTreeMap<ResourceKey, Holding>,
    pub out: VecDeque<DeltaDiscoveryRequest>,
    pub on_demand: BTreeSet<String>,
    pub faults: Vec<String>,
    subscribed: BTreeMap<ResourceKind, BTreeSet<String>>,
    /// Routes and extensions of listeners that are gone but drain; given up at [`Client::drain`].
    draining: BTreeSet<ResourceKey>,
    opened: BTreeSet<ResourceKind>,
}

/// The body of a resource in this test: one line for each reference; the client rejects a body of a `!` alone.
pub fn body(bad: bool, static_cluster: bool, refers: &[ResourceKey]) -> String {
    let lines = refers
        .iter()
        .map(|key| format!("{} {}", key.kind.type_url(), key.name));
    let flags = [(bad, "!"), (static_cluster, "static")]
        .into_iter()
        .filter(|(on, _)| *on)
        .map(|(_, f)| f.to_owned());
    flags.chain(lines).collect::<Vec<_>>().join("\n")
}

fn refers(body: &str) -> Vec<ResourceKey> {
    let keys = body.lines().filter_map(|line| line.split_once(' '));
    keys.map(|(url, name)| ResourceKey::new(ResourceKind::from_type_url(url).unwrap(), name))
        .collect()
}

/// Whether listeners bring resources of the kind with them.
fn brought(kind: ResourceKind) -> bool {
    matches!(kind, ResourceKind::Route | ResourceKind::Extension)
}

impl Client {
    /// Opens a stream as Envoy does: first clusters, and at the very first time listeners only after these.
    pub fn connect(&mut self) {
        self.out.clear();
        self.opened.clear();
        let again = !self.held.is_empty();
        let on_demand: Vec<String> = self.on_demand.iter().cloned().collect();
        self.first_request(ResourceKind::Cluster, true, on_demand);
        if again {
            for kind in [
                ResourceKind::Endpoints,
                ResourceKind::Listener,
                ResourceKind::Route,
                ResourceKind::Extension,
            ] {
                let names: Vec<String> = self
                    .subscribed
                    .get(&kind)
                    .into_iter()
                    .flatten()
                    .cloned()
                    .collect();
                if kind == ResourceKind::Listener || !names.is_empty() {
                    self.first_request(kind, kind == ResourceKind::Listener, names);
                }
            }
        }
    }

    fn first_request(&mut self, kind: ResourceKind, wildcard: bool, names: Vec<String>) {
        self.opened.insert(kind);
        let versions = self.held.iter().filter(|(key, _)| key.kind == kind);
        let initial: HashMap<_, _> = versions
            .map(|(k, h)| (k.name.to_string(), h.version.clone()))
            .collect();
        let star = wildcard.then(|| "*".to_owned());
        self.out.push_back(DeltaDiscoveryRequest {
            type_url: kind.type_url().into(),
            resource_names_subscribe: star.into_iter().chain(names).collect(),
            initial_resource_versions: initial,
            ..DeltaDiscoveryRequest::default()
        });
    }

    /// A first connection to an unknown destination.
    pub fn want(&mut self, name: &str) {
        if self.on_demand.insert(name.to_owned()) {
            self.change(ResourceKind::Cluster, vec![name.to_owned()], vec![]);
        }
    }

    /// Draining listeners have gone, and with them their routes and extensions.
    pub fn drain(&mut self) {
        for key in std::mem::take(&mut self.draining) {
            if !self.in_use(&key, ResourceKind::Listener) {
                self.give_up(&key);
            }
        }
    }

    pub fn receive(&mut self, response: &DeltaDiscoveryResponse) {
        let kind = ResourceKind::from_type_url(&response.type_url).unwrap();
        let mut rejected = Vec::new();
        for resource in &response.resources {
            let text =
                String::from_utf8(resource.resource.as_ref().unwrap().value.clone()).unwrap();
            let key = ResourceKey::new(kind, resource.name.as_str());
            if text.starts_with('!') {
                // Like Envoy, the model takes the good resources of a rejected response all the same.
                rejected.push(resource.name.clone());
            } else {
                self.take(key, &resource.version, &text);
            }
        }
        for name in &response.removed_resources {
            self.remove(&ResourceKey::new(kind, name.as_str()));
        }
        // Every other rejection names no resource, as some of Envoy's do.
        let naming = response.nonce.ends_with(['0', '2', '4', '6', '8']);
        let text = if naming {
            format!("Error adding {}: no", rejected.join(", "))
        } else {
            "no".to_owned()
        };
        let error_detail = (!rejected.is_empty()).then(|| Status {
            message: text,
            ..Status::default()
        });
        self.out.push_back(DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            error_detail,
            ..DeltaDiscoveryRequest::default()
        });
        if kind == ResourceKind::Cluster && !self.opened.contains(&ResourceKind::Listener) {
            self.first_request(ResourceKind::Listener, true, vec![]);
        }
        self.check();
    }

    fn take(&mut self, key: ResourceKey, version: &str, text: &str) {
        let refers = refers(text);
        for target in &refers {
            let active = self.held.get(target).is_some_and(|h| h.warm);
            match (key.kind, target.kind) {
                // A listener brings its routes and extensions; all else has to be there, and warm.
                (ResourceKind::Listener, ResourceKind::Route | ResourceKind::Extension) => {
                    self.ask(target);
                }
                _ if !active => self.faults.push(format!(
                    "{key} at {version} refers to {target}, which is not there"
                )),
                _ => {}
            }
        }
        let own = ResourceKey::new(ResourceKind::Endpoints, std::sync::Arc::clone(&key.name));
        let warm = match key.kind {
            ResourceKind::Cluster if !text.starts_with("static") => {
                self.ask(&own);
                // An update with the same version is not an update.
                self.held
                    .get(&key)
                    .is_some_and(|h| h.version == version && h.warm)
            }
            ResourceKind::Endpoints => {
                if let Some(cluster) = self
                    .held
                    .get_mut(&ResourceKey::new(ResourceKind::Cluster, key.name.clone()))
                {
                    cluster.warm = true;
                }
                true
            }
            ResourceKind::Cluster
            | ResourceKind::Listener
            | ResourceKind::Route
            | ResourceKind::Extension
            | ResourceKind::Runtime => true,
        };
        self.held.insert(
            key,
            Holding {
                version: version.to_owned(),
                refers,
                warm,
            },
        );
        self.give_up_unused();
    }

    fn remove(&mut self, key: &ResourceKey) {
        // Envoy ignores the removal of routes and endpoints that it has subscribed to. An extension that is removed is subscribed to still.
        if matches!(key.kind, ResourceKind::Cluster | ResourceKind::Listener) {
            let Some(gone) = self.held.remove(key) else {
                return;
            };
            let brought = gone.refers.into_iter().filter(|r| brought(r.kind));
            self.draining.extend(brought);
            if key.kind == ResourceKind::Cluster {
                self.give_up(&ResourceKey::new(ResourceKind::Endpoints, key.name.clone()));
            }
        }
    }

    fn in_use(&self, key: &ResourceKey, by: ResourceKind) -> bool {
        self.held
            .iter()
            .any(|(holder, h)| holder.kind == by && h.refers.contains(key))
    }

    fn give_up_unused(&mut self) {
        let subscribed = self.subscribed.iter().filter(|(kind, _)| brought(**kind));
        let keys = subscribed.flat_map(|(kind, names)| {
            names
                .iter()
                .map(|name| ResourceKey::new(*kind, name.as_str()))
        });
        for key in keys.collect::<Vec<_>>() {
            if !self.in_use(&key, ResourceKind::Listener) {
                self.draining.insert(key);
            }
        }
    }

    fn ask(&mut self, key: &ResourceKey) {
        if self
            .subscribed
            .entry(key.kind)
            .or_default()
            .insert(key.name.to_string())
        {
            self.change(key.kind, vec![key.name.to_string()], vec![]);
        }
    }

    fn give_up(&mut self, key: &ResourceKey) {
        self.held.remove(key);
        if self
            .subscribed
            .entry(key.kind)
            .or_default()
            .remove(&*key.name)
        {
            self.change(key.kind, vec![], vec![key.name.to_string()]);
        }
    }

    fn change(&mut self, kind: ResourceKind, subscribe: Vec<String>, unsubscribe: Vec<String>) {
        self.opened.insert(kind);
        self.out.push_back(DeltaDiscoveryRequest {
            type_url: kind.type_url().into(),
            resource_names_subscribe: subscribe,
            resource_names_unsubscribe: unsubscribe,
            ..DeltaDiscoveryRequest::default()
        });
    }

    /// Nothing in use may refer to a cluster that is not there (any more).
    fn check(&mut self) {
        for (holder, holding) in &self.held {
            for target in holding
                .refers
                .iter()
                .filter(|t| t.kind == ResourceKind::Cluster)
            {
                if !self.held.contains_key(target) {
                    self.faults
                        .push(format!("{holder} is left referring to {target}"));
                }
            }
        }
    }
}
