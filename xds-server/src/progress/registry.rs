//! The progress of every subscriber towards its view, kept for the owner of the source to read.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::watch;

use super::subscriber::{Progress, ProgressChange};
use crate::session::Flavor;
use crate::source::{NodeInfo, SubscriberId};

/// One stream of a subscriber. The progress that the newest open stream reports is the published one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StreamToken(u64);

#[derive(Debug)]
struct Entry {
    /// The newest open stream: its progress is the published one. The last stream after all have ended.
    stream: u64,
    /// Older streams that are still open, by age, each with the progress that it reports.
    older: BTreeMap<u64, Progress>,
    progress: Arc<Progress>,
}

impl Entry {
    /// Puts a newer stream in front of the one that is published, if that one is open.
    fn precede(&mut self, stream: u64) {
        if self.progress.connected {
            let before = Progress::clone(&self.progress);
            self.older.insert(self.stream, before);
        }
        self.stream = stream;
    }

    /// Publishes the newest of the older streams in place of the one that has ended. Bytes and responses stay those of all streams.
    fn resume(&mut self) -> bool {
        let Some((stream, older)) = self.older.pop_last() else {
            return false;
        };
        self.stream = stream;
        let ended = Arc::make_mut(&mut self.progress);
        *ended = Progress {
            bytes: ended.bytes,
            responses: ended.responses,
            revision: ended.revision,
            ..older
        };
        true
    }
}

#[derive(Debug, Default)]
struct Inner {
    revision: u64,
    streams: u64,
    subscribers: BTreeMap<SubscriberId, Entry>,
    /// The subscribers by the revision of their progress.
    by_revision: BTreeMap<u64, SubscriberId>,
}

/// The progress of all subscribers.
///
/// # Guarantees
/// A disconnected subscriber stays until [`Registry::forget`]: it still counts as a proxy that should run its view.
/// While two streams of one subscriber are open, the progress of the newer one is published; when it ends, that of the older
/// one is published again, with everything that the older one reported in between.
#[derive(Debug)]
pub struct Registry {
    inner: Mutex<Inner>,
    changed: watch::Sender<u64>,
}

impl Default for Registry {
    fn default() -> Self {
        Self {
            inner: Mutex::default(),
            changed: watch::Sender::new(0),
        }
    }
}

impl Registry {
    /// The progress of all subscribers at one moment; cheap, for the entries are shared.
    #[must_use]
    pub fn snapshot(&self) -> BTreeMap<SubscriberId, Arc<Progress>> {
        let inner = self.lock();
        let entries = inner.subscribers.iter();
        entries
            .map(|(id, entry)| (id.clone(), Arc::clone(&entry.progress)))
            .collect()
    }

    /// The progress of one subscriber.
    #[must_use]
    pub fn get(&self, who: &SubscriberId) -> Option<Arc<Progress>> {
        let inner = self.lock();
        let entry = inner.subscribers.get(who)?;
        Some(Arc::clone(&entry.progress))
    }

    /// The subscribers with a progress of a revision above `revision`, oldest change first; the cost is that of these alone.
    /// Forgotten subscribers are not listed.
    #[must_use]
    pub fn changed_since(&self, revision: u64) -> Vec<(SubscriberId, Arc<Progress>)> {
        let inner = self.lock();
        let newer = (Bound::Excluded(revision), Bound::Unbounded);
        let changed = inner.by_revision.range(newer).filter_map(|(_, id)| {
            let entry = inner.subscribers.get(id)?;
            Some((id.clone(), Arc::clone(&entry.progress)))
        });
        changed.collect()
    }

    /// Ticks with the newest revision whenever any progress has changed.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Drops the progress of a subscriber that will not come back. That of a connected subscriber stays.
    pub fn forget(&self, who: &SubscriberId) {
        let mut inner = self.lock();
        let known = inner.subscribers.get(who);
        let gone = known.filter(|entry| !entry.progress.connected);
        if let Some(revision) = gone.map(|entry| entry.progress.revision) {
            inner.subscribers.remove(who);
            inner.by_revision.remove(&revision);
            inner.revision += 1;
            self.changed.send_replace(inner.revision);
        }
    }

    pub(crate) fn connect(
        &self,
        who: &SubscriberId,
        node: NodeInfo,
        flavor: Flavor,
    ) -> StreamToken {
        let mut inner = self.lock();
        inner.streams += 1;
        let stream = inner.streams;
        let entry = inner.subscribers.entry(who.clone()).or_insert_with(|| {
            let progress = Progress {
                connected: false,
                since: SystemTime::UNIX_EPOCH,
                node: Arc::default(),
                flavor,
                on_demand: Arc::default(),
                view: None,
                unacknowledged: BTreeMap::new(),
                resources: 0,
                bytes: 0,
                responses: 0,
                revision: 0,
            };
            Entry {
                stream,
                older: BTreeMap::new(),
                progress: Arc::new(progress),
            }
        });
        entry.precede(stream);
        let token = StreamToken(stream);
        self.update(&mut inner, who, token, |progress| {
            progress.connected = true;
            progress.since = SystemTime::now();
            progress.node = Arc::new(node);
            progress.flavor = flavor;
        });
        token
    }

    /// A stream has ended. Returns whether an older open stream takes its place.
    pub(crate) fn disconnect(&self, who: &SubscriberId, token: StreamToken) -> bool {
        let mut inner = self.lock();
        let Some(entry) = inner.subscribers.get_mut(who) else {
            return false;
        };
        entry.older.remove(&token.0);
        if entry.stream != token.0 {
            return false;
        }
        let resumed = entry.resume();
        let token = StreamToken(entry.stream);
        self.update(&mut inner, who, token, |progress| {
            progress.connected = resumed;
            if !resumed {
                progress.since = SystemTime::now();
            }
        });
        resumed
    }

    pub(crate) fn report(&self, who: &SubscriberId, token: StreamToken, report: ProgressChange) {
        if report.is_empty() {
            return;
        }
        let mut inner = self.lock();
        let Some(entry) = inner.subscribers.get_mut(who) else {
            return;
        };
        if let Some(older) = entry.older.get_mut(&token.0) {
            let published = Arc::make_mut(&mut entry.progress);
            published.bytes += report.bytes;
            published.responses += report.responses;
            report.apply(older);
            return;
        }
        self.update(&mut inner, who, token, |p| report.apply(p));
    }

    /// Changes the progress of a subscriber, if the stream may. Readers of the earlier snapshot keep it unchanged.
    fn update(
        &self,
        inner: &mut Inner,
        who: &SubscriberId,
        token: StreamToken,
        change: impl FnOnce(&mut Progress),
    ) {
        let Some(entry) = inner.subscribers.get_mut(who) else {
            return;
        };
        if entry.stream != token.0 {
            return;
        }
        inner.revision += 1;
        let progress = Arc::make_mut(&mut entry.progress);
        change(progress);
        let before = std::mem::replace(&mut progress.revision, inner.revision);
        let id = inner.by_revision.remove(&before);
        inner
            .by_revision
            .insert(inner.revision, id.unwrap_or_else(|| who.clone()));
        self.changed.send_replace(inner.revision);
    }

    /// A panic elsewhere while the lock was held leaves the maps whole: every change is a plain insert or remove.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::subscriber::SyncStates;
    use super::*;
    use crate::resource::Resource;
    use crate::resource::ResourceKind::Cluster;
    use crate::resource::{Part, ResourceKey, View};
    use crate::session::SyncState;

    fn runs(progress: &Progress, resource: Resource) -> bool {
        progress
            .unacknowledged_of(&Arc::new(View::from_iter([resource])))
            .is_empty()
    }

    fn resource(name: &str, version: &str) -> Resource {
        Resource {
            key: ResourceKey::new(Cluster, name),
            version: version.into(),
            body: bytes::Bytes::new(),
            requires: vec![],
            empty: false,
        }
    }

    fn scope(resources: impl IntoIterator<Item = Resource>) -> ProgressChange {
        let view = Arc::new(View::from_iter(resources));
        ProgressChange {
            scope: Some((Some(view), Arc::default())),
            ..ProgressChange::default()
        }
    }

    fn sync_state(name: &str, sync_state: SyncState) -> ProgressChange {
        ProgressChange {
            sync_states: SyncStates::Changed(vec![(ResourceKey::new(Cluster, name), sync_state)]),
            ..ProgressChange::default()
        }
    }

    #[test]
    fn a_resource_that_is_acknowledged_at_the_version_of_the_view_runs() {
        let (registry, who) = (Registry::default(), SubscriberId::from("n"));
        let token = registry.connect(&who, NodeInfo::default(), Flavor::Delta);
        let report = |report| {
            registry.report(&who, token, report);
            registry.get(&who).unwrap()
        };
        let a = || resource("a", "1");
        assert!(!runs(&report(sync_state("a", SyncState::InSync)), a()));
        assert!(runs(&report(scope([a()])), a()));
        assert!(!runs(
            &report(sync_state("a", SyncState::Unacknowledged(None))),
            a()
        ));
        let progress = report(sync_state("a", SyncState::InSync));
        assert!(runs(&progress, a()) && !runs(&progress, resource("a", "2")));
    }

    #[test]
    fn resources_of_any_view_that_are_unacknowledged_are_listed() {
        let (registry, who) = (Registry::default(), SubscriberId::from("n"));
        let token = registry.connect(&who, NodeInfo::default(), Flavor::Delta);
        let part = |resources: &[(&str, &str)]| {
            let resources = resources.iter();
            let resources = resources.map(|(name, version)| Arc::new(resource(name, version)));
            Arc::new(Part {
                resources: resources.collect(),
            })
        };
        let view = |parts: &[&Arc<Part>]| {
            Arc::new(View {
                parts: parts.iter().map(|part| Arc::clone(part)).collect(),
                ..View::default()
            })
        };
        let (a, b) = (part(&[("a", "1"), ("x", "1")]), part(&[("b", "1")]));
        let has = view(&[&a, &b]);
        let report = ProgressChange {
            sync_states: SyncStates::Whole([(ResourceKey::new(Cluster, "b"), None)].into()),
            scope: Some((Some(Arc::clone(&has)), Arc::default())),
            ..ProgressChange::default()
        };
        registry.report(&who, token, report);
        let progress = registry.get(&who).unwrap();
        let unacknowledged = |view: Arc<View>| -> Vec<String> {
            let unacknowledged = progress.unacknowledged_of(&view).into_iter();
            unacknowledged.map(|key| key.name.to_string()).collect()
        };
        assert_eq!(unacknowledged(has), ["b"]);
        assert_eq!(unacknowledged(view(&[&b, &a])), ["b"]);
        let again = part(&[("x", "1"), ("c", "1")]);
        assert_eq!(unacknowledged(view(&[&again, &a])), ["c"], "x is in a, too");
        assert_eq!(
            unacknowledged(view(&[&part(&[("a", "2"), ("b", "1")])])),
            ["a", "b"]
        );
        assert_eq!(unacknowledged(Arc::default()), [""; 0]);
    }

    #[test]
    fn the_last_word_stands_until_there_is_a_new_one() {
        let (registry, who) = (Registry::default(), SubscriberId::from("n"));
        let connect = || registry.connect(&who, NodeInfo::default(), Flavor::Delta);
        let token = connect();
        registry.report(&who, token, scope([resource("a", "1")]));
        registry.disconnect(&who, token);
        let token = connect();
        assert!(runs(&registry.get(&who).unwrap(), resource("a", "1")));
        let unacknowledged = [(ResourceKey::new(Cluster, "a"), None)];
        let report = ProgressChange {
            sync_states: SyncStates::Whole(unacknowledged.into()),
            ..scope([resource("a", "1")])
        };
        registry.report(&who, token, report);
        assert!(!runs(&registry.get(&who).unwrap(), resource("a", "1")));
    }

    #[test]
    fn the_older_open_stream_is_published_again_when_the_newer_one_ends() {
        let (registry, who) = (Registry::default(), SubscriberId::from("n"));
        let connect = || registry.connect(&who, NodeInfo::default(), Flavor::Delta);
        let get = || registry.get(&who).unwrap();
        let (a, sent) = (
            || resource("a", "1"),
            |bytes| ProgressChange {
                bytes,
                responses: 1,
                ..ProgressChange::default()
            },
        );
        let old = connect();
        registry.report(&who, old, scope([a()]));
        registry.report(&who, old, sync_state("a", SyncState::Unacknowledged(None)));
        let new = connect();
        registry.report(&who, new, scope([resource("b", "1")]));
        registry.report(&who, new, sent(5));
        registry.report(&who, old, sync_state("a", SyncState::InSync));
        registry.report(&who, old, sent(7));
        let shown = get();
        assert!(!runs(&shown, a()) && runs(&shown, resource("b", "1")));
        let before = shown.revision;
        assert!(registry.disconnect(&who, new));
        let shown = get();
        assert!(shown.connected && runs(&shown, a()));
        assert_eq!((shown.bytes, shown.responses), (12, 2));
        assert_eq!(registry.changed_since(before).len(), 1);
        registry.report(&who, old, sync_state("a", SyncState::Unacknowledged(None)));
        assert!(!runs(&get(), a()), "its later reports count");
        registry.report(&who, new, sync_state("a", SyncState::InSync));
        assert!(!runs(&get(), a()), "the ended stream reports no more");
        assert!(!registry.disconnect(&who, old));
        assert!(!get().connected);
    }

    #[test]
    fn an_older_stream_that_ends_leaves_the_newer_one_published() {
        let (registry, who) = (Registry::default(), SubscriberId::from("n"));
        let connect = || registry.connect(&who, NodeInfo::default(), Flavor::Delta);
        let (old, middle, new) = (connect(), connect(), connect());
        registry.report(&who, old, sync_state("a", SyncState::Unacknowledged(None)));
        assert_eq!(registry.get(&who).unwrap().unacknowledged.len(), 0);
        assert!(!registry.disconnect(&who, middle));
        assert!(registry.get(&who).unwrap().connected);
        assert!(registry.disconnect(&who, new));
        assert_eq!(registry.get(&who).unwrap().unacknowledged.len(), 1);
        assert!(!registry.disconnect(&who, old));
        assert!(!registry.get(&who).unwrap().connected);
        // A stream that has ended does not come back with the next one.
        let again = connect();
        assert!(!registry.disconnect(&who, again));
    }

    #[test]
    fn changes_are_found_by_revision() {
        let registry = Registry::default();
        let ids: Vec<SubscriberId> = ["a", "b", "c"].map(SubscriberId::from).into();
        let connect = |id| registry.connect(id, NodeInfo::default(), Flavor::Delta);
        let tokens: Vec<_> = ids.iter().map(connect).collect();
        let seen = *registry.changes().borrow();
        assert_eq!(registry.changed_since(seen).len(), 0);
        for (id, token) in ids.iter().zip(&tokens).rev() {
            registry.disconnect(id, *token);
        }
        registry.disconnect(&ids[1], tokens[1]);
        let changed = |since| -> Vec<_> {
            let changed = registry.changed_since(since);
            changed.iter().map(|(id, _)| id.to_string()).collect()
        };
        assert_eq!(changed(seen), ["c", "a", "b"]);
        registry.forget(&ids[0]);
        assert_eq!(changed(0), ["c", "b"]);
        assert_eq!(registry.snapshot().len(), 2);
    }
}
