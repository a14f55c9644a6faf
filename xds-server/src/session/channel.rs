//! The state of one kind of resources within a stream.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use crate::resource::{Name, PerKind, Resource};

use super::rejection::Rejection;

/// The subscription of a client to one kind.
#[derive(Debug, Default)]
pub(super) struct Subscription {
    pub wildcard: bool,
    pub names: BTreeSet<Name>,
    /// Once a name was given, an empty list no longer means everything.
    pub named_once: bool,
}

impl Subscription {
    pub fn covers(&self, name: &Name) -> bool {
        self.wildcard || self.names.contains(name)
    }
}

/// A resource of the view.
#[derive(Debug)]
struct Current {
    resource: Arc<Resource>,
    /// In how many parts of the view it stands.
    parts: u32,
    /// The client holds exactly this. Then it has no entry of its own among the holdings: a stream in sync is small.
    synced: bool,
}

impl Current {
    /// Notes whether the client holds it, also in the number of all that it holds.
    fn sync(&mut self, synced: bool, count: &mut usize) -> bool {
        let before = std::mem::replace(&mut self.synced, synced);
        *count = *count + usize::from(synced) - usize::from(before);
        before
    }
}

/// A resource that the client has acknowledged, or said on reconnect that it has.
#[derive(Debug)]
pub(super) struct Held {
    pub version: Arc<str>,
    /// `None` if the client reported the resource on reconnect at a version that the view does not have.
    pub resource: Option<Arc<Resource>>,
    /// The client was told that it is gone, but may still use it (routes of draining listeners).
    pub gone: bool,
}

impl Held {
    fn of(resource: Arc<Resource>) -> Self {
        Self {
            version: Arc::clone(&resource.version),
            resource: Some(resource),
            gone: false,
        }
    }
}

/// [`Held`] as it is read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Holding<'a> {
    pub version: &'a Arc<str>,
    pub resource: Option<&'a Arc<Resource>>,
    pub gone: bool,
}

impl<'a> From<&'a Held> for Holding<'a> {
    fn from(held: &'a Held) -> Self {
        Self {
            version: &held.version,
            resource: held.resource.as_ref(),
            gone: held.gone,
        }
    }
}

impl<'a> From<&'a Arc<Resource>> for Holding<'a> {
    fn from(resource: &'a Arc<Resource>) -> Self {
        Self {
            version: &resource.version,
            resource: Some(resource),
            gone: false,
        }
    }
}

/// The response that waits for an answer.
#[derive(Debug)]
pub(super) struct InFlight {
    pub nonce: String,
    /// The new resources in the response. A complete kind under `Flavor::Sotw` repeats the held ones as well.
    pub updates: BTreeMap<Name, Arc<Resource>>,
    pub removed: BTreeSet<Name>,
    /// The number of the view that it was made from.
    pub view: u64,
}

/// A group of resources, each at a version, that are to be sent without others to find out which one is rejected.
pub(super) type Suspects = BTreeMap<Name, Arc<str>>;

#[derive(Debug, Default)]
pub(super) struct Channel {
    /// A request of this kind was seen on this stream.
    pub opened: bool,
    pub subscription: Subscription,
    current: BTreeMap<Name, Current>,
    /// How many of these are in sync.
    synced: usize,
    /// The resources that the client holds and that are not in sync with the view.
    held: BTreeMap<Name, Held>,
    /// Names of rejected responses: the client may or may not have taken them.
    pub doubtful: BTreeSet<Name>,
    /// The rejected resources of the view, each with the version and text of the rejection.
    pub rejected: BTreeMap<Name, Rejection>,
    /// Names that have to be answered even when unchanged.
    pub asked: BTreeSet<Name>,
    /// A response has to be sent even when it is empty.
    pub answer_due: bool,
    /// Endpoints only: the cluster was sent since, and will stay in warming until these follow.
    pub warm: BTreeSet<Name>,
    pub apart: VecDeque<Suspects>,
    pub in_flight: Option<InFlight>,
    /// The nonce of the newest response, answered or not.
    pub last_nonce: Option<String>,
    /// The names that something may have to be sent for; all others need not be looked at.
    pub pending: BTreeSet<Name>,
    /// Names that may have to be removed from the client.
    pub surplus: BTreeSet<Name>,
    /// Names with a sync state that may have changed since the last report.
    pub moved: BTreeSet<Name>,
}

impl Channel {
    /// The resource that the view has.
    pub fn current(&self, name: &str) -> Option<&Arc<Resource>> {
        self.current.get(name).map(|current| &current.resource)
    }

    pub fn currents(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.current.values().map(|current| &current.resource)
    }

    /// The resource of this name that the client holds.
    pub fn holding(&self, name: &str) -> Option<Holding<'_>> {
        match self.current.get(name) {
            Some(current) if current.synced => Some(Holding::from(&current.resource)),
            Some(_) | None => self.held.get(name).map(Holding::from),
        }
    }

    pub fn holdings(&self) -> impl Iterator<Item = (&Name, Holding<'_>)> {
        let synced = self.current.iter().filter(|(_, current)| current.synced);
        let synced = synced.map(|(name, current)| (name, Holding::from(&current.resource)));
        synced.chain(
            self.held
                .iter()
                .map(|(name, held)| (name, Holding::from(held))),
        )
    }

    /// The resources that the client holds in another version than that of the view, or not in the view at all.
    pub fn outdated(&self) -> impl Iterator<Item = (&Name, Holding<'_>)> {
        let held = self.held.iter();
        held.map(|(name, held)| (name, Holding::from(held)))
    }

    /// Whether the client holds the resource at this very version.
    pub fn holds(&self, resource: &Resource) -> bool {
        self.holding(&resource.key.name)
            .is_some_and(|holding| !holding.gone && *holding.version == resource.version)
    }

    /// Whether the view has the name, and the client holds it so.
    pub fn in_sync(&self, name: &str) -> bool {
        self.current.get(name).is_some_and(|c| c.synced)
    }

    /// The client holds the resource now.
    pub fn hold(&mut self, resource: Arc<Resource>) {
        let name = Name::clone(&resource.key.name);
        self.put(name, Held::of(resource));
    }

    /// The client reports that it holds a version; its content is not known.
    pub fn hold_version(&mut self, name: Name, version: Arc<str>) {
        let held = Held {
            version,
            resource: None,
            gone: false,
        };
        self.put(name, held);
    }

    fn put(&mut self, name: Name, held: Held) {
        match self.current.get_mut(&name) {
            Some(current) if !held.gone && current.resource.version == held.version => {
                current.sync(true, &mut self.synced);
                self.held.remove(&name);
            }
            Some(current) => {
                current.sync(false, &mut self.synced);
                self.held.insert(name, held);
            }
            None => {
                self.held.insert(name, held);
            }
        }
    }

    /// The client holds nothing of the name any more. Returns whether it did.
    pub fn let_go(&mut self, name: &str) -> bool {
        let synced = self
            .current
            .get_mut(name)
            .is_some_and(|current| current.sync(false, &mut self.synced));
        self.held.remove(name).is_some() || synced
    }

    /// The client was told that the resource it holds is gone, but may still use it.
    pub fn mark_gone(&mut self, name: &Name) {
        if let Some(holding) = self.holding(name) {
            let held = Held {
                version: Arc::clone(holding.version),
                resource: holding.resource.cloned(),
                gone: true,
            };
            self.put(Name::clone(name), held);
        }
    }

    /// The view has the resource in one more part. Returns whether that is news.
    pub fn enter(&mut self, resource: &Arc<Resource>) -> bool {
        let name = &resource.key.name;
        if let Some(current) = self.current.get_mut(name) {
            current.parts += 1;
            if Arc::ptr_eq(&current.resource, resource) {
                return false;
            }
            let old = std::mem::replace(&mut current.resource, Arc::clone(resource));
            if old.version != resource.version && current.sync(false, &mut self.synced) {
                self.held.insert(Name::clone(name), Held::of(old));
            }
        } else {
            let current = Current {
                resource: Arc::clone(resource),
                parts: 1,
                synced: false,
            };
            self.current.insert(Name::clone(name), current);
        }
        // The view may be back at the version that the client holds, or contain a version reported on reconnect.
        if let Some(held) = self.held.get_mut(name)
            && held.version == resource.version
        {
            held.resource = Some(Arc::clone(resource));
            if let Some(held) = self.held.remove(name) {
                self.put(Name::clone(name), held);
            }
        }
        // A rejection stands as long as the version that was rejected.
        let rejection = self.rejected.get(name);
        if rejection.is_some_and(|of| of.version != resource.version) {
            self.rejected.remove(name);
        }
        true
    }

    /// The view has the resource in one part less. Returns whether it is gone.
    pub fn leave(&mut self, resource: &Resource) -> bool {
        let name = &resource.key.name;
        let Some(current) = self.current.get_mut(name) else {
            return false;
        };
        current.parts = current.parts.saturating_sub(1);
        if current.parts > 0 {
            return false;
        }
        if let Some((name, mut current)) = self.current.remove_entry(name)
            && current.sync(false, &mut self.synced)
        {
            self.held.insert(name, Held::of(current.resource));
        }
        self.rejected.remove(name);
        true
    }

    /// Whether nothing may have to be sent.
    pub fn is_quiet(&self) -> bool {
        self.pending.is_empty() && self.asked.is_empty() && self.apart.is_empty()
    }

    /// Whether the client has the name, or may have it, and the view does not.
    pub fn is_surplus(&self, name: &str) -> bool {
        !self.current.contains_key(name)
            && (self.held.get(name).is_some_and(|held| !held.gone) || self.doubtful.contains(name))
    }

    /// How many resources the client holds.
    pub fn held_count(&self) -> usize {
        self.synced + self.held.values().filter(|held| !held.gone).count()
    }

    /// The name as it is shared by all, if the view contains it.
    pub fn shared_name(&self, name: &str) -> Name {
        let known = self.current.get_key_value(name);
        known.map_or_else(|| name.into(), |(name, _)| Name::clone(name))
    }

    /// Every name of the view has to be looked at again.
    pub fn look_at_all(&mut self) {
        self.pending.extend(self.current.keys().cloned());
    }
}

/// One channel for each kind.
pub(super) type Channels = PerKind<Channel>;
