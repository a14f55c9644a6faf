//! The next responses to send.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::resource::{Name, Resource, ResourceKey, ResourceKind};

use super::channel::{InFlight, Suspects};
use super::{Flavor, Push, Sent, Session};

/// The content of a response before it is sent.
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

/// The decision about one name.
#[derive(Debug)]
pub(super) enum SendDecision {
    Send(Arc<Resource>),
    /// The resource waits for a requirement; the name stays pending.
    Wait,
    /// There is nothing to send until something happens to the name.
    Idle,
}

impl Session {
    /// The responses to send now, in order. They count as sent.
    pub fn poll(&mut self) -> Vec<Push> {
        let Some(view) = self.view.clone() else {
            return Vec::new();
        };
        let mut pushes = Vec::new();
        for kind in ResourceKind::ALL {
            let channel = self.channels.get(kind);
            let (in_flight, quiet) = (channel.in_flight.is_some(), channel.is_quiet());
            if in_flight {
                continue;
            }
            #[cfg(test)]
            let expected = self.fresh_look(kind);
            if quiet {
                #[cfg(test)]
                assert!(expected.is_empty(), "{kind}: not looked at");
                continue;
            }
            let ready = self.ready(kind);
            #[cfg(test)]
            assert_eq!(ready, expected, "{kind}: looked at too little");
            let draft = self.draft(kind, &view.absent, ready);
            if !draft.is_empty() {
                pushes.push(self.launch(kind, draft));
            }
        }
        if !pushes.is_empty() || self.in_flight() {
            return pushes;
        }
        // Nothing is in flight. Answer pending subscriptions with an empty response, then send removals.
        for kind in ResourceKind::ALL {
            if self.channels.get(kind).answer_due {
                pushes.push(self.launch(kind, Draft::default()));
            }
        }
        if pushes.is_empty() && !self.resyncing {
            pushes.extend(self.next_removal());
        }
        pushes
    }

    fn draft(
        &mut self,
        kind: ResourceKind,
        absent: &BTreeSet<Name>,
        ready: Vec<Arc<Resource>>,
    ) -> Draft {
        let removed = self.not_there(kind, absent);
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
        // Suspects are sent only after all other resources, one group at a time.
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
    fn ready(&mut self, kind: ResourceKind) -> Vec<Arc<Resource>> {
        let (mut ready, mut idle) = (Vec::new(), Vec::new());
        for name in &self.channels.get(kind).pending {
            match self.decide(kind, name) {
                SendDecision::Send(resource) => ready.push(resource),
                SendDecision::Wait => {}
                SendDecision::Idle => idle.push(Name::clone(name)),
            }
        }
        let channel = self.channels.get_mut(kind);
        if idle.len() == channel.pending.len() {
            channel.pending.clear();
        }
        for name in idle {
            channel.pending.remove(&name);
            if channel.is_surplus(&name) && channel.surplus.insert(name) {
                self.removals_due = true;
            }
        }
        ready
    }

    /// The expected result of [`Session::ready`], by a look at all names.
    #[cfg(test)]
    fn fresh_look(&self, kind: ResourceKind) -> Vec<Arc<Resource>> {
        let channel = self.channels.get(kind);
        let view = self.view.iter().flat_map(|view| view.resources());
        let view: BTreeMap<_, _> = view.filter(|(key, _)| key.kind == kind).collect();
        let current: Vec<_> = channel.currents().cloned().collect();
        assert_eq!(current, view.values().cloned().collect::<Vec<_>>());
        for (name, holding) in channel.holdings() {
            let same = channel.current(name).map(|r| &r.version) == Some(holding.version);
            assert_eq!(channel.in_sync(name), same && !holding.gone, "{name}");
        }
        assert_eq!(
            channel.held_count(),
            channel.holdings().filter(|(_, h)| !h.gone).count()
        );
        let names = view.keys().map(|key| &key.name);
        let names: BTreeSet<&Name> = match channel.opened {
            true => names.chain(&channel.asked).collect(),
            false => BTreeSet::new(),
        };
        let ready = names
            .into_iter()
            .filter_map(|name| match self.decide(kind, name) {
                SendDecision::Send(resource) => Some(resource),
                SendDecision::Wait | SendDecision::Idle => None,
            });
        ready.collect()
    }

    fn decide(&self, kind: ResourceKind, name: &Name) -> SendDecision {
        let channel = self.channels.get(kind);
        let holding = channel.holding(name);
        let again = || {
            let last = holding.and_then(|holding| holding.resource.cloned());
            last.map_or(SendDecision::Idle, SendDecision::Send)
        };
        let asked = channel.asked.contains(name);
        let Some(resource) = channel.current(name) else {
            return if asked { again() } else { SendDecision::Idle };
        };
        if !channel.subscription.covers(name) {
            return SendDecision::Idle;
        }
        let rejection = channel.rejected.get(name);
        let rejected = rejection.is_some_and(|of| of.version == resource.version);
        let warm = channel.warm.contains(name);
        if channel.in_sync(name) {
            return match (asked || warm) && !rejected {
                true => SendDecision::Send(Arc::clone(resource)),
                false => SendDecision::Idle,
            };
        }
        if rejected {
            // An updated cluster is better off with its last good endpoints than with none.
            return if warm { again() } else { SendDecision::Idle };
        }
        match self.waits_for(resource) {
            Some(_) => SendDecision::Wait,
            None => SendDecision::Send(Arc::clone(resource)),
        }
    }

    /// The names asked for that do not exist. They stay subscribed, and are sent once they do.
    fn not_there(&mut self, kind: ResourceKind, absent: &BTreeSet<Name>) -> Vec<Name> {
        let (wanted, prefix) = (&self.on_demand.clusters, &*self.limits.on_demand_prefix);
        let channel = self.channels.get_mut(kind);
        let missing = |name: &&Name| {
            let unknown = channel.current(name).is_none();
            let held = channel
                .holding(name)
                .is_some_and(|holding| holding.resource.is_some());
            let on_demand = kind == ResourceKind::Cluster && name.starts_with(prefix);
            // The source has not made up its mind about an on-demand name that it does not mention.
            let undecided = on_demand && wanted.contains(*name) && !absent.contains(*name);
            unknown && !held && !undecided
        };
        let missing: Vec<Name> = channel.asked.iter().filter(missing).cloned().collect();
        match self.flavor {
            Flavor::Delta => missing,
            // There are no words for it; a complete response says it by leaving the name out.
            Flavor::Sotw => {
                for name in &missing {
                    channel.asked.remove(name);
                }
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

    /// The subscribed resources of the view that are not sent yet, each with the requirement it waits for; for display.
    #[must_use]
    pub fn waiting(&self) -> Vec<(ResourceKey, ResourceKey)> {
        let lacking = |kind| {
            let channel = self.channels.get(kind);
            let lacks = |r: &&Arc<Resource>| {
                let name = &r.key.name;
                channel.subscription.covers(name) && !channel.in_sync(name)
            };
            channel.currents().filter(lacks)
        };
        ResourceKind::ALL
            .into_iter()
            .flat_map(lacking)
            .filter_map(|r| Some((r.key.clone(), self.waits_for(r)?.clone())))
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
