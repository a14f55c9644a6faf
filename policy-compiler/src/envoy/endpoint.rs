//! Endpoints.

use std::collections::HashMap;
use std::net::SocketAddr;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::endpoint::v3;

use super::cluster::mtls_struct;
use super::{address, number};

/// One address, and whether it is spoken to by mTLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Backend {
    pub(crate) at: SocketAddr,
    pub(crate) meshed: bool,
}

/// Addresses that share a weight: the whole service, or one backend of a split.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Group {
    pub(crate) weight: u32,
    pub(crate) backends: Vec<Backend>,
}

/// A `ClusterLoadAssignment` with one locality per group.
pub(crate) fn assignment(name: &str, groups: &[Group]) -> v3::ClusterLoadAssignment {
    let endpoints = groups
        .iter()
        .enumerate()
        .filter(|(_, group)| group.weight > 0)
        .map(|(index, group)| locality(index, group))
        .collect();
    v3::ClusterLoadAssignment {
        cluster_name: name.to_owned(),
        endpoints,
        ..Default::default()
    }
}

fn locality(index: usize, group: &Group) -> v3::LocalityLbEndpoints {
    v3::LocalityLbEndpoints {
        // Localities must differ; these are backends of a split and no places.
        locality: Some(core::Locality {
            sub_zone: index.to_string(),
            ..Default::default()
        }),
        lb_endpoints: group.backends.iter().map(lb_endpoint).collect(),
        load_balancing_weight: number(group.weight),
        ..Default::default()
    }
}

fn lb_endpoint(backend: &Backend) -> v3::LbEndpoint {
    let endpoint = v3::Endpoint {
        address: Some(address(backend.at)),
        ..Default::default()
    };
    let metadata = backend.meshed.then(|| core::Metadata {
        filter_metadata: HashMap::from([(
            "envoy.transport_socket_match".to_owned(),
            mtls_struct(),
        )]),
        ..Default::default()
    });
    v3::LbEndpoint {
        metadata,
        host_identifier: Some(v3::lb_endpoint::HostIdentifier::Endpoint(endpoint)),
        ..Default::default()
    }
}
