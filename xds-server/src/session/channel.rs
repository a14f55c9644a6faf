//! The state of one kind of resources within a stream.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use crate::resource::{Name, Resource, ResourceKind};

/// What a client subscribes to of one kind.
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

/// A resource that the client has acknowledged, or said on reconnect that it has.
#[derive(Debug)]
pub(super) struct Held {
    pub version: Arc<str>,
    /// Unknown for what the client brought along at a version we no longer have.
    pub resource: Option<Arc<Resource>>,
    /// The client was told that it is gone, but may still use it (routes of draining listeners).
    pub gone: bool,
}

impl Held {
    pub fn recognise(&mut self, current: Option<&Arc<Resource>>) {
        if self.resource.is_none() {
            self.resource = current.filter(|r| r.version == self.version).cloned();
        }
    }

    pub fn is(&self, resource: &Resource) -> bool {
        !self.gone && self.version == resource.version
    }
}

/// The response that waits for an answer.
#[derive(Debug)]
pub(super) struct InFlight {
    pub nonce: String,
    /// What is new in it.
    pub updates: BTreeMap<Name, Arc<Resource>>,
    pub removed: BTreeSet<Name>,
}

/// A group of resources, each at a version, that are to be sent without others to find out which one is refused.
pub(super) type Suspects = BTreeMap<Name, Arc<str>>;

#[derive(Debug, Default)]
pub(super) struct Channel {
    /// A request of this kind was seen on this stream.
    pub opened: bool,
    pub subscription: Subscription,
    pub held: BTreeMap<Name, Held>,
    /// Names of refused responses: the client may or may not have taken them.
    pub doubtful: BTreeSet<Name>,
    /// The version of each name that was refused.
    pub rejected: BTreeMap<Name, Arc<str>>,
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
}

/// One channel for each kind.
#[derive(Debug, Default)]
pub(super) struct Channels {
    cluster: Channel,
    endpoints: Channel,
    listener: Channel,
    route: Channel,
}

impl Channels {
    pub const fn get(&self, kind: ResourceKind) -> &Channel {
        match kind {
            ResourceKind::Cluster => &self.cluster,
            ResourceKind::Endpoints => &self.endpoints,
            ResourceKind::Listener => &self.listener,
            ResourceKind::Route => &self.route,
        }
    }

    pub const fn get_mut(&mut self, kind: ResourceKind) -> &mut Channel {
        match kind {
            ResourceKind::Cluster => &mut self.cluster,
            ResourceKind::Endpoints => &mut self.endpoints,
            ResourceKind::Listener => &mut self.listener,
            ResourceKind::Route => &mut self.route,
        }
    }
}
