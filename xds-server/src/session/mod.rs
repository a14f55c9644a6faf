//! One client's stream as a state machine: `(state, event) -> responses`, without I/O and without a clock.
//!
//! The events are requests ([`Session::delta_request`], [`Session::sotw_request`]) and views ([`Session::set_view`]);
//! [`Session::poll`] then says what to send. One response of a kind is in flight at a time: that bounds what a slow
//! client makes us hold, and says what a refusal refers to.
//!
//! # What waits for what
//! A resource is sent once the client has acknowledged every resource it requires, at the version of the view.
//! Requirements that the client could only fulfil afterwards do not count, so that nothing waits in a circle:
//! - a listener for a route, or a cluster for its own endpoints, that the client has not subscribed to yet;
//! - clusters (and their endpoints) that the client asks for by name and has not asked for, as gRPC does: it learns
//!   them from the route;
//! - endpoints without a cluster of the same name in the view, for nobody will subscribe to them.
//!
//! # What is assumed
//! A `ClusterLoadAssignment` has the name of its cluster. A client that takes all clusters (`*`) also asks for listeners.
//!
//! # Removals
//! They go last, when nothing is in flight and nothing else can be sent, and never while something the client holds
//! still requires the resource; what requires goes before what is required. A route or endpoints that the view no
//! longer has are reported as removed but counted as held until the client unsubscribes: a draining listener still uses them.

mod channel;
mod delta;
mod gate;
mod plan;
mod removal;
mod sotw;
mod verdict;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::Node;

use crate::resource::{Name, Resource, ResourceKey, ResourceKind, View};
use channel::{Channel, Channels};

/// How a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavor {
    /// Incremental xDS; Envoy.
    Delta,
    /// State of the world; gRPC.
    Sotw,
}

/// The bounds of a session, and how it knows on-demand names.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Clusters whose names start so are on-demand names.
    pub on_demand_prefix: Name,
    /// On-demand names passed on to the source; further ones are refused.
    pub max_wanted: usize,
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
            max_wanted: 4096,
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

/// What a request came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// The on-demand names are others than before: the view has to be fetched anew before the next `poll`.
    pub wanted_changed: bool,
    /// The kind that the request was about; `None` if it is not served, and the request ignored.
    pub kind: Option<ResourceKind>,
    /// Whether the request refused the response in flight.
    pub refused: bool,
}

/// What a step did to the client's holdings, for [`crate::Progress`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// The first request of a kind on this stream, with what the client holds already.
    Opened {
        /// The kind.
        kind: ResourceKind,
        /// The client started the stream with nothing at all.
        fresh: bool,
        /// What it holds of this kind.
        held: BTreeMap<ResourceKey, Arc<str>>,
    },
    /// The client runs this version.
    Acked {
        /// Which resource.
        key: ResourceKey,
        /// At which version.
        version: Arc<str>,
    },
    /// The client no longer has the resource, or does not want it any more.
    Dropped {
        /// Which resource.
        key: ResourceKey,
    },
    /// The client refused this version.
    Rejected {
        /// Which resource.
        key: ResourceKey,
        /// At which version.
        version: Arc<str>,
        /// The client's words.
        text: Arc<str>,
    },
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
    /// Its version on the wire. That of endpoints also says for which version of their cluster they were sent, so that
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
    wanted: BTreeSet<Name>,
    nonces: u64,
    heard_any: bool,
    /// The client brought things along, and may not have told of all of them yet.
    unsettled: bool,
    notes: Vec<Note>,
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
            wanted: BTreeSet::new(),
            nonces: 0,
            heard_any: false,
            unsettled: false,
            notes: Vec::new(),
        }
    }

    /// The on-demand names that the client has asked for and not given up.
    #[must_use]
    pub const fn wanted(&self) -> &BTreeSet<Name> {
        &self.wanted
    }

    /// Takes what happened since the last call.
    pub fn take_notes(&mut self) -> Vec<Note> {
        std::mem::take(&mut self.notes)
    }

    /// Takes a new view; nothing is sent before [`Session::poll`].
    pub fn set_view(&mut self, view: Arc<View>) {
        for kind in ResourceKind::ALL {
            let channel = self.channels.get_mut(kind);
            // A refusal stands as long as the version that was refused.
            channel.rejected.retain(|name, version| {
                view.get(kind, name).is_some_and(|r| r.version == *version)
            });
            for (name, held) in &mut channel.held {
                held.recognise(view.get(kind, name));
            }
        }
        self.view = Some(view);
    }

    /// A client that reconnects tells kind by kind what it holds. Until this is called nothing is taken from it, for
    /// what would refer to it may not have been mentioned yet. The caller decides how long that may take.
    pub const fn settled(&mut self) {
        self.unsettled = false;
    }

    /// Whether [`Session::settled`] is waited for.
    #[must_use]
    pub const fn is_unsettled(&self) -> bool {
        self.unsettled
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
        let first = !std::mem::replace(&mut self.heard_any, true);
        match node {
            Some(node) if first => self.node_id.clone_from(&node.id),
            Some(node) if node.id != self.node_id => return Err(Fault::NodeChanged),
            Some(_) | None => {}
        }
        Ok(())
    }

    fn is_on_demand(&self, key: &ResourceKey) -> bool {
        key.kind == ResourceKind::Cluster && key.name.starts_with(&*self.limits.on_demand_prefix)
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

    fn subscribe(&mut self, kind: ResourceKind, name: &Name) -> bool {
        self.channels
            .get_mut(kind)
            .subscription
            .names
            .insert(Name::clone(name));
        let key = ResourceKey {
            kind,
            name: Name::clone(name),
        };
        let room = self.wanted.len() < self.limits.max_wanted;
        self.is_on_demand(&key) && room && self.wanted.insert(key.name)
    }

    fn unsubscribe(&mut self, kind: ResourceKind, name: &Name) -> bool {
        let channel: &mut Channel = self.channels.get_mut(kind);
        channel.subscription.names.remove(name);
        if !channel.subscription.covers(name) {
            self.drop_held(kind, name);
        }
        kind == ResourceKind::Cluster && self.wanted.remove(name)
    }

    /// Forgets what the client holds of a name that it gave up or that it was told to remove.
    fn drop_held(&mut self, kind: ResourceKind, name: &Name) {
        let channel = self.channels.get_mut(kind);
        channel.asked.remove(name);
        channel.doubtful.remove(name);
        if channel.held.remove(name).is_some() {
            self.notes.push(Note::Dropped {
                key: ResourceKey {
                    kind,
                    name: Name::clone(name),
                },
            });
        }
    }
}
