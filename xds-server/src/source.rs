//! The interface to the user of the server: admission of subscribers, and their views.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use heddle_acceptor::{ClientText, Peer};
use heddle_xds_types::edges::{EdgeCounts, EdgeName};
use heddle_xds_types::rollout::EndReport;
use heddle_xds_types::tap::{TapOrders, TapReport};
use tokio::sync::watch;

use crate::resource::{Name, View};

/// The client's description of itself in its first request. It is a claim: only [`Peer`] is proven.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeInfo {
    /// The node id; empty if the client sent none.
    pub id: ClientText,
    /// The node's cluster.
    pub cluster: ClientText,
    /// Program and version, such as `envoy 1.40.0`; for display only.
    pub user_agent: ClientText,
    /// The version of its bootstrap; 0 if it reports none.
    pub bootstrap: u32,
}

/// The identity of a subscriber. The source chooses it when it admits a stream, so it is as trustworthy as the source
/// made it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscriberId(pub Name);

impl SubscriberId {
    /// The id as a string.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for SubscriberId {
    fn from(id: &str) -> Self {
        Self(id.into())
    }
}

impl fmt::Display for SubscriberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a stream is not admitted. The client is told; the server stays up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamRefusal {
    /// The client did not prove its identity (`UNAUTHENTICATED`).
    #[error("not authenticated: {0}")]
    Unauthenticated(String),
    /// The client is known, but has another identity than it claims, or may not subscribe (`PERMISSION_DENIED`).
    #[error("denied: {0}")]
    Denied(String),
    /// The source can't tell at the moment; the client should try again (`UNAVAILABLE`).
    #[error("not now: {0}")]
    Unavailable(String),
}

/// The on-demand requests of a client: names beyond the resources that it is given anyway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OnDemandRequests {
    /// The on-demand clusters to which the client is subscribed.
    pub clusters: BTreeSet<Name>,
    /// The listeners with the on-demand prefix that the client reported on reconnect, and was not told to drop since.
    /// They show which destinations it has learned, also to a server that the client never connected to before.
    pub reported_listeners: BTreeSet<Name>,
}

/// The client's report of the traffic to one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Load {
    /// The cluster's name.
    pub cluster: Name,
    /// Requests or connections begun since the report before.
    pub issued: u64,
    /// Requests or connections that go on.
    pub active: u64,
}

/// The traffic of one edge of a subscriber since its report before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EdgeTraffic {
    /// The edge, as the subscriber sees it.
    pub name: Arc<EdgeName>,
    /// The counts.
    pub counts: EdgeCounts,
}

/// How far the end of a subscriber's pod is: the removal of the pod from the configurations of its callers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Withdrawal {
    /// Whether the pod is being deleted.
    pub terminating: bool,
    /// The services that have the pod.
    pub services: u32,
    /// Since when no configuration has the pod.
    pub withdrawn: Option<Instant>,
    /// The callers that had, or could have had, the pod.
    pub total: u32,
    /// Those that have acknowledged the removal.
    pub acknowledged: u32,
    /// The callers without a stream to any server.
    pub away: u32,
    /// Since when all servers have reported that all their callers have acknowledged.
    pub completed: Option<Instant>,
}

/// A view that its client has acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Converged {
    /// The time of the newest change in the view: [`View::since`](crate::View::since).
    pub since: Instant,
    /// When the stream took the view, and began to send it.
    pub begun: Instant,
    /// When the client had answered for all of it.
    pub acknowledged: Instant,
}

/// Where the resources come from.
///
/// All methods are called from the streams' own tasks and must not block.
pub trait ResourceSource: Send + Sync + 'static {
    /// Decides, from the proven and the claimed identity, which subscriber a stream speaks for.
    ///
    /// # Errors
    /// The refusal ends the stream; it is logged and counted.
    fn admit(&self, peer: &Peer, node: &NodeInfo) -> Result<SubscriberId, StreamRefusal>;

    /// All that the subscriber may hold now, given its on-demand requests.
    ///
    /// `None` means that nothing is known: the client keeps its resources. A source returns the same `Arc` again if nothing
    /// changed for this subscriber, and a view with some of the same parts if only the others changed: both are cheap.
    fn view(&self, who: &SubscriberId, on_demand: &OnDemandRequests) -> Option<Arc<View>>;

    /// Ticks when the view of this subscriber may have changed. Several changes may be one tick. It is called once
    /// for each stream, after it is admitted and before its first view.
    fn subscribe(&self, who: &SubscriberId) -> watch::Receiver<u64>;

    /// The newer of two open streams of the subscriber has ended. A source that keeps one view for each subscriber ticks, so
    /// that the older stream asks for its view again.
    fn resumed(&self, who: &SubscriberId) {
        let _ = who;
    }

    /// The subscriber has acknowledged a view.
    fn converged(&self, who: &SubscriberId, view: Converged) {
        let _ = (who, view);
    }

    /// Takes a load report. The stream it came by was admitted as any other.
    fn loads(&self, who: &SubscriberId, loads: &[Load]) {
        let _ = (who, loads);
    }

    /// Takes a report on edges, and the number of requests and connections that could not be reported. The stream it came by
    /// was admitted as any other.
    fn edges(&self, who: &SubscriberId, traffic: &[EdgeTraffic], lost: u64) {
        let _ = (who, traffic, lost);
    }

    /// Takes a report on the end of the subscriber's pod. Returns the withdrawal of the pod, which the client is told with
    /// every change. The stream was admitted as any other.
    fn ends(&self, who: &SubscriberId, report: &EndReport) -> watch::Receiver<Withdrawal> {
        let _ = (who, report);
        watch::Sender::new(Withdrawal::default()).subscribe()
    }

    /// Takes the requests that the subscriber reports for taps. Returns the taps that it serves, of which the client is told with
    /// every change. The stream was admitted as any other.
    fn taps(&self, who: &SubscriberId, report: TapReport) -> watch::Receiver<Arc<TapOrders>> {
        let _ = (who, report);
        watch::Sender::new(Arc::default()).subscribe()
    }
}
