//! The next responses to send.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::resource::{Name, Resource, ResourceKey, ResourceKind};

use super::channel::Suspects;
use super::draft::Draft;
use super::{Flavor, Push, Session};

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
        self.forget_route_waits();
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
            let ready = self.ready(kind, Self::waits_for_routes);
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
        // Nothing is in flight.
        let emptied = self.emptied(&view.absent);
        if !emptied.is_empty() {
            return emptied;
        }
        // Answer pending subscriptions with an empty response, then send removals.
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

    /// The clusters without endpoints that routes of the client still lead to, where nothing can change these routes now.
    fn emptied(&mut self, absent: &BTreeSet<Name>) -> Vec<Push> {
        let mut pushes = Vec::new();
        if self.resyncing {
            return pushes;
        }
        for kind in [ResourceKind::Cluster, ResourceKind::Endpoints] {
            let ready = self.ready(kind, Self::waits_for_coming_routes);
            let draft = self.draft(kind, absent, ready);
            if !draft.is_empty() {
                pushes.push(self.launch(kind, draft));
            }
        }
        pushes
    }

    /// Whether a resource has to wait for routes, and these for a resource that the client has not asked for yet.
    fn waits_for_coming_routes(&self, kind: ResourceKind, name: &Name) -> bool {
        let comes = |required: &ResourceKey| {
            let channel = self.channels.get(required.kind);
            let current = channel.current(&required.name);
            let rejection = channel.rejected.get(&required.name);
            current.is_some_and(|current| {
                rejection.is_none_or(|rejection| rejection.version != current.version)
            })
        };
        let mut waiting = self
            .routes_to(name)
            .filter_map(|route| self.waits_for(route));
        self.waits_for_routes(kind, name) && waiting.any(comes)
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

    /// The resources of a kind that the client lacks or has asked for, and that may be sent. `later`: whether one has to wait for routes.
    fn ready(
        &mut self,
        kind: ResourceKind,
        later: fn(&Self, ResourceKind, &Name) -> bool,
    ) -> Vec<Arc<Resource>> {
        let (mut ready, mut idle) = (Vec::new(), Vec::new());
        for name in &self.channels.get(kind).pending {
            match self.decide(kind, name, later) {
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
        let view: std::collections::BTreeMap<_, _> =
            view.filter(|(key, _)| key.kind == kind).collect();
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
        let ready = names.into_iter().filter_map(|name| {
            match self.decide(kind, name, Self::waits_for_routes) {
                SendDecision::Send(resource) => Some(resource),
                SendDecision::Wait | SendDecision::Idle => None,
            }
        });
        ready.collect()
    }

    fn decide(
        &self,
        kind: ResourceKind,
        name: &Name,
        later: fn(&Self, ResourceKind, &Name) -> bool,
    ) -> SendDecision {
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
        if later(self, kind, name) {
            if !warm {
                return SendDecision::Wait;
            }
            // The cluster of the endpoints that the client has was sent again, and waits for endpoints: for the last ones, or, if these are
            // unknown, for those of the view.
            if let Some(last) = holding.and_then(|holding| holding.resource.cloned()) {
                return SendDecision::Send(last);
            }
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
            // There is no field for it; a complete response leaves the name out.
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
            .filter_map(|r| {
                let required = self.waits_for(r).cloned();
                let awaited = required.or_else(|| self.awaited_route(&r.key))?;
                Some((r.key.clone(), awaited))
            })
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
