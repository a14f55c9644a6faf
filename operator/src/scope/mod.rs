//! The destinations of each workload, learned from the requests of its proxies. The next pod of a workload starts with the
//! destinations of the other pods, and unused destinations are evicted.
//!
//! A destination is *active* (its listener, clusters and endpoints are in the view of every pod of the workload),
//! then, once unused for long, *draining* (no listener, so that no new connection comes, but clusters and
//! endpoints for connections that drain), then evicted. A new request for a destination makes it active at once.
//!
//! Times are seconds since 1970, given by the caller.

mod bound;
mod bucket;
mod codec;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use heddle_policy_compiler::{Destination, WorkloadRef};
use tokio::sync::watch;

pub use bound::{MAX_ABSENT, MAX_ABSENT_PER_NAMESPACE};
pub use bucket::Recent;
pub use codec::{key, read, write};

/// A workload learns so many destinations at most; then the one that was not used for longest makes room. Some 60 kB of
/// a sidecar's memory each.
pub const MAX_ACTIVE: usize = 1024;

/// For so long a listener that was taken away may still have connections: Envoy's `--drain-time-s`, which the agent
/// sets, and as much again.
pub const DRAIN_SECONDS: u64 = 2 * 30;

/// Seconds since 1970.
pub type Seconds = u64;

/// The destinations in the views of a workload's pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sets {
    /// Listener and all behind it.
    pub active: BTreeSet<Destination>,
    /// All behind it, no listener.
    pub draining: BTreeSet<Destination>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    used: Seconds,
    /// When a proxy came back with it: it may be in use, but that is not a use.
    reported_on_reconnect: Seconds,
    /// The value of `used` in the store.
    saved: Seconds,
    draining_since: Option<Seconds>,
}

impl Entry {
    fn new(used: Seconds, saved: Seconds) -> Self {
        Self {
            used,
            reported_on_reconnect: 0,
            saved,
            draining_since: None,
        }
    }

    /// When it was last in use, or may have been.
    fn seen(&self) -> Seconds {
        self.used.max(self.reported_on_reconnect)
    }
}

#[derive(Default)]
struct WorkloadScope {
    entries: BTreeMap<Destination, Entry>,
    sets: Arc<Sets>,
    /// When it was first found that there is no room.
    full_since: Option<Seconds>,
}

impl WorkloadScope {
    fn rebuild(&mut self) {
        let (mut active, mut draining) = (BTreeSet::new(), BTreeSet::new());
        for (destination, entry) in &self.entries {
            let set = match entry.draining_since {
                None => &mut active,
                Some(_) => &mut draining,
            };
            set.insert(destination.clone());
        }
        self.sets = Arc::new(Sets { active, draining });
    }

    /// Whether there is room for one more. If need be one makes room that was not used for `unused` seconds (`None`: none does),
    /// and no sooner than so long after it was first found that there is none, for until then it is not known which are in use.
    fn make_room(&mut self, unused: Option<Seconds>, now: Seconds) -> bool {
        if self.sets.active.len() < MAX_ACTIVE {
            return true;
        }
        let since = *self.full_since.get_or_insert(now);
        let Some(unused) = unused else { return false };
        let active = self
            .entries
            .values_mut()
            .filter(|entry| entry.draining_since.is_none());
        let Some(oldest) = active.min_by_key(|entry| entry.seen()) else {
            return false;
        };
        if now.saturating_sub(oldest.seen().max(since)) < unused {
            return false;
        }
        oldest.draining_since = Some(now);
        true
    }
}

/// The result of learning a requested destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LearnResult {
    /// It was active already.
    Before,
    /// It is active now.
    Now,
    /// It is not: too many others are.
    NoRoom,
}

/// The scopes of all workloads.
///
/// # Guarantees
/// Bounded by [`MAX_ACTIVE`] for each workload, and by [`MAX_ABSENT`] workloads without pods. [`Scopes::of`] returns the same
/// `Arc` as long as nothing changed.
#[derive(Default)]
pub struct Scopes {
    workloads: Mutex<Inner>,
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct Inner {
    workloads: HashMap<WorkloadRef, WorkloadScope>,
    unsaved: BTreeSet<WorkloadRef>,
}

impl std::fmt::Debug for Scopes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scopes").finish_non_exhaustive()
    }
}

impl Scopes {
    /// Returns the destinations of a workload.
    #[must_use]
    pub fn of(&self, workload: &WorkloadRef) -> Arc<Sets> {
        let inner = self.lock();
        inner
            .workloads
            .get(workload)
            .map(|workload| Arc::clone(&workload.sets))
            .unwrap_or_default()
    }

    /// A pod of the workload asked for the destination. If there is no room, one makes some that was not used for `unused`
    /// seconds; `None`: none does.
    pub fn learn(
        &self,
        workload: &WorkloadRef,
        destination: &Destination,
        unused: Option<Seconds>,
        now: Seconds,
    ) -> LearnResult {
        let mut inner = self.lock();
        let known = inner.workloads.entry(workload.clone()).or_default();
        let entry = known.entries.get_mut(destination);
        if let Some(entry) = entry.filter(|entry| entry.draining_since.is_none()) {
            entry.used = entry.used.max(now);
            return LearnResult::Before;
        }
        let was_full = known.full_since.is_some();
        if !known.make_room(unused, now) {
            if !was_full && known.full_since.is_some() {
                tracing::warn!(%workload, destinations = MAX_ACTIVE, "the scope of the workload is full; further destinations are not learned");
            }
            return LearnResult::NoRoom;
        }
        let entry = known.entries.entry(destination.clone());
        let entry = entry.or_insert(Entry::new(now, 0));
        entry.used = entry.used.max(now);
        entry.draining_since = None;
        known.rebuild();
        inner.unsaved.insert(workload.clone());
        drop(inner);
        self.tick();
        LearnResult::Now
    }

    /// A proxy of the workload has come back with these destinations: of those that are active none makes room for a while.
    pub fn reported_on_reconnect(
        &self,
        workload: &WorkloadRef,
        destinations: &BTreeSet<Destination>,
        now: Seconds,
    ) {
        if let Some(known) = self.lock().workloads.get_mut(workload) {
            for destination in destinations {
                if let Some(entry) = known.entries.get_mut(destination) {
                    entry.reported_on_reconnect = now;
                }
            }
        }
    }

    /// Records traffic to destinations of the workload. The workload becomes unsaved once a time of use is `save_after`
    /// seconds newer than in the store.
    pub fn used(
        &self,
        workload: &WorkloadRef,
        destinations: &BTreeSet<Destination>,
        now: Seconds,
        save_after: Seconds,
    ) {
        let mut inner = self.lock();
        let Some(known) = inner.workloads.get_mut(workload) else {
            return;
        };
        let mut save = false;
        for destination in destinations {
            if let Some(entry) = known.entries.get_mut(destination) {
                entry.used = entry.used.max(now);
                save |= entry.used.saturating_sub(entry.saved) >= save_after;
            }
        }
        if save {
            inner.unsaved.insert(workload.clone());
            drop(inner);
            self.tick();
        }
    }

    /// Starts to drain destinations that have been unused for `idle` seconds and that `may_go` permits (its last argument
    /// is the number of unused seconds), and evicts drained ones. Returns the workloads with a changed scope.
    pub fn sweep(
        &self,
        now: Seconds,
        idle: Seconds,
        may_go: impl Fn(&WorkloadRef, &Destination, Seconds) -> bool,
    ) -> Vec<WorkloadRef> {
        let mut inner = self.lock();
        let mut swept = Vec::new();
        for (name, workload) in &mut inner.workloads {
            let mut changed = false;
            workload.entries.retain(|_, entry| {
                let quiet =
                    |since: Seconds| now.saturating_sub(since.max(entry.used)) >= DRAIN_SECONDS;
                let drained = entry.draining_since.is_some_and(quiet);
                changed |= drained;
                !drained
            });
            for (destination, entry) in &mut workload.entries {
                let unused = now.saturating_sub(entry.used);
                if entry.draining_since.is_none()
                    && unused >= idle
                    && may_go(name, destination, unused)
                {
                    entry.draining_since = Some(now);
                    changed = true;
                }
            }
            if changed {
                workload.rebuild();
                swept.push(name.clone());
            }
        }
        self.lost_some(inner, &swept);
        swept
    }

    /// Forgets destinations that do not exist any more. Returns the workloads with a changed scope.
    pub fn retain(&self, exists: impl Fn(&Destination) -> bool) -> Vec<WorkloadRef> {
        let mut inner = self.lock();
        let mut changed = Vec::new();
        for (name, workload) in &mut inner.workloads {
            let before = workload.entries.len();
            workload
                .entries
                .retain(|destination, _| exists(destination));
            if workload.entries.len() != before {
                workload.rebuild();
                changed.push(name.clone());
            }
        }
        self.lost_some(inner, &changed);
        changed
    }

    /// Adds the stored destinations of a workload: from before a restart, or from another replica. With `last_word` (the
    /// workload has no pods here), saved destinations that the store does not contain any more are removed. Returns whether
    /// the scope changed.
    pub fn remember(
        &self,
        workload: &WorkloadRef,
        stored: &BTreeMap<Destination, Seconds>,
        last_word: bool,
    ) -> bool {
        let mut inner = self.lock();
        let known = inner.workloads.entry(workload.clone()).or_default();
        let before = known.entries.len();
        known.entries.retain(|destination, entry| {
            !last_word || entry.saved == 0 || stored.contains_key(destination)
        });
        let mut changed = known.entries.len() != before;
        let is_active = |entry: &&Entry| entry.draining_since.is_none();
        let mut active = known.entries.values().filter(is_active).count();
        for (destination, used) in stored {
            let room = active < MAX_ACTIVE;
            match known.entries.get_mut(destination) {
                Some(entry) => {
                    // Used elsewhere since it drains here.
                    if room && entry.draining_since.is_some_and(|since| *used > since) {
                        entry.draining_since = None;
                        changed = true;
                        active += 1;
                    }
                    entry.used = entry.used.max(*used);
                    entry.saved = entry.saved.max(*used);
                }
                None if room => {
                    known
                        .entries
                        .insert(destination.clone(), Entry::new(*used, *used));
                    changed = true;
                    active += 1;
                }
                None => {}
            }
        }
        if changed {
            known.rebuild();
        }
        if known.entries.is_empty() {
            inner.workloads.remove(workload);
        }
        changed
    }

    /// Returns each workload that changed since the last call, with its active destinations, for the store. Without
    /// destinations the store must forget the workload.
    pub fn unsaved(&self) -> BTreeMap<WorkloadRef, BTreeMap<Destination, Seconds>> {
        let mut inner = self.lock();
        let names = std::mem::take(&mut inner.unsaved);
        let mut unsaved = BTreeMap::new();
        for name in names {
            let mut active = BTreeMap::new();
            if let Some(workload) = inner.workloads.get_mut(&name) {
                for (destination, entry) in &mut workload.entries {
                    entry.saved = entry.used;
                    if entry.draining_since.is_none() {
                        active.insert(destination.clone(), entry.used);
                    }
                }
            }
            unsaved.insert(name, active);
        }
        unsaved
    }

    /// Marks workloads of [`Scopes::unsaved`] that could not be stored as unsaved again.
    pub fn not_saved(&self, workloads: impl IntoIterator<Item = WorkloadRef>) {
        self.lock().unsaved.extend(workloads);
    }

    /// The workloads that hold something.
    #[must_use]
    pub fn workloads(&self) -> Vec<WorkloadRef> {
        self.lock().workloads.keys().cloned().collect()
    }

    /// The number of active destinations, by workload.
    #[must_use]
    pub fn sizes(&self) -> Vec<usize> {
        self.lock()
            .workloads
            .values()
            .map(|workload| workload.sets.active.len())
            .collect()
    }

    /// Ticks when there is something unsaved.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Handles workloads that lost destinations: they become unsaved, and workloads without destinations are forgotten.
    fn lost_some(&self, mut inner: MutexGuard<'_, Inner>, workloads: &[WorkloadRef]) {
        inner.unsaved.extend(workloads.iter().cloned());
        inner
            .workloads
            .retain(|_, workload| !workload.entries.is_empty());
        drop(inner);
        if !workloads.is_empty() {
            self.tick();
        }
    }

    fn tick(&self) {
        self.changed.send_modify(|tick| *tick += 1);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic elsewhere leaves the maps whole: every change is a plain insert or remove.
        self.workloads
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
