//! Drafts of responses, and their way into flight.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::resource::{Name, Resource, ResourceKind};

use super::channel::InFlight;
use super::{Flavor, Push, Sent, Session};

/// The content of a response before it is sent.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub updates: Vec<Arc<Resource>>,
    pub removed: Vec<Name>,
}

impl Draft {
    pub(super) const fn is_empty(&self) -> bool {
        self.updates.is_empty() && self.removed.is_empty()
    }
}

impl Session {
    /// Makes a draft the response in flight of its kind, and returns it as the client gets it.
    pub(super) fn launch(&mut self, kind: ResourceKind, draft: Draft) -> Push {
        self.nonces += 1;
        let nonce = self.nonces.to_string();
        let updates: BTreeMap<Name, Arc<Resource>> = draft
            .updates
            .into_iter()
            .map(|r| (Name::clone(&r.key.name), r))
            .collect();
        if kind == ResourceKind::Cluster {
            self.will_warm(&updates);
        }
        let complete = self.flavor == Flavor::Sotw && kind.is_complete();
        let channel = self.channels.get_mut(kind);
        channel.answer_due = false;
        for name in updates.keys().chain(&draft.removed) {
            channel.asked.remove(name);
            channel.warm.remove(name);
        }
        for name in updates.keys() {
            channel.pending.remove(name);
        }
        let mut resources = updates.clone();
        if complete {
            let kept = channel
                .holdings()
                .filter(|(name, _)| !draft.removed.contains(name));
            for (name, held) in kept {
                if let (false, Some(resource)) = (resources.contains_key(name), held.resource) {
                    resources.insert(Name::clone(name), Arc::clone(resource));
                }
            }
        }
        let removed = draft.removed.iter().cloned().collect();
        channel.last_nonce = Some(nonce.clone());
        channel.in_flight = Some(InFlight {
            nonce: nonce.clone(),
            updates,
            removed,
            view: self.views,
        });
        let removed = if self.flavor == Flavor::Delta {
            draft.removed
        } else {
            Vec::new()
        };
        let sent = |resource: Arc<Resource>| Sent {
            version: self.wire_version(&resource),
            resource,
        };
        let resources = resources.into_values().map(sent).collect();
        Push {
            kind,
            nonce,
            resources,
            removed,
        }
    }

    fn wire_version(&self, resource: &Resource) -> Arc<str> {
        let marked = self.flavor == Flavor::Delta && resource.key.kind == ResourceKind::Endpoints;
        let cluster = self.cluster_version(&resource.key.name);
        match cluster.filter(|_| marked) {
            Some(cluster) => format!("{}@{cluster}", resource.version).into(),
            None => Arc::clone(&resource.version),
        }
    }

    /// The version of a cluster that the client has, or will have once it has read all we sent.
    pub(super) fn cluster_version(&self, name: &Name) -> Option<&Arc<str>> {
        let clusters = self.channels.get(ResourceKind::Cluster);
        let sent = clusters.in_flight.as_ref();
        let sent = sent.and_then(|response| response.updates.get(name));
        sent.map(|resource| &resource.version)
            .or_else(|| clusters.holding(name).map(|held| held.version))
    }

    /// Envoy warms an updated cluster with endpoints that it does not ask for again.
    fn will_warm(&mut self, clusters: &BTreeMap<Name, Arc<Resource>>) {
        for (name, cluster) in clusters {
            if !self.channels.get(ResourceKind::Cluster).holds(cluster) {
                self.warm(name);
            }
        }
    }

    /// The endpoints of a name have to be sent though unchanged.
    pub(super) fn warm(&mut self, name: &Name) {
        let endpoints = self.channels.get_mut(ResourceKind::Endpoints);
        endpoints.warm.insert(Name::clone(name));
        self.touch(ResourceKind::Endpoints, name);
    }
}
