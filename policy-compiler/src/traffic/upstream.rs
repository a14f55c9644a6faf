//! Upstreams: where the requests of a backend go, and how connections to it are made.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::retries::RetryBudget;
use super::upstream_policy::UpstreamPolicy;
use crate::finding::ObjectRef;
use crate::kind::ObjectKind;
use crate::world::{NamespacedName, SpiffeId};

/// Endpoints of one name, found by discovery under that name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Upstream {
    /// The name of the cluster and of its endpoints.
    pub name: Arc<str>,
    /// The security of connections: plain text, or mTLS of the mesh.
    pub tls: UpstreamTls,
    /// The algorithm that chooses an endpoint for each request or connection.
    pub balance: Balance,
    /// Whether the endpoints of the caller's own zone come first, as long as there is one.
    pub by_zone: bool,
    /// The bounds on connections and requests, and the ejection of endpoints. None: the defaults.
    pub policy: Option<Box<UpstreamPolicy>>,
    /// How long a connection is kept without a request.
    pub idle_timeout: Duration,
    /// The kind of traffic that goes to the upstream.
    pub purpose: Purpose,
    /// The service, and the objects that decided the upstream.
    pub origins: Origins,
}

impl Upstream {
    /// The policies that set its bounds.
    pub(crate) fn policies(&self) -> impl Iterator<Item = &ObjectRef> {
        let objects = self.origins.rules.iter();
        objects.filter(|of| of.kind == ObjectKind::TrafficPolicy)
    }

    /// The bound on retries at the same time. None: 1024.
    #[must_use]
    pub fn retry_budget(&self) -> Option<RetryBudget> {
        self.policy.as_ref()?.retry_budget
    }
}

/// The kind of traffic of an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// Requests and bytes of applications.
    Calls,
    /// Copies of requests. An upstream that is slow or full loses copies, and holds up no request.
    Copies,
    /// Reports of the sidecar itself, by gRPC. An upstream that is slow or full loses reports.
    Reports,
    /// Questions of the sidecar itself, by gRPC. Requests wait for the answers.
    Questions,
}

/// How connections to an upstream are secured.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum UpstreamTls {
    /// Plain text: no endpoint has a sidecar.
    Plain,
    /// mTLS of the mesh, but plain text to endpoints that are marked so.
    Mesh {
        /// The identities that a server may have, at least one.
        identities: BTreeSet<SpiffeId>,
        /// The protocol that the client announces.
        alpn: Alpn,
    },
}

/// The protocol that a caller's sidecar announces in the TLS handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Alpn {
    /// `heddle-http`: requests of HTTP.
    Http,
    /// `heddle-tcp`: the bytes of a connection.
    Tcp,
}

impl Alpn {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "heddle-http",
            Self::Tcp => "heddle-tcp",
        }
    }
}

/// The algorithm that chooses an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Balance {
    /// Each endpoint in turn.
    RoundRobin,
    /// By the address of the client, which all connections of a pod share.
    ClientAddress,
    /// Of two at random, that with fewer requests under way.
    LeastRequest,
    /// Any endpoint at random, all with the same probability.
    Random,
    /// Any endpoint at random, with a probability by its weight.
    RandomByWeight,
    /// By a hash of a part of the request.
    Hash(HashKey),
}

/// The part of a request that is hashed. A request without it goes to any endpoint.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HashKey {
    /// The value of a header, by its name in lower case.
    Header(Arc<str>),
    /// The value of a cookie, by its name.
    Cookie(Arc<str>),
    /// The value of a parameter of the query, by its name.
    Query(Arc<str>),
    /// The IP address of the client.
    SourceAddress,
}

/// How often a sidecar tries to make a connection of bytes, each time at an endpoint that it chooses again.
pub const CONNECT_ATTEMPTS: u32 = 3;

/// The endpoints of an upstream, by weight.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EndpointAssignment {
    /// The name of the upstream.
    pub name: Arc<str>,
    /// The endpoints: the whole service, or the backends of a split of bytes.
    pub groups: Vec<EndpointGroup>,
    /// The service, and the objects that decided the weights.
    pub origins: Origins,
}

/// Endpoints that share a weight.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EndpointGroup {
    /// The weight in force; zero takes no connections.
    pub weight: u32,
    /// The endpoints, sorted.
    pub hosts: Vec<UpstreamHost>,
    /// Whether the endpoints end, and none is ready: those of a service that is being moved serve to their end, but new shares go elsewhere.
    pub ending: bool,
}

impl EndpointGroup {
    /// Whether an endpoint is ready.
    #[must_use]
    pub const fn is_ready(&self) -> bool {
        !self.hosts.is_empty() && !self.ending
    }
}

/// One endpoint of an upstream.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UpstreamHost {
    /// The IP address and port of the endpoint.
    pub at: SocketAddr,
    /// Whether it must be marked as one that takes plain text.
    pub plain: bool,
    /// Its zone, where callers prefer their own.
    pub zone: Option<Arc<str>>,
}

/// The objects from which a resource of a service port comes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origins {
    /// The service.
    pub service: NamespacedName,
    /// The objects with rules that count.
    pub rules: BTreeSet<ObjectRef>,
}
