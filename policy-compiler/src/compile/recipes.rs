//! How the resources of a service's client side are made.

use std::collections::BTreeSet;
use std::sync::Arc;

use prost::Message;

use super::memo::Recipe;
use crate::envoy::cluster;
use crate::envoy::endpoint::{Group, assignment};
use crate::envoy::route::{self, Target as RouteTarget};
use crate::envoy::tls::Alpn;
use crate::finding::ObjectRef;
use crate::resource::{Resource, ResourceKey, ResourceKind};
use crate::world::{NamespacedName, SpiffeId};

/// The objects that a resource of a service comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origins {
    pub(crate) service: NamespacedName,
    pub(crate) split: Option<ObjectRef>,
}

impl Origins {
    fn objects(&self) -> BTreeSet<ObjectRef> {
        let service = super::service_ref(&self.service);
        std::iter::once(service).chain(self.split.clone()).collect()
    }
}

/// All that decides a cluster.
#[derive(Debug, PartialEq)]
pub(crate) struct ClusterRecipe {
    pub(crate) name: Arc<str>,
    pub(crate) identities: BTreeSet<SpiffeId>,
    pub(crate) alpn: Alpn,
    pub(crate) sticky: bool,
    pub(crate) origins: Origins,
}

impl Recipe for ClusterRecipe {
    fn make(&self) -> Arc<Resource> {
        Resource::new(
            ResourceKind::Cluster,
            &self.name,
            cluster::eds(&self.name, &self.identities, self.alpn, self.sticky).encode_to_vec(),
            Vec::new(),
            self.origins.objects(),
        )
    }
}

/// All that decides the endpoints of a cluster.
#[derive(Debug, PartialEq)]
pub(crate) struct EndpointsRecipe {
    pub(crate) name: Arc<str>,
    pub(crate) groups: Vec<Group>,
    pub(crate) origins: Origins,
}

impl Recipe for EndpointsRecipe {
    fn make(&self) -> Arc<Resource> {
        Resource::new(
            ResourceKind::Endpoints,
            &self.name,
            assignment(&self.name, &self.groups).encode_to_vec(),
            // They require nothing: Envoy asks for them once it has the cluster, and acknowledges the cluster once it has them.
            Vec::new(),
            self.origins.objects(),
        )
    }
}

/// All that decides a route configuration.
#[derive(Debug, PartialEq)]
pub(crate) struct RouteRecipe {
    pub(crate) name: Arc<str>,
    pub(crate) targets: Vec<(Arc<str>, u32)>,
    /// The clusters that must be there before.
    pub(crate) clusters: Vec<Arc<str>>,
    /// A target chooses the endpoint by the client's address.
    pub(crate) sticky: bool,
    pub(crate) origins: Origins,
}

impl Recipe for RouteRecipe {
    fn make(&self) -> Arc<Resource> {
        let target = |(cluster, weight): &(Arc<str>, u32)| RouteTarget {
            cluster: cluster.to_string(),
            weight: *weight,
        };
        let targets: Vec<RouteTarget> = self.targets.iter().map(target).collect();
        Resource::new(
            ResourceKind::Route,
            &self.name,
            route::outbound(&self.name, &targets, self.sticky).encode_to_vec(),
            self.clusters.iter().flat_map(pair_keys).collect(),
            self.origins.objects(),
        )
    }
}

fn pair_keys(name: &Arc<str>) -> [ResourceKey; 2] {
    [ResourceKind::Cluster, ResourceKind::Endpoints].map(|kind| ResourceKey {
        kind,
        name: Arc::clone(name),
    })
}
