//! What to send next.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::resource::{Name, Resource, ResourceKey, ResourceKind, View};

use super::channel::{InFlight, Suspects};
use super::{Flavor, Push, Sent, Session};

/// What a response would hold.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub updates: Vec<Arc<Resource>>,
    pub removed: Vec<Name>,
}

impl Draft {
    const fn is_empty(&self) -> bool {
        self.updates.is_empty() && self.removed.is_empty()
    }
}

impl Session {
    /// The responses to send now, in order. They count as sent.
    pub fn poll(&mut self) -> Vec<Push> {
        let Some(view) = self.view.clone() else {
            return Vec::new();
        };
        let mut pushes = Vec::new();
        for kind in ResourceKind::ALL {
            if self.channels.get(kind).in_flight.is_some() {
                continue;
            }
            let draft = self.draft(kind, &view);
            if !draft.is_empty() {
                pushes.push(self.launch(kind, draft));
            }
        }
        if !pushes.is_empty() || self.in_flight() {
            return pushes;
        }
        // Quiet. What is still owed an answer has none but an empty one; then comes what is to go.
        for kind in ResourceKind::ALL {
            if self.channels.get(kind).answer_due {
                pushes.push(self.launch(kind, Draft::default()));
            }
        }
        if pushes.is_empty() && !self.unsettled {
            pushes.extend(self.next_removal(&view));
        }
        pushes
    }

    fn draft(&mut self, kind: ResourceKind, view: &View) -> Draft {
        let removed = self.not_there(kind, view);
        let ready = self.ready(kind, view);
        let channel = self.channels.get_mut(kind);
        let apart = |resource: &Arc<Resource>| {
            channel
                .apart
                .iter()
                .any(|group| group.get(&resource.key.name) == Some(&resource.version))
        };
        let (suspects, updates): (Vec<_>, Vec<_>) = ready.into_iter().partition(apart);
        if !updates.is_empty() || !removed.is_empty() {
            return Draft {
                updates: self.fit(updates),
                removed,
            };
        }
        // Only once everyone else has what they need do the suspects follow, one group at a time.
        while let Some(group) = channel.apart.pop_front() {
            let is_in = |r: &&Arc<Resource>| group.get(&r.key.name) == Some(&r.version);
            let updates: Vec<_> = suspects.iter().filter(is_in).cloned().collect();
            if !updates.is_empty() {
                return Draft { updates, removed };
            }
        }
        Draft::default()
    }

    /// The resources of a kind that the client lacks or has asked for, and that may be sent.
    fn ready(&self, kind: ResourceKind, view: &View) -> Vec<Arc<Resource>> {
        let channel = self.channels.get(kind);
        if !channel.opened {
            return Vec::new();
        }
        let lingering = channel
            .asked
            .iter()
            .filter(|name| view.get(kind, name).is_none());
        let lingering = lingering.filter_map(|name| channel.held.get(name)?.resource.clone());
        let wanted = view.of(kind).filter_map(|resource| {
            let name = &resource.key.name;
            if !channel.subscription.covers(name) {
                return None;
            }
            let held = channel.held.get(name);
            if held.is_some_and(|held| held.is(resource)) {
                let again = channel.asked.contains(name) || channel.warm.contains(name);
                let refused = channel.rejected.get(name) == Some(&resource.version);
                return Some(resource).filter(|_| again && !refused).cloned();
            }
            if channel.rejected.get(name) == Some(&resource.version) {
                // An updated cluster is better off with its last good endpoints than with none.
                return held
                    .filter(|_| channel.warm.contains(name))?
                    .resource
                    .clone();
            }
            Some(resource)
                .filter(|resource| self.waits_for(resource, view).is_none())
                .cloned()
        });
        lingering.chain(wanted).collect()
    }

    /// The names asked for that do not exist. They stay subscribed, and are sent once they do.
    fn not_there(&mut self, kind: ResourceKind, view: &View) -> Vec<Name> {
        let (wanted, prefix) = (&self.wanted, &*self.limits.on_demand_prefix);
        let channel = self.channels.get_mut(kind);
        let missing = |name: &&Name| {
            let unknown = view.get(kind, name).is_none();
            let held = channel
                .held
                .get(*name)
                .is_some_and(|held| held.resource.is_some());
            let on_demand = kind == ResourceKind::Cluster && name.starts_with(prefix);
            // The source has not made up its mind about an on-demand name that it does not mention.
            let undecided = on_demand && wanted.contains(*name) && !view.absent.contains(*name);
            unknown && !held && !undecided
        };
        let missing: Vec<Name> = channel.asked.iter().filter(missing).cloned().collect();
        match self.flavor {
            Flavor::Delta => missing,
            // There are no words for it; a complete response says it by leaving the name out.
            Flavor::Sotw => {
                channel.asked.retain(|name| !missing.contains(name));
                Vec::new()
            }
        }
    }

    fn fit(&self, updates: Vec<Arc<Resource>>) -> Vec<Arc<Resource>> {
        let mut bytes = 0_usize;
        let first = updates.first().map(|r| r.body.len()).unwrap_or_default();
        let limit = self.limits.max_response_bytes.max(first);
        let fits = |r: &Arc<Resource>| {
            bytes = bytes.saturating_add(r.body.len());
            bytes <= limit
        };
        updates.into_iter().take_while(fits).collect()
    }

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
        let mut resources = updates.clone();
        if complete {
            let kept = channel
                .held
                .iter()
                .filter(|(name, _)| !draft.removed.contains(name));
            for (name, held) in kept {
                if let (false, Some(resource)) = (resources.contains_key(name), &held.resource) {
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
            .or_else(|| clusters.held.get(name).map(|held| &held.version))
    }

    /// Envoy warms an updated cluster with endpoints that it does not ask for again.
    fn will_warm(&mut self, clusters: &BTreeMap<Name, Arc<Resource>>) {
        for (name, cluster) in clusters {
            let held = self.channels.get(ResourceKind::Cluster).held.get(name);
            if !held.is_some_and(|held| held.is(cluster)) {
                self.channels
                    .get_mut(ResourceKind::Endpoints)
                    .warm
                    .insert(Name::clone(name));
            }
        }
    }

    /// What is in the view, wanted and not sent, with the requirement that each waits for; for display.
    #[must_use]
    pub fn waiting(&self) -> Vec<(ResourceKey, ResourceKey)> {
        let Some(view) = &self.view else {
            return Vec::new();
        };
        let lacking = view.resources.values().filter(|r| {
            let channel = self.channels.get(r.key.kind);
            let held = channel.held.get(&r.key.name).is_some_and(|held| held.is(r));
            channel.subscription.covers(&r.key.name) && !held
        });
        lacking
            .filter_map(|r| Some((r.key.clone(), self.waits_for(r, view)?.clone())))
            .collect()
    }
}

/// Splits a group of suspects in two.
pub(super) fn halves(mut group: Suspects) -> (Suspects, Suspects) {
    let middle = group.keys().nth(group.len() / 2).cloned();
    let upper = middle
        .map(|name| group.split_off(&name))
        .unwrap_or_default();
    (group, upper)
}
