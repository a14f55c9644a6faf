//! Pods that are dialed by their own addresses. All pods of a service account share one cluster, and each listener picks its own pod in
//! it: a cluster with a TLS context for each pod would be half of the cost of a destination.
//!
//! Deliberately no `ORIGINAL_DST` cluster: Envoy's load reports leave its hosts out, and an unreported destination counts as unused.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use prost::Message;

use super::upstreams::alpn;
use crate::envoy::{cluster, endpoint};
use crate::finding::ObjectRef;
use crate::resource::{Part, Resource, ResourceKey, ResourceKind};
use crate::traffic::Alpn;
use crate::world::{PodTemplate, Protocol, SpiffeId};

/// The pods that share a cluster: those of a service account that are spoken to in the same way.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PodGroup {
    namespace: Arc<str>,
    service_account: Arc<str>,
    /// The protocol that the client announces by ALPN. `None`: plain text, because the pods have no sidecar.
    alpn: Option<Alpn>,
}

impl PodGroup {
    pub(crate) fn of(template: &PodTemplate, protocol: Protocol) -> Self {
        Self {
            namespace: Arc::clone(&template.namespace),
            service_account: Arc::clone(&template.service_account),
            alpn: template.meshed.then(|| alpn(protocol)),
        }
    }

    /// Whether the pods have a sidecar.
    pub(crate) const fn is_meshed(&self) -> bool {
        self.alpn.is_some()
    }

    /// `pods|<ns>/<service account>|<http, tcp or plain>`
    pub(crate) fn cluster_name(&self) -> Arc<str> {
        let spoken = match self.alpn {
            Some(Alpn::Http) => "http",
            Some(Alpn::Tcp) => "tcp",
            None => "plain",
        };
        format!("pods|{}/{}|{spoken}", self.namespace, self.service_account).into()
    }

    /// Returns the resources that must be acknowledged before the first connection.
    pub(crate) fn keys(&self) -> Vec<ResourceKey> {
        let name = self.cluster_name();
        [ResourceKind::Cluster, ResourceKind::Endpoints]
            .map(|kind| ResourceKey {
                kind,
                name: Arc::clone(&name),
            })
            .into()
    }
}

/// Those of a group that a proxy calls.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Called {
    pub(crate) addresses: BTreeSet<SocketAddr>,
    pub(crate) origins: BTreeSet<ObjectRef>,
}

/// All that decides the cluster of a group.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PodClusterInput {
    name: Arc<str>,
    peer: Option<(SpiffeId, Alpn)>,
    origins: BTreeSet<ObjectRef>,
}

impl PodClusterInput {
    pub(crate) fn new(group: &PodGroup, called: &Called, trust_domain: &str) -> Self {
        let id = || SpiffeId::new(trust_domain, &group.namespace, &group.service_account);
        Self {
            name: group.cluster_name(),
            peer: group.alpn.map(|alpn| (id(), alpn)),
            origins: called.origins.clone(),
        }
    }
}

/// All that decides the endpoints of a group.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PodEndpointsInput {
    name: Arc<str>,
    called: Called,
}

impl PodEndpointsInput {
    pub(crate) fn new(group: &PodGroup, called: Called) -> Self {
        Self {
            name: group.cluster_name(),
            called,
        }
    }
}

/// The cluster stays as it is when pods come and go, and with it the connections to the others.
pub(crate) fn pod_cluster(input: &PodClusterInput) -> Part {
    let peer = input.peer.as_ref().map(|(id, alpn)| (id, *alpn));
    let body = cluster::pods(&input.name, peer).encode_to_vec();
    part(ResourceKind::Cluster, &input.name, body, &input.origins)
}

/// Makes the endpoints of the called pods only: a proxy holds the destinations that it uses, and no others.
pub(crate) fn pod_endpoints(input: &PodEndpointsInput) -> Part {
    let Called { addresses, origins } = &input.called;
    let body = endpoint::each_by_address(&input.name, addresses).encode_to_vec();
    part(ResourceKind::Endpoints, &input.name, body, origins)
}

fn part(kind: ResourceKind, name: &str, body: Vec<u8>, origins: &BTreeSet<ObjectRef>) -> Part {
    Part {
        resources: vec![Resource::new(kind, name, body, Vec::new(), origins.clone())],
    }
}
