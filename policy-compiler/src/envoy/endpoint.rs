//! Endpoints.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::endpoint::v3;

use super::{address, metadata, number, plain_struct, text_struct};
use crate::traffic::{EndpointGroup, UpstreamHost};

/// A `ClusterLoadAssignment` with one locality per group, or per zone of the only group.
pub(crate) fn assignment(name: &str, groups: &[EndpointGroup]) -> v3::ClusterLoadAssignment {
    let endpoints = match groups {
        [only] if only.hosts.iter().any(|host| host.zone.is_some()) => zones(&only.hosts),
        _ => groups
            .iter()
            .enumerate()
            .filter(|(_, group)| group.weight > 0)
            .map(|(index, group)| locality(index, group))
            .collect(),
    };
    v3::ClusterLoadAssignment {
        cluster_name: name.to_owned(),
        endpoints,
        ..Default::default()
    }
}

/// One endpoint, by the address or the DNS name of a host.
pub(super) fn at_host(name: &str, host: String, port: u16) -> v3::ClusterLoadAssignment {
    let at = core::SocketAddress {
        address: host,
        port_specifier: Some(core::socket_address::PortSpecifier::PortValue(port.into())),
        ..Default::default()
    };
    let endpoint = v3::Endpoint {
        address: Some(core::Address {
            address: Some(core::address::Address::SocketAddress(at)),
        }),
        ..Default::default()
    };
    let endpoint = v3::LbEndpoint {
        host_identifier: Some(v3::lb_endpoint::HostIdentifier::Endpoint(endpoint)),
        ..Default::default()
    };
    let locality = v3::LocalityLbEndpoints {
        lb_endpoints: vec![endpoint],
        ..Default::default()
    };
    v3::ClusterLoadAssignment {
        cluster_name: name.to_owned(),
        endpoints: vec![locality],
        ..Default::default()
    }
}

/// The key by which an endpoint of a cluster of pods is asked for; the value is its address.
pub(super) const ADDRESS: &str = "address";

/// One endpoint for each address, to be had by [`only`].
pub(crate) fn each_by_address(
    name: &str,
    addresses: &BTreeSet<SocketAddr>,
) -> v3::ClusterLoadAssignment {
    let endpoint = |at: &SocketAddr| v3::LbEndpoint {
        metadata: Some(only(*at)),
        host_identifier: Some(host(*at)),
        ..Default::default()
    };
    let locality = v3::LocalityLbEndpoints {
        lb_endpoints: addresses.iter().map(endpoint).collect(),
        load_balancing_weight: number(1),
        ..Default::default()
    };
    v3::ClusterLoadAssignment {
        cluster_name: name.to_owned(),
        endpoints: vec![locality],
        ..Default::default()
    }
}

/// Subset metadata `envoy.lb: {address: <ip:port>}`. Set on the endpoint, and used as `metadata_match` by routes that must reach
/// exactly this endpoint.
pub(super) fn only(at: SocketAddr) -> core::Metadata {
    metadata("envoy.lb", text_struct(ADDRESS, &at.to_string()))
}

fn host(at: SocketAddr) -> v3::lb_endpoint::HostIdentifier {
    v3::lb_endpoint::HostIdentifier::Endpoint(v3::Endpoint {
        address: Some(address(at)),
        ..Default::default()
    })
}

fn locality(index: usize, group: &EndpointGroup) -> v3::LocalityLbEndpoints {
    v3::LocalityLbEndpoints {
        // Localities must differ; these are backends of a split and no places.
        locality: Some(core::Locality {
            sub_zone: index.to_string(),
            ..Default::default()
        }),
        lb_endpoints: group.hosts.iter().map(lb_endpoint).collect(),
        load_balancing_weight: number(group.weight),
        ..Default::default()
    }
}

/// A locality for each zone, and one for hosts of no known zone. Its fields other than the zone are empty, as in the bootstrap.
fn zones(hosts: &[UpstreamHost]) -> Vec<v3::LocalityLbEndpoints> {
    let mut zones: BTreeMap<&str, Vec<v3::LbEndpoint>> = BTreeMap::new();
    for host in hosts {
        let zone = host.zone.as_deref().unwrap_or_default();
        zones.entry(zone).or_default().push(lb_endpoint(host));
    }
    let locality = |(zone, lb_endpoints): (&str, Vec<v3::LbEndpoint>)| v3::LocalityLbEndpoints {
        locality: Some(core::Locality {
            zone: zone.to_owned(),
            ..Default::default()
        }),
        // Without a weight a zone gets nothing in a cluster that goes by weight: that of a service without the wish.
        load_balancing_weight: u32::try_from(lb_endpoints.len()).ok().and_then(number),
        lb_endpoints,
        ..Default::default()
    };
    zones.into_iter().map(locality).collect()
}

fn lb_endpoint(of: &UpstreamHost) -> v3::LbEndpoint {
    let plain = || metadata("envoy.transport_socket_match", plain_struct());
    v3::LbEndpoint {
        metadata: of.plain.then(plain),
        host_identifier: Some(host(of.at)),
        ..Default::default()
    }
}
