//! One client's stream as a state machine: `(state, event) -> responses`, without I/O and without a clock.
//!
//! A view is a list of shared parts. The session looks only into the changed parts, and [`Session::poll`] looks only at
//! resources that may have to be sent. So the cost of an event depends on its changes, not on the number of resources
//! that the client holds.
//!
//! The events are requests ([`Session::delta_request`], [`Session::sotw_request`]) and views ([`Session::set_view`]);
//! [`Session::poll`] then returns the responses to send. One response of a kind is in flight at a time: that bounds the
//! memory that a slow client costs, and makes clear to which resources a NACK refers.
//!
//! # Requirements
//! A resource is sent once the client has acknowledged every resource it requires, at the version of the view.
//! Requirements that the client could only fulfil afterwards do not count, so that nothing waits in a circle:
//! - a listener for a route, or a cluster for its own endpoints, that the client has not subscribed to yet;
//! - clusters (and their endpoints) that the client asks for by name and has not asked for, as gRPC does: it learns
//!   them from the route;
//! - endpoints without a cluster of the same name in the view: no client will subscribe to them.
//!
//! # Clusters without endpoints
//! A cluster that loses its last endpoint, and its endpoints, are sent to an incremental client after the routes that lead
//! there: these may lead elsewhere now. Such a cluster counts as one that the client has. Once nothing is in flight, and
//! these routes cannot be sent because of a rejection, they do not wait any more. Neither do they after
//! [`Session::end_route_waits`], which the caller calls by the clock: the client may never answer.
//!
//! # Assumptions
//! A `ClusterLoadAssignment` has the name of its cluster. A client that takes all clusters (`*`) also asks for listeners.
//!
//! # Removals
//! They go last, when nothing is in flight and nothing else can be sent, and never while a resource that the client
//! holds still requires the removed one; a resource goes before those it requires. A route or endpoints that the view no
//! longer has are reported as removed but counted as held until the client unsubscribes: a draining listener still uses them.

mod answer;
mod channel;
mod delta;
mod draft;
mod emptied;
mod plan;
mod rejection;
mod removal;
mod requirements;
mod sotw;
mod sync_state;
mod view;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::Node;

use crate::resource::{Name, Resource, ResourceKey, ResourceKind, View};
use crate::source::OnDemandRequests;
use channel::Channels;
use emptied::RouteWaits;
pub use rejection::{MAX_TEXT, Rejection};

/// How a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavor {
    /// Incremental xDS; Envoy.
    Delta,
    /// State of the world; gRPC.
    Sotw,
}

/// The bounds of a session, and the form of on-demand names.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Clusters with this prefix have on-demand names; listeners with this prefix were learned by on-demand use.
    pub on_demand_prefix: Name,
    /// On-demand names, and learned listeners, passed on to the source; further names are denied.
    pub max_on_demand: usize,
    /// Names of one kind that a client may subscribe to or claim to hold.
    pub max_names: usize,
    /// The longest name accepted, in bytes.
    pub max_name_len: usize,
    /// A delta response is split where its bodies exceed this.
    pub max_response_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            on_demand_prefix: "dst|".into(),
            max_on_demand: 4096,
            max_names: 100_000,
            max_name_len: 1024,
            max_response_bytes: 2 << 20,
        }
    }
}

/// Why a stream has to end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A later request names another node than the first one.
    #[error("the node id changed within the stream")]
    NodeChanged,
    /// The client names more resources than it may.
    #[error("too many or too long resource names")]
    Names,
}

/// The effect of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// [`Session::on_demand`] has changed: the view has to be fetched again before the next `poll`.
    pub on_demand_changed: bool,
    /// The kind that the request was about; `None` if it is not served, and the request ignored.
    pub kind: Option<ResourceKind>,
    /// Whether the request is a NACK of the response in flight.
    pub nacked: bool,
}

/// The sync state of one resource of a client's view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SyncState {
    /// The client holds the version of the view, or the view does not have the resource any more.
    InSync,
    /// The client has not acknowledged the version of the view, and may have rejected it.
    Unacknowledged(Option<Rejection>),
}

/// A response to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Push {
    /// Its kind.
    pub kind: ResourceKind,
    /// Its nonce, unique within the stream.
    pub nonce: String,
    /// The resources in it: the changed ones, or all for the complete kinds under [`Flavor::Sotw`].
    pub resources: Vec<Sent>,
    /// The names removed or not there; empty under [`Flavor::Sotw`].
    pub removed: Vec<Name>,
}

/// A resource as it goes out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// The resource.
    pub resource: Arc<Resource>,
    /// Its version on the wire. That of endpoints also contains the version of the cluster for which they were sent, so that
    /// after a reconnect, to whichever replica, it shows whether the cluster still waits for them.
    pub version: Arc<str>,
}

/// The state of one stream.
#[derive(Debug)]
pub struct Session {
    flavor: Flavor,
    limits: Limits,
    node_id: String,
    channels: Channels,
    view: Option<Arc<View>>,
    /// How many views there were; each is known by its number.
    views: u64,
    on_demand: Arc<OnDemandRequests>,
    on_demand_changed: bool,
    nonces: u64,
    has_opened: bool,
    /// The client reconnected with resources, and may not have reported all of them yet.
    resyncing: bool,
    /// The clusters that wait for routes at two calls of [`Session::end_route_waits`].
    route_waits: RouteWaits,
    /// Something may have become free to be taken away since that was looked for.
    removals_due: bool,
    /// The resources of the view that the client lacks, each with the number of the oldest view that it lacks them of.
    unacknowledged: BTreeMap<ResourceKey, u64>,
}

impl Session {
    /// The state before the first request.
    #[must_use]
    pub fn new(flavor: Flavor, limits: Limits) -> Self {
        Self {
            flavor,
            limits,
            node_id: String::new(),
            channels: Channels::default(),
            view: None,
            views: 0,
            on_demand: Arc::default(),
            on_demand_changed: false,
            nonces: 0,
            has_opened: false,
            resyncing: false,
            route_waits: RouteWaits::default(),
            removals_due: false,
            unacknowledged: BTreeMap::new(),
        }
    }

    /// The on-demand requests of the client.
    #[must_use]
    pub const fn on_demand(&self) -> &Arc<OnDemandRequests> {
        &self.on_demand
    }

    /// The newest view.
    #[must_use]
    pub const fn view(&self) -> Option<&Arc<View>> {
        self.view.as_ref()
    }

    /// Ends the wait for the reports of a reconnected client. Such a client reports its resources kind by kind, and until
    /// this call none of them is removed: a resource that refers to them may not have been reported yet. The caller
    /// decides how long that may take.
    pub const fn end_resync(&mut self) {
        self.resyncing = false;
    }

    /// Whether the session waits for [`Session::end_resync`].
    #[must_use]
    pub const fn is_resyncing(&self) -> bool {
        self.resyncing
    }

    /// Whether some response waits for the client's answer.
    #[must_use]
    pub fn in_flight(&self) -> bool {
        ResourceKind::ALL
            .into_iter()
            .any(|kind| self.channels.get(kind).in_flight.is_some())
    }

    /// The first request's node counts; a later one may repeat it or leave it out.
    fn check_node(&mut self, node: Option<&Node>) -> Result<(), Fault> {
        let first = !std::mem::replace(&mut self.has_opened, true);
        match node {
            Some(node) if first => self.node_id.clone_from(&node.id),
            Some(node) if node.id != self.node_id => return Err(Fault::NodeChanged),
            Some(_) | None => {}
        }
        Ok(())
    }

    fn is_on_demand(&self, kind: ResourceKind, name: &str) -> bool {
        kind == ResourceKind::Cluster && name.starts_with(&*self.limits.on_demand_prefix)
    }

    fn check_names<'a>(
        &self,
        names: impl ExactSizeIterator<Item = &'a String>,
    ) -> Result<(), Fault> {
        let (count, mut names) = (names.len(), names);
        let too_long = names.any(|name| name.len() > self.limits.max_name_len);
        if too_long || count > self.limits.max_names {
            Err(Fault::Names)
        } else {
            Ok(())
        }
    }

    /// Marks a name: the responses it needs, and its sync state, may have changed.
    fn touch(&mut self, kind: ResourceKind, name: &Name) {
        let channel = self.channels.get_mut(kind);
        channel.moved.insert(Name::clone(name));
        if channel.opened {
            channel.pending.insert(Name::clone(name));
        }
    }

    /// The first request of a kind on this stream; returns whether this one is it.
    fn open(&mut self, kind: ResourceKind) -> bool {
        let channel = self.channels.get_mut(kind);
        let first = !std::mem::replace(&mut channel.opened, true);
        if first {
            channel.look_at_all();
        }
        first
    }

    fn subscribe(&mut self, kind: ResourceKind, name: &Name) {
        let channel = self.channels.get_mut(kind);
        channel.subscription.names.insert(Name::clone(name));
        self.touch(kind, name);
        let known = self.on_demand.clusters.contains(name);
        let room = self.on_demand.clusters.len() < self.limits.max_on_demand;
        if self.is_on_demand(kind, name) && room && !known {
            Arc::make_mut(&mut self.on_demand)
                .clusters
                .insert(Name::clone(name));
            self.on_demand_changed = true;
        }
    }

    fn unsubscribe(&mut self, kind: ResourceKind, name: &Name) {
        let channel = self.channels.get_mut(kind);
        channel.subscription.names.remove(name);
        if !channel.subscription.covers(name) {
            self.drop_held(kind, name);
        }
        self.touch(kind, name);
        if kind == ResourceKind::Cluster && self.on_demand.clusters.contains(name) {
            Arc::make_mut(&mut self.on_demand).clusters.remove(name);
            self.on_demand_changed = true;
        }
    }

    /// Forgets the held resource of a name that the client gave up or was told to remove.
    fn drop_held(&mut self, kind: ResourceKind, name: &Name) {
        let channel = self.channels.get_mut(kind);
        channel.asked.remove(name);
        channel.doubtful.remove(name);
        channel.let_go(name);
        self.removals_due = true;
        self.touch(kind, name);
        if kind == ResourceKind::Listener && self.on_demand.reported_listeners.contains(name) {
            Arc::make_mut(&mut self.on_demand)
                .reported_listeners
                .remove(name);
            self.on_demand_changed = true;
        }
    }
}
