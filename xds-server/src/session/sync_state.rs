//! The sync state of the client and its view: unacknowledged resources, rejections, and the oldest view that lacks an answer.

use std::collections::BTreeMap;

use crate::resource::{ResourceKey, ResourceKind};

use super::rejection::Rejection;
use super::{Flavor, Session, SyncState};

impl Session {
    /// Returns the sync states that may have changed since the last call.
    pub fn take_sync_states(&mut self) -> Vec<(ResourceKey, SyncState)> {
        let mut sync_states = Vec::new();
        for kind in ResourceKind::ALL {
            for name in std::mem::take(&mut self.channels.get_mut(kind).moved) {
                let key = ResourceKey { kind, name };
                let sync_state = self.sync_state(&key);
                match sync_state {
                    SyncState::InSync if self.unacknowledged.remove(&key).is_none() => continue,
                    SyncState::InSync => {}
                    SyncState::Unacknowledged(_) => {
                        self.unacknowledged.entry(key.clone()).or_insert(self.views);
                    }
                }
                sync_states.push((key, sync_state));
            }
        }
        sync_states
    }

    fn sync_state(&self, key: &ResourceKey) -> SyncState {
        let channel = self.channels.get(key.kind);
        match channel.current(&key.name) {
            // A client that never subscribes to the kind lacks nothing of it.
            Some(_) if key.kind.is_optional() && !channel.subscription.covers(&key.name) => {
                SyncState::InSync
            }
            Some(resource) if !channel.in_sync(&key.name) => {
                let rejection = channel.rejected.get(&key.name);
                let rejection = rejection.filter(|of| of.version == resource.version);
                SyncState::Unacknowledged(rejection.cloned())
            }
            Some(_) | None => SyncState::InSync,
        }
    }

    /// The unacknowledged resources of the view, with rejections, as of the last [`Session::take_sync_states`].
    #[must_use]
    pub fn unacknowledged(&self) -> BTreeMap<ResourceKey, Option<Rejection>> {
        let all = self
            .unacknowledged
            .keys()
            .filter_map(|key| match self.sync_state(key) {
                SyncState::InSync => None,
                SyncState::Unacknowledged(rejection) => Some((key.clone(), rejection)),
            });
        all.collect()
    }

    /// How many resources the client holds.
    #[must_use]
    pub fn held_count(&self) -> usize {
        ResourceKind::ALL
            .into_iter()
            .map(|kind| self.channels.get(kind).held_count())
            .sum()
    }

    /// Whether the client has reported the resources it holds: it started with nothing, or opened every kind that the view
    /// has, or its time is over.
    #[must_use]
    pub fn has_reported(&self) -> bool {
        let opened = |kind| {
            let channel = self.channels.get(kind);
            channel.opened || kind.is_optional() || channel.currents().next().is_none()
        };
        self.has_opened
            && (!self.resyncing
                || (self.flavor == Flavor::Delta && ResourceKind::ALL.into_iter().all(opened)))
    }

    /// The number of the newest view: each call of [`Session::set_view`] is the next one.
    #[must_use]
    pub const fn views(&self) -> u64 {
        self.views
    }

    /// The client has answered for every view up to this number, in all that it subscribes to.
    #[must_use]
    pub fn answered_views(&self) -> u64 {
        let waited_for = self.unacknowledged.iter().filter(|(key, _)| {
            let channel = self.channels.get(key.kind);
            channel.subscription.covers(&key.name) && !channel.rejected.contains_key(&key.name)
        });
        let oldest = waited_for.map(|(_, view)| view.saturating_sub(1)).min();
        oldest.unwrap_or(self.views)
    }
}
