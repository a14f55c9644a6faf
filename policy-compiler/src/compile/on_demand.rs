//! What Envoy asks for by address: on-demand clusters.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use prost::Message;

use crate::envoy::cluster;
use crate::finding::ObjectRef;
use crate::resource::{Part, Resource, ResourceKey, ResourceKind};

/// The bucket of time in an on-demand name. Envoy asks for a name once in the life of a stream; with the next bucket it asks anew for what
/// was refused, or let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bucket {
    /// `%Y%m%d%H`
    Hour,
    /// `%Y%m%d%H%M`
    Minute,
    /// `%Y%m%d%H%M%S`
    Second,
}

impl Bucket {
    /// The bucket where destinations may be unused so long: at most half of that, or one that was let go could not be asked for again.
    #[must_use]
    pub const fn of(idle_after: Duration) -> Self {
        match idle_after.as_secs() {
            7200.. => Self::Hour,
            120.. => Self::Minute,
            _ => Self::Second,
        }
    }

    /// Its length in seconds.
    #[must_use]
    pub const fn seconds(self) -> u64 {
        match self {
            Self::Hour => 3600,
            Self::Minute => 60,
            Self::Second => 1,
        }
    }

    /// How the time is written, as strftime reads it.
    #[must_use]
    pub const fn format(self) -> &'static str {
        match self {
            Self::Hour => "%Y%m%d%H",
            Self::Minute => "%Y%m%d%H%M",
            Self::Second => "%Y%m%d%H%M%S",
        }
    }
}

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

/// Where the connection goes whose cluster is asked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Way {
    /// To that same address again, marked, so that the listener takes it which is there by then; after all these.
    Again { after: Vec<ResourceKey> },
    /// Straight through: an address that nobody knows.
    Through,
    /// Nowhere: such an address where only what is known may be called. A cluster without endpoints refuses at once; without a cluster
    /// the second connection would wait for one.
    Nowhere,
}

/// All that decides an on-demand cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct OnDemandInput {
    pub(crate) name: Arc<str>,
    pub(crate) at: SocketAddr,
    pub(crate) way: Way,
    pub(crate) origins: BTreeSet<ObjectRef>,
}

/// The last step of an on-demand answer: the cluster that Envoy asked for.
pub(crate) fn on_demand_cluster(input: &OnDemandInput) -> Part {
    let (cluster, requires) = match &input.way {
        Way::Again { after } => (cluster::marked(&input.name, input.at), after.clone()),
        Way::Through => (cluster::through(&input.name, input.at), Vec::new()),
        Way::Nowhere => (cluster::nowhere(&input.name), Vec::new()),
    };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_at_most_half_as_long_as_a_destination_may_be_unused() {
        let cases = [
            (86_400, Bucket::Hour),
            (7200, Bucket::Hour),
            (7199, Bucket::Minute),
            (120, Bucket::Minute),
            (3, Bucket::Second),
        ];
        for (idle, expected) in cases {
            let bucket = Bucket::of(Duration::from_secs(idle));
            assert_eq!(bucket, expected, "{idle}");
            assert!(2 * bucket.seconds() <= idle, "{idle}");
        }
    }
}
