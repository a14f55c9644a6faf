//! Hosts outside the mesh that wildcards name. Each name that is called gets its addresses from DNS by itself, through a bounded cache of the
//! wildcard, which drops the addresses that must not be dialed.

use std::collections::BTreeMap;

use envoy_types::pb::envoy::config::cluster::v3 as cluster;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::listener::v3 as listener;
use envoy_types::pb::envoy::extensions::clusters::dynamic_forward_proxy::v3 as forward;
use envoy_types::pb::envoy::extensions::common::dynamic_forward_proxy::v3::DnsCacheConfig;
use envoy_types::pb::envoy::extensions::filters::http::dynamic_forward_proxy::v3 as http;
use envoy_types::pb::envoy::extensions::filters::http::set_filter_state::v3 as set_filter_state;
use envoy_types::pb::envoy::extensions::filters::network::sni_dynamic_forward_proxy::v3 as by_sni;
use envoy_types::pb::envoy::extensions::network::dns_resolver::cares::v3::CaresDnsResolverConfig;
use envoy_types::pb::envoy::r#type::matcher::v3::AddressMatcher;
use envoy_types::pb::google::protobuf::Any;
use envoy_types::pb::xds::core::v3::CidrRange;
use ipnet::IpNet;

use super::cluster::base;
use super::hcm::policy_slot;
use super::network::{filter, format, state_value};
use super::{any, extension, number, seconds};
use crate::traffic::{ExternalHost, undialed};

/// The type by which the filters recognize the cluster.
const CLUSTER_TYPE: &str = "envoy.clusters.dynamic_forward_proxy";
/// The most names of a wildcard that a sidecar keeps at once. A name that was not called for five minutes makes room.
const MAX_NAMES: u32 = 256;
/// The filter state with the port that is dialed where a name comes without one.
const PORT: &str = "envoy.upstream.dynamic_port";

/// The cache of a wildcard. Filters and cluster find it by its name, and must have equal settings of it.
fn cache(host: &ExternalHost) -> DnsCacheConfig {
    let resolver = CaresDnsResolverConfig {
        // Names are whole: DNS is not asked for them in the domains of the cluster.
        dns_resolver_options: Some(core::DnsResolverOptions {
            no_default_search_domain: true,
            ..Default::default()
        }),
        ..Default::default()
    };
    let range = |block: IpNet| CidrRange {
        address_prefix: block.network().to_string(),
        prefix_len: number(u32::from(block.prefix_len())),
    };
    DnsCacheConfig {
        name: host.cluster_name().to_string(),
        dns_lookup_family: cluster::cluster::DnsLookupFamily::All.into(),
        // For answers without a time to live.
        dns_refresh_rate: seconds(30),
        max_hosts: number(MAX_NAMES),
        typed_dns_resolver_config: Some(extension("cares", any(&resolver))),
        resolved_address_filter: Some(AddressMatcher {
            ranges: undialed(&*host.private).into_iter().map(range).collect(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// The filters of the routes of a wildcard: they resolve the name in `Host` before the request goes on.
pub(super) fn of_requests(host: &ExternalHost) -> BTreeMap<String, Any> {
    let port = core::TypedExtensionConfig {
        name: "port".to_owned(),
        typed_config: Some(any(&set_filter_state::Config {
            on_request_headers: vec![state_value(PORT, format(&host.dialed().to_string()))],
            ..Default::default()
        })),
    };
    let resolve = http::FilterConfig {
        implementation_specifier: Some(
            http::filter_config::ImplementationSpecifier::DnsCacheConfig(cache(host)),
        ),
        allow_dynamic_host_from_filter_state: true,
        ..Default::default()
    };
    policy_slot([port, extension("resolve", any(&resolve))].into_iter())
}

/// The filter of the connections of a wildcard: it resolves the server name before the connection goes on.
pub(super) fn of_connections(host: &ExternalHost) -> listener::Filter {
    let config = by_sni::FilterConfig {
        dns_cache_config: Some(cache(host)),
        port_specifier: Some(by_sni::filter_config::PortSpecifier::PortValue(u32::from(
            host.dialed().get(),
        ))),
        ..Default::default()
    };
    filter("resolve", any(&config))
}

/// The cluster of a wildcard: its endpoints are the names of the cache.
pub(super) fn cluster_of(host: &ExternalHost) -> cluster::Cluster {
    let config = forward::ClusterConfig {
        cluster_implementation_specifier: Some(
            forward::cluster_config::ClusterImplementationSpecifier::DnsCacheConfig(cache(host)),
        ),
        ..Default::default()
    };
    let by_name = cluster::cluster::CustomClusterType {
        name: CLUSTER_TYPE.to_owned(),
        typed_config: Some(any(&config)),
    };
    cluster::Cluster {
        cluster_discovery_type: Some(cluster::cluster::ClusterDiscoveryType::ClusterType(by_name)),
        lb_policy: cluster::cluster::LbPolicy::ClusterProvided.into(),
        ..base(
            &host.cluster_name(),
            cluster::cluster::DiscoveryType::Static,
        )
    }
}
