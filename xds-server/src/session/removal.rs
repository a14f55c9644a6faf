//! Removals, and the conditions under which they are safe.

use std::collections::BTreeSet;

use crate::resource::{Name, ResourceKind};

use super::draft::Draft;
use super::{Flavor, Push, Session};

/// The order in which kinds are removed: a resource before those it refers to.
const WAVES: [Wave; 7] = [
    Wave::OnDemand,
    Wave::Listeners,
    Wave::Routes,
    Wave::Extensions,
    Wave::Clusters,
    Wave::Endpoints,
    Wave::Runtime,
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wave {
    OnDemand,
    Listeners,
    Routes,
    Extensions,
    Clusters,
    Endpoints,
    Runtime,
}

impl Wave {
    const fn kind(self) -> ResourceKind {
        match self {
            Self::OnDemand | Self::Clusters => ResourceKind::Cluster,
            Self::Listeners => ResourceKind::Listener,
            Self::Routes => ResourceKind::Route,
            Self::Extensions => ResourceKind::Extension,
            Self::Endpoints => ResourceKind::Endpoints,
            Self::Runtime => ResourceKind::Runtime,
        }
    }
}

impl Session {
    /// The next response that only takes away. Called when all is quiet.
    pub(super) fn next_removal(&mut self) -> Option<Push> {
        #[cfg(test)]
        self.check_surplus();
        if !std::mem::take(&mut self.removals_due) {
            #[cfg(test)]
            assert!(WAVES.iter().all(|wave| self.removable(*wave).is_empty()));
            return None;
        }
        for wave in WAVES {
            let kind = wave.kind();
            let removed = self.removable(wave);
            if removed.is_empty() {
                continue;
            }
            if self.flavor == Flavor::Sotw && !kind.is_complete() {
                for name in &removed {
                    self.removed(kind, name);
                }
                continue;
            }
            return Some(self.launch(
                kind,
                Draft {
                    updates: Vec::new(),
                    removed,
                },
            ));
        }
        None
    }

    /// The names that the view does not have and to which no resource of the client refers any more.
    fn removable(&mut self, wave: Wave) -> Vec<Name> {
        let kind = wave.kind();
        let mut surplus = std::mem::take(&mut self.channels.get_mut(kind).surplus);
        let channel = self.channels.get(kind);
        surplus.retain(|name| channel.is_surplus(name));
        let in_wave = |name: &&Name| {
            kind != ResourceKind::Cluster
                || self.is_on_demand(kind, name) == (wave == Wave::OnDemand)
        };
        let mut free: BTreeSet<Name> = surplus.iter().filter(in_wave).cloned().collect();
        if wave != Wave::OnDemand && !free.is_empty() {
            self.without_used(kind, &mut free);
        }
        self.channels.get_mut(kind).surplus = surplus;
        free.into_iter().collect()
    }

    /// Drops from `names` the resources that the client's resources require, at the versions it holds.
    fn without_used(&self, kind: ResourceKind, names: &mut BTreeSet<Name>) {
        for holder in ResourceKind::ALL {
            for (name, holding) in self.channels.get(holder).holdings() {
                match holding.resource {
                    Some(resource) => {
                        for required in resource.requires.iter().filter(|r| r.kind == kind) {
                            names.remove(&required.name);
                        }
                    }
                    None if self.feared(holder, name).contains(&kind) => names.clear(),
                    None => {}
                }
            }
        }
    }

    /// Everything that is surplus has to be known as such when all is quiet.
    #[cfg(test)]
    fn check_surplus(&self) {
        for kind in ResourceKind::ALL {
            let channel = self.channels.get(kind);
            let names = channel.holdings().map(|(name, _)| name);
            for name in names.chain(&channel.doubtful) {
                let known = channel.surplus.contains(name);
                assert!(
                    known || !channel.is_surplus(name),
                    "{kind}:{name} is surplus"
                );
            }
        }
    }

    /// The kinds to which a resource of unknown content may refer.
    ///
    /// A resource that was reported on reconnect and is no longer in the view goes in an earlier wave; a route stays until
    /// the client gives it up.
    fn feared(&self, holder: ResourceKind, name: &str) -> &'static [ResourceKind] {
        use ResourceKind::{Cluster, Endpoints, Extension, Listener, Route, Runtime};
        match holder {
            Cluster if self.is_on_demand(holder, name) => {
                &[Listener, Route, Extension, Cluster, Endpoints]
            }
            Cluster | Endpoints | Runtime => &[],
            Listener => &[Route, Extension, Cluster, Endpoints],
            Route | Extension => &[Cluster, Endpoints],
        }
    }

    /// The client has been told that a resource is gone.
    pub(super) fn removed(&mut self, kind: ResourceKind, name: &Name) {
        // Resources that it required may be removed now, and so may those of later waves.
        self.removals_due = true;
        let channel = self.channels.get_mut(kind);
        // Draining listeners.
        let by_listeners = matches!(kind, ResourceKind::Route | ResourceKind::Extension);
        let still_used = by_listeners && channel.subscription.covers(name);
        if still_used && channel.holding(name).is_some() {
            channel.mark_gone(name);
            channel.doubtful.remove(name);
            self.touch(kind, name);
        } else {
            self.drop_held(kind, name);
        }
        if kind == ResourceKind::Cluster {
            self.channels
                .get_mut(ResourceKind::Endpoints)
                .warm
                .remove(name);
        }
    }
}
