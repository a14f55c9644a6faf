//! Resources and responses as a server would send them, written by Envoy's own types.

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType};
use envoy_types::pb::envoy::config::listener::v3::filter::ConfigType;
use envoy_types::pb::envoy::config::listener::v3::{Filter, FilterChain, Listener};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, Rds, http_connection_manager::RouteSpecifier,
};
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryResponse, Resource};
use envoy_types::pb::google::protobuf::Any;
use prost::Message;

use crate::sim::response::{CLUSTER, LISTENER};

pub(crate) fn resource(type_url: &str, name: &str, body: Vec<u8>) -> Resource {
    let body = Any {
        type_url: type_url.to_owned(),
        value: body,
    };
    Resource {
        name: name.to_owned(),
        version: "1".to_owned(),
        resource: Some(body),
        ..Resource::default()
    }
}

pub(crate) fn response(
    type_url: &str,
    nonce: &str,
    resources: Vec<Resource>,
    removed: Vec<String>,
) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        type_url: type_url.to_owned(),
        nonce: nonce.to_owned(),
        resources,
        removed_resources: removed,
        ..DeltaDiscoveryResponse::default()
    }
}

pub(crate) fn eds(name: &str) -> Resource {
    let cluster = Cluster {
        name: name.to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())),
        ..Cluster::default()
    };
    resource(CLUSTER, name, cluster.encode_to_vec())
}

pub(crate) fn listener(name: &str, route: &str) -> Resource {
    let rds = Rds {
        route_config_name: route.to_owned(),
        ..Rds::default()
    };
    let manager = HttpConnectionManager {
        route_specifier: Some(RouteSpecifier::Rds(rds)),
        ..HttpConnectionManager::default()
    };
    let config = Any {
        type_url: "x/a.HttpConnectionManager".to_owned(),
        value: manager.encode_to_vec(),
    };
    let filter = Filter {
        config_type: Some(ConfigType::TypedConfig(config)),
        ..Filter::default()
    };
    let chain = FilterChain {
        filters: vec![filter],
        ..FilterChain::default()
    };
    let listener = Listener {
        name: name.to_owned(),
        filter_chains: vec![chain],
        ..Listener::default()
    };
    resource(LISTENER, name, listener.encode_to_vec())
}
