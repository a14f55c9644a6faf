//! Who runs what: the acknowledgements and refusals of every subscriber, kept for the source's owner to read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::watch;

use crate::resource::{Name, ResourceKey, View};
use crate::session::{Flavor, Note};
use crate::source::{NodeInfo, SubscriberId};

/// The longest text of a refusal that is kept, in bytes.
pub const MAX_TEXT: usize = 4096;

/// A resource that the client refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The version refused.
    pub version: Arc<str>,
    /// The client's own words, cut at [`MAX_TEXT`].
    pub text: Arc<str>,
}

/// What is known of one subscriber.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Whether a stream is open.
    pub connected: bool,
    /// Since when it is (dis)connected.
    pub since: SystemTime,
    /// What the client said of itself.
    pub node: NodeInfo,
    /// How it speaks.
    pub flavor: Flavor,
    /// The version of each resource that the client has acknowledged and not been told to drop since.
    pub acked: BTreeMap<ResourceKey, Arc<str>>,
    /// The resources refused at the version that the view has.
    pub rejected: BTreeMap<ResourceKey, Rejection>,
    /// The on-demand names asked for.
    pub wanted: BTreeSet<Name>,
    /// Encoded bytes of all responses, over all streams.
    pub bytes: u64,
    /// Number of all responses, over all streams.
    pub responses: u64,
    /// Grows with every change of any subscriber; see [`Registry::changed_since`].
    pub revision: u64,
}

/// One stream's right to report on its subscriber: the newest stream has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StreamToken(u64);

/// What one step of a stream did.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub notes: Vec<Note>,
    pub wanted: Option<BTreeSet<Name>>,
    pub bytes: u64,
    pub responses: u64,
}

impl Report {
    fn is_empty(&self) -> bool {
        self.notes.is_empty() && self.wanted.is_none() && self.responses == 0
    }
}

#[derive(Debug, Default)]
struct Inner {
    revision: u64,
    streams: u64,
    subscribers: BTreeMap<SubscriberId, (u64, Arc<Progress>)>,
}

/// The progress of all subscribers.
///
/// # Guarantees
/// A disconnected subscriber stays until [`Registry::forget`]: it still counts among those who should run something.
/// While two streams of one subscriber are open, the newer one speaks.
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
    /// A consistent picture of all subscribers; cheap, for the entries are shared.
    #[must_use]
    pub fn snapshot(&self) -> BTreeMap<SubscriberId, Arc<Progress>> {
        self.lock()
            .subscribers
            .iter()
            .map(|(id, (_, p))| (id.clone(), Arc::clone(p)))
            .collect()
    }

    /// The progress of one subscriber.
    #[must_use]
    pub fn get(&self, who: &SubscriberId) -> Option<Arc<Progress>> {
        self.lock().subscribers.get(who).map(|(_, p)| Arc::clone(p))
    }

    /// The subscribers whose progress has a revision above `revision`. Forgotten ones do not show.
    #[must_use]
    pub fn changed_since(&self, revision: u64) -> Vec<(SubscriberId, Arc<Progress>)> {
        let inner = self.lock();
        let changed = inner
            .subscribers
            .iter()
            .filter(|(_, (_, p))| p.revision > revision);
        changed
            .map(|(id, (_, p))| (id.clone(), Arc::clone(p)))
            .collect()
    }

    /// Ticks with the newest revision whenever any progress has changed.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Drops what is known of a subscriber that will not come back. One that is connected stays.
    pub fn forget(&self, who: &SubscriberId) {
        let mut inner = self.lock();
        if inner
            .subscribers
            .get(who)
            .is_some_and(|(_, p)| !p.connected)
        {
            inner.subscribers.remove(who);
            self.tick(&mut inner);
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
        let revision = self.tick(&mut inner);
        let fresh = Progress {
            connected: true,
            since: SystemTime::now(),
            node,
            flavor,
            acked: BTreeMap::new(),
            rejected: BTreeMap::new(),
            wanted: BTreeSet::new(),
            bytes: 0,
            responses: 0,
            revision,
        };
        let progress = match inner.subscribers.remove(who) {
            // What it had acknowledged stands until the new stream's requests say what it holds.
            Some((_, old)) => {
                let old = Arc::unwrap_or_clone(old);
                Progress {
                    acked: old.acked,
                    rejected: old.rejected,
                    bytes: old.bytes,
                    responses: old.responses,
                    ..fresh
                }
            }
            None => fresh,
        };
        inner
            .subscribers
            .insert(who.clone(), (stream, Arc::new(progress)));
        StreamToken(stream)
    }

    pub(crate) fn disconnect(&self, who: &SubscriberId, token: StreamToken) {
        self.update(who, token, |progress| {
            progress.connected = false;
            progress.since = SystemTime::now();
        });
    }

    pub(crate) fn report(&self, who: &SubscriberId, token: StreamToken, report: Report) {
        if report.is_empty() {
            return;
        }
        self.update(who, token, |progress| {
            for note in report.notes {
                progress.take(note);
            }
            if let Some(wanted) = report.wanted {
                progress.wanted = wanted;
            }
            progress.bytes += report.bytes;
            progress.responses += report.responses;
        });
    }

    /// A refusal counts only while the view still has what was refused.
    pub(crate) fn prune(&self, who: &SubscriberId, token: StreamToken, view: &View) {
        let stands = |key: &ResourceKey, refused: &Rejection| {
            view.resources
                .get(key)
                .is_some_and(|r| r.version == refused.version)
        };
        let stale = |progress: &Arc<Progress>| {
            progress
                .rejected
                .iter()
                .any(|(key, refused)| !stands(key, refused))
        };
        if self.get(who).as_ref().is_some_and(stale) {
            self.update(who, token, |progress| {
                progress
                    .rejected
                    .retain(|key, refused| stands(key, refused))
            });
        }
    }

    fn update(&self, who: &SubscriberId, token: StreamToken, change: impl FnOnce(&mut Progress)) {
        let mut inner = self.lock();
        let next = inner.revision + 1;
        let Some((stream, progress)) = inner.subscribers.get_mut(who) else {
            return;
        };
        if *stream != token.0 {
            return;
        }
        let progress = Arc::make_mut(progress);
        change(progress);
        progress.revision = next;
        self.tick(&mut inner);
    }

    fn tick(&self, inner: &mut Inner) -> u64 {
        inner.revision += 1;
        self.changed.send_replace(inner.revision);
        inner.revision
    }

    /// A panic elsewhere while the lock was held leaves the map whole: every change is a plain insert or remove.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress {
    fn take(&mut self, note: Note) {
        match note {
            Note::Opened { kind, fresh, held } => {
                // A client that starts with nothing has lost also the kinds it has not asked for yet.
                self.acked.retain(|key, _| !fresh && key.kind != kind);
                self.acked.extend(held);
            }
            Note::Acked { key, version } => {
                if self
                    .rejected
                    .get(&key)
                    .is_some_and(|refused| refused.version == version)
                {
                    self.rejected.remove(&key);
                }
                self.acked.insert(key, version);
            }
            Note::Dropped { key } => {
                self.acked.remove(&key);
            }
            Note::Rejected { key, version, text } => {
                self.rejected.insert(key, Rejection { version, text });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::ResourceKind::{Cluster, Listener};
    use crate::resource::{Resource, ResourceKind};

    fn key(kind: ResourceKind) -> ResourceKey {
        ResourceKey::new(kind, "a")
    }

    fn acked(kind: ResourceKind) -> Note {
        Note::Acked {
            key: key(kind),
            version: "1".into(),
        }
    }

    fn opened(fresh: bool) -> Note {
        let held = if fresh {
            BTreeMap::new()
        } else {
            BTreeMap::from([(key(Cluster), "1".into())])
        };
        Note::Opened {
            kind: Cluster,
            fresh,
            held,
        }
    }

    fn report(
        registry: &Registry,
        who: &SubscriberId,
        token: StreamToken,
        notes: Vec<Note>,
    ) -> Arc<Progress> {
        registry.report(
            who,
            token,
            Report {
                notes,
                ..Report::default()
            },
        );
        registry.get(who).unwrap()
    }

    #[test]
    fn a_reconnect_keeps_what_was_acknowledged_unless_the_client_lost_it() {
        for (fresh, left) in [(false, 2), (true, 0)] {
            let (registry, who) = (Registry::default(), SubscriberId::from("n"));
            let connect = || registry.connect(&who, NodeInfo::default(), Flavor::Delta);
            report(
                &registry,
                &who,
                connect(),
                vec![acked(Cluster), acked(Listener)],
            );
            let token = connect();
            assert_eq!(
                registry.get(&who).unwrap().acked.len(),
                2,
                "until it says what it has"
            );
            assert_eq!(
                report(&registry, &who, token, vec![opened(fresh)])
                    .acked
                    .len(),
                left,
                "fresh: {fresh}"
            );
        }
    }

    #[test]
    fn an_older_stream_does_not_speak_any_more() {
        let (registry, who) = (Registry::default(), SubscriberId::from("n"));
        let connect = || registry.connect(&who, NodeInfo::default(), Flavor::Delta);
        let (old, new) = (connect(), connect());
        assert_eq!(
            report(&registry, &who, old, vec![acked(Cluster)])
                .acked
                .len(),
            0
        );
        registry.disconnect(&who, old);
        assert!(registry.get(&who).unwrap().connected);
        registry.disconnect(&who, new);
        assert!(!registry.get(&who).unwrap().connected);
    }

    #[test]
    fn a_refusal_lasts_as_long_as_the_view_has_what_was_refused() {
        let (registry, who) = (Registry::default(), SubscriberId::from("n"));
        let token = registry.connect(&who, NodeInfo::default(), Flavor::Delta);
        let refused = Note::Rejected {
            key: key(Cluster),
            version: "2".into(),
            text: "no".into(),
        };
        let progress = report(
            &registry,
            &who,
            token,
            vec![acked(Cluster), refused, acked(Cluster)],
        );
        assert_eq!(
            progress.rejected.len(),
            1,
            "the last good, acknowledged once more, changes nothing"
        );
        for (version, left) in [("2", 1), ("3", 0)] {
            let body = bytes::Bytes::new();
            let resource = Resource {
                key: key(Cluster),
                version: version.into(),
                body,
                requires: vec![],
            };
            registry.prune(&who, token, &View::from_iter([resource]));
            assert_eq!(
                registry.get(&who).unwrap().rejected.len(),
                left,
                "{version}"
            );
        }
    }
}
