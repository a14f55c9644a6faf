//! The progress of one subscriber, and its changes.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use crate::resource::{Part, ResourceKey, View};
use crate::session::{Flavor, Rejection, SyncState};
use crate::source::{NodeInfo, OnDemandRequests};

/// The progress of one subscriber.
///
/// The entry of a subscriber that reconnects with resources stays as before until the client has reported all of them; a
/// subscriber that has lost everything has acknowledged nothing at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Whether a stream is open.
    pub connected: bool,
    /// Since when it is (dis)connected.
    pub since: SystemTime,
    /// The node as the client describes it.
    pub node: Arc<NodeInfo>,
    /// How it speaks.
    pub flavor: Flavor,
    /// The on-demand requests of the client.
    pub on_demand: Arc<OnDemandRequests>,
    /// The view that the stream works towards; the last one if it is disconnected.
    pub view: Option<Arc<View>>,
    /// The resources of that view that are unacknowledged, with the rejection if the client rejected the view's version.
    pub unacknowledged: BTreeMap<ResourceKey, Option<Rejection>>,
    /// How many resources the client holds.
    pub resources: usize,
    /// Encoded bytes of all responses, over all streams.
    pub bytes: u64,
    /// Number of all responses, over all streams.
    pub responses: u64,
    /// Grows with every change of any subscriber; see [`Registry::changed_since`](super::Registry::changed_since).
    pub revision: u64,
}

impl Progress {
    /// The resources of a view that the client has not acknowledged at exactly the view's version. The cost is at most that
    /// of the view, and nothing for the view that the stream works towards.
    #[must_use]
    pub fn unacknowledged_of<'a>(&'a self, view: &'a Arc<View>) -> BTreeSet<&'a ResourceKey> {
        let known = self.view.as_ref();
        if known.is_some_and(|known| Arc::ptr_eq(known, view)) {
            return self.unacknowledged.keys().collect();
        }
        let parts = known.map_or(&[][..], |known| &known.parts);
        // Most parts of both are the very same, though not at the same places.
        let shared: HashSet<*const Part> = parts.iter().map(Arc::as_ptr).collect();
        let (shared, others): (Vec<_>, Vec<_>) = view
            .parts
            .iter()
            .partition(|part| shared.contains(&Arc::as_ptr(part)));
        let resources = |parts: Vec<&'a Arc<Part>>| parts.into_iter().flat_map(|p| &p.resources);
        let mut news: HashMap<&ResourceKey, &Arc<str>> = resources(others)
            .map(|resource| (&resource.key, &resource.version))
            .collect();
        let is_unacknowledged = |key: &ResourceKey| self.unacknowledged.contains_key(key);
        let held = known.into_iter().flat_map(|known| known.iter());
        for resource in held {
            if news.is_empty() {
                break;
            }
            let as_in_view = news.get(&resource.key) == Some(&&resource.version);
            if as_in_view && !is_unacknowledged(&resource.key) {
                news.remove(&resource.key);
            }
        }
        let others = resources(shared).map(|resource| &resource.key);
        let others = others.filter(|key| is_unacknowledged(key));
        others.chain(news.into_keys()).collect()
    }
}

/// The result of one step of a stream.
#[derive(Debug, Default)]
pub(crate) struct ProgressChange {
    pub sync_states: SyncStates,
    /// The view and the on-demand requests, if they changed.
    pub scope: Option<(Option<Arc<View>>, Arc<OnDemandRequests>)>,
    pub resources: Option<usize>,
    pub bytes: u64,
    pub responses: u64,
}

/// The sync states of the subscriber that may differ.
#[derive(Debug)]
pub(crate) enum SyncStates {
    /// Those of these resources; all others are as before.
    Changed(Vec<(ResourceKey, SyncState)>),
    /// These are unacknowledged, and no others.
    Whole(BTreeMap<ResourceKey, Option<Rejection>>),
}

impl Default for SyncStates {
    fn default() -> Self {
        Self::Changed(Vec::new())
    }
}

impl ProgressChange {
    pub(super) fn is_empty(&self) -> bool {
        let same = matches!(&self.sync_states, SyncStates::Changed(changed) if changed.is_empty());
        same && self.scope.is_none() && self.responses == 0
    }

    pub(super) fn apply(self, progress: &mut Progress) {
        if let Some((view, on_demand)) = self.scope {
            (progress.view, progress.on_demand) = (view, on_demand);
        }
        match self.sync_states {
            SyncStates::Whole(all) => progress.unacknowledged = all,
            SyncStates::Changed(changed) => {
                for (key, sync_state) in changed {
                    match sync_state {
                        SyncState::InSync => progress.unacknowledged.remove(&key),
                        SyncState::Unacknowledged(rejection) => {
                            progress.unacknowledged.insert(key, rejection)
                        }
                    };
                }
            }
        }
        progress.resources = self.resources.unwrap_or(progress.resources);
        progress.bytes += self.bytes;
        progress.responses += self.responses;
    }
}
