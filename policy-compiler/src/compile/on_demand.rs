//! On-demand clusters: Envoy requests them by address.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use prost::Message;

use crate::envoy::cluster;
use crate::finding::ObjectRef;
use crate::resource::{Part, Resource, ResourceKey, ResourceKind};

/// The address in `dst|<ip:port>`: the name of a destination's listener.
#[must_use]
pub fn listener_address(name: &str) -> Option<SocketAddr> {
    let at: SocketAddr = name.strip_prefix("dst|")?.parse().ok()?;
    Some(SocketAddr::new(at.ip().to_canonical(), at.port()))
}

/// The address in `dst|<ip:port>|<bucket>`: a destination that a proxy asks for when a connection goes there.
#[must_use]
pub fn on_demand_address(name: &str) -> Option<SocketAddr> {
    let (listener, bucket) = name.rsplit_once('|')?;
    listener_address(listener).filter(|_| !bucket.is_empty())
}

/// The target of a connection through an on-demand cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum OnDemandTarget {
    /// Forwards to the same address with a mark, so that the destination's listener accepts the connection. Sent after the resources in
    /// `after` are acknowledged.
    SameAddress { after: Vec<ResourceKey> },
    /// Passes connections through: the mesh has no destination at the address.
    PassThrough,
    /// Refuses such an address, where only known destinations may be called. A cluster without endpoints refuses at once; without a
    /// cluster the second connection would wait for one.
    Refuse,
}

/// All that decides an on-demand cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct OnDemandInput {
    pub(crate) name: Arc<str>,
    pub(crate) at: SocketAddr,
    pub(crate) target: OnDemandTarget,
    /// Whether requests come too, beside connections: by a listener of hosts outside the mesh.
    pub(crate) requests: bool,
    pub(crate) origins: BTreeSet<ObjectRef>,
}

/// The last step of an on-demand answer: the cluster that Envoy asked for.
pub(crate) fn on_demand_cluster(input: &OnDemandInput) -> Part {
    let (mut cluster, requires) = match &input.target {
        OnDemandTarget::SameAddress { after } => {
            (cluster::marked(&input.name, input.at), after.clone())
        }
        OnDemandTarget::PassThrough => (cluster::through(&input.name, input.at), Vec::new()),
        OnDemandTarget::Refuse => (cluster::nowhere(&input.name), Vec::new()),
    };
    if input.requests {
        cluster::carry_requests(&mut cluster);
    }
    let resource = Resource::new(
        ResourceKind::Cluster,
        &input.name,
        cluster.encode_to_vec(),
        requires,
        input.origins.clone(),
    );
    Part {
        resources: vec![resource],
    }
}
