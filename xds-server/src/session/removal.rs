//! What to take away, and when that is safe.

use std::collections::BTreeSet;

use crate::resource::{Name, ResourceKey, ResourceKind, View};

use super::plan::Draft;
use super::{Flavor, Push, Session};

/// The order in which kinds are taken away: what refers before what is referred to.
const WAVES: [Wave; 5] = [
    Wave::OnDemand,
    Wave::Listeners,
    Wave::Routes,
    Wave::Clusters,
    Wave::Endpoints,
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wave {
    OnDemand,
    Listeners,
    Routes,
    Clusters,
    Endpoints,
}

impl Wave {
    const fn kind(self) -> ResourceKind {
        match self {
            Self::OnDemand | Self::Clusters => ResourceKind::Cluster,
            Self::Listeners => ResourceKind::Listener,
            Self::Routes => ResourceKind::Route,
            Self::Endpoints => ResourceKind::Endpoints,
        }
    }
}

impl Session {
    /// The next response that only takes away. Called when all is quiet.
    pub(super) fn next_removal(&mut self, view: &View) -> Option<Push> {
        for wave in WAVES {
            let kind = wave.kind();
            let removed = self.removable(wave, view);
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

    fn removable(&self, wave: Wave, view: &View) -> Vec<Name> {
        let kind = wave.kind();
        let channel = self.channels.get(kind);
        let held = channel
            .held
            .iter()
            .filter(|(_, held)| !held.gone)
            .map(|(name, _)| name);
        let surplus: Vec<ResourceKey> = held
            .chain(&channel.doubtful)
            .filter(|name| view.get(kind, name).is_none())
            .map(|name| ResourceKey {
                kind,
                name: Name::clone(name),
            })
            .filter(|key| {
                kind != ResourceKind::Cluster || self.is_on_demand(key) == (wave == Wave::OnDemand)
            })
            .collect();
        if surplus.is_empty() {
            return Vec::new();
        }
        let in_use = self.in_use();
        let used = |key: &ResourceKey| in_use.exact.contains(key) || in_use.kinds.contains(&kind);
        let free: BTreeSet<Name> = surplus
            .into_iter()
            .filter(|key| wave == Wave::OnDemand || !used(key))
            .map(|key| key.name)
            .collect();
        free.into_iter().collect()
    }

    /// What the things that the client holds require, at the versions it holds.
    fn in_use(&self) -> InUse {
        let mut in_use = InUse::default();
        for kind in ResourceKind::ALL {
            for (name, held) in &self.channels.get(kind).held {
                let key = ResourceKey {
                    kind,
                    name: Name::clone(name),
                };
                match &held.resource {
                    Some(resource) => in_use.exact.extend(resource.requires.iter().cloned()),
                    None => in_use.kinds.extend(self.feared(&key)),
                }
            }
        }
        in_use
    }

    /// The kinds that something of unknown content may refer to.
    ///
    /// What the client brought along, and is no longer in the view, goes in an earlier wave; a route stays until the
    /// client gives it up.
    fn feared(&self, key: &ResourceKey) -> &'static [ResourceKind] {
        use ResourceKind::{Cluster, Endpoints, Listener, Route};
        match key.kind {
            Cluster if self.is_on_demand(key) => &[Listener, Route, Cluster, Endpoints],
            Cluster | Endpoints => &[],
            Listener => &[Route, Cluster, Endpoints],
            Route => &[Cluster, Endpoints],
        }
    }

    /// The client has been told that a resource is gone.
    pub(super) fn removed(&mut self, kind: ResourceKind, name: &Name) {
        let channel = self.channels.get_mut(kind);
        let still_used = kind == ResourceKind::Route && channel.subscription.covers(name);
        match channel.held.get_mut(name) {
            Some(held) if still_used => {
                held.gone = true;
                self.notes.push(super::Note::Dropped {
                    key: ResourceKey {
                        kind,
                        name: Name::clone(name),
                    },
                });
                self.channels.get_mut(kind).doubtful.remove(name);
            }
            Some(_) | None => self.drop_held(kind, name),
        }
        if kind == ResourceKind::Cluster {
            self.channels
                .get_mut(ResourceKind::Endpoints)
                .warm
                .remove(name);
        }
    }
}

#[derive(Default)]
struct InUse {
    exact: BTreeSet<ResourceKey>,
    kinds: BTreeSet<ResourceKind>,
}
