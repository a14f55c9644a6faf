//! A bootstrap with which a stock Envoy validates one resource (`envoy --mode validate`), apart from everything else that a
//! proxy has.

use std::collections::HashMap;

use envoy_types::pb::envoy::config::bootstrap::v3 as bootstrap;
use envoy_types::pb::envoy::config::cluster::v3 as cluster;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::listener::v3 as listener;
use envoy_types::pb::envoy::extensions::upstreams::http::v3 as http;
use envoy_types::pb::envoy::service::runtime::v3::Runtime;
use envoy_types::pb::google::protobuf::{Struct, Value, value};
use heddle_xds_types::bootstrap::{CLUSTERS, CONTROL_PLANE, REGEX_PROGRAM_SIZE, RUNTIME_FEATURES};
use prost::Message;

use super::hcm::{Routes, Side, connection_manager};
use super::metrics::{Edge, NO_SERVICE, OWN_PRINCIPAL};
use super::network::tcp_proxy;
use super::reporting::Reporting;
use super::wire::envoy::config::route::v3::RouteConfiguration;
use super::{any, socket_address, truth};
use crate::resource::{Resource, ResourceKind};
use crate::telemetry::LineFormat;

/// Returns the bootstrap as a binary message, with the one resource in it; with no resource, one that every Envoy accepts. `None`
/// if the resource's body is not a message of its kind.
#[must_use]
pub fn trial_bootstrap(resource: Option<&Resource>) -> Option<Vec<u8>> {
    let mut statics = bootstrap::bootstrap::StaticResources {
        clusters: CLUSTERS.into_iter().map(local).collect(),
        ..Default::default()
    };
    let mut layers = vec![layer("bootstrap", runtime())];
    if let Some(resource) = resource {
        // A proxy has these before it is sent the resource.
        let required = resource.requires.iter();
        let required = required.filter(|key| key.kind == ResourceKind::Cluster);
        statics
            .clusters
            .extend(required.map(|key| local(&key.name)));
        let body = resource.body.clone();
        match resource.key.kind {
            ResourceKind::Cluster => statics.clusters.push(cluster::Cluster::decode(body).ok()?),
            ResourceKind::Endpoints => {
                let assignment = ClusterLoadAssignment::decode(body).ok()?;
                statics.clusters.push(cluster::Cluster {
                    load_assignment: Some(assignment),
                    ..local("trial")
                });
            }
            ResourceKind::Listener => {
                statics
                    .listeners
                    .push(listener::Listener::decode(body).ok()?);
            }
            ResourceKind::Route => {
                statics
                    .listeners
                    .push(routes(RouteConfiguration::decode(body).ok()?));
            }
            ResourceKind::Extension => {
                statics
                    .listeners
                    .push(extension(core::TypedExtensionConfig::decode(body).ok()?));
            }
            ResourceKind::Runtime => {
                layers.push(layer("trial", Runtime::decode(body).ok()?.layer?))
            }
        }
    }
    let config = bootstrap::Bootstrap {
        node: Some(core::Node {
            id: "trial".to_owned(),
            cluster: "trial".to_owned(),
            ..Default::default()
        }),
        static_resources: Some(statics),
        dynamic_resources: Some(bootstrap::bootstrap::DynamicResources {
            ads_config: Some(ads_of_trial()),
            ..Default::default()
        }),
        layered_runtime: Some(bootstrap::LayeredRuntime { layers }),
        ..Default::default()
    };
    Some(config.encode_to_vec())
}

/// A listener with the route configuration as its only content.
fn routes(mut config: RouteConfiguration) -> listener::Listener {
    // As with routes by RDS: the clusters may come later.
    config.validate_clusters = truth(false);
    let reporting = Reporting {
        edge: Edge::Destination {
            service: NO_SERVICE,
        },
        server: OWN_PRINCIPAL,
        format: LineFormat::default(),
        probed: false,
        spans: None,
    };
    let manager = connection_manager(
        // It gets no connections.
        Side::Server(std::time::Duration::MAX),
        "trial",
        Routes::Inline(Box::new(config)),
        &reporting,
    );
    unbound(vec![manager])
}

/// A listener with the extension as its filter.
fn extension(config: core::TypedExtensionConfig) -> listener::Listener {
    let filter = listener::Filter {
        name: config.name,
        config_type: config
            .typed_config
            .map(listener::filter::ConfigType::TypedConfig),
    };
    unbound(vec![filter, tcp_proxy("trial", "trial", None)])
}

/// A listener without a socket.
fn unbound(filters: Vec<listener::Filter>) -> listener::Listener {
    let at = socket_address(std::net::Ipv4Addr::LOCALHOST.into(), 0);
    listener::Listener {
        name: "trial".to_owned(),
        address: Some(core::Address {
            address: Some(core::address::Address::SocketAddress(at)),
        }),
        bind_to_port: truth(false),
        filter_chains: vec![listener::FilterChain {
            filters,
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// A cluster without hosts.
fn local(name: &str) -> cluster::Cluster {
    cluster::Cluster {
        name: name.to_owned(),
        cluster_discovery_type: Some(cluster::cluster::ClusterDiscoveryType::Type(
            cluster::cluster::DiscoveryType::Static.into(),
        )),
        // gRPC asks for it.
        typed_extension_protocol_options: HashMap::from([(
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions".to_owned(),
            any(&http2()),
        )]),
        ..Default::default()
    }
}

fn http2() -> http::HttpProtocolOptions {
    use http::http_protocol_options::explicit_http_config::ProtocolConfig;
    use http::http_protocol_options::{ExplicitHttpConfig, UpstreamProtocolOptions};
    let explicit = ExplicitHttpConfig {
        protocol_config: Some(ProtocolConfig::Http2ProtocolOptions(
            core::Http2ProtocolOptions::default(),
        )),
    };
    http::HttpProtocolOptions {
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(explicit)),
        ..Default::default()
    }
}

fn ads_of_trial() -> core::ApiConfigSource {
    use core::grpc_service::{EnvoyGrpc, TargetSpecifier};
    let service = core::GrpcService {
        target_specifier: Some(TargetSpecifier::EnvoyGrpc(EnvoyGrpc {
            cluster_name: CONTROL_PLANE.to_owned(),
            ..Default::default()
        })),
        ..Default::default()
    };
    core::ApiConfigSource {
        api_type: core::api_config_source::ApiType::DeltaGrpc.into(),
        transport_api_version: core::ApiVersion::V3.into(),
        grpc_services: vec![service],
        ..Default::default()
    }
}

/// The runtime values of the agent's bootstrap: a trial must not be stricter than a proxy.
fn runtime() -> Struct {
    let value = |kind| Value { kind: Some(kind) };
    let (key, limit) = REGEX_PROGRAM_SIZE;
    let features = RUNTIME_FEATURES.map(|name| (name, value(value::Kind::BoolValue(true))));
    let limit = (key, value(value::Kind::NumberValue(limit.into())));
    let fields = features.into_iter().chain([limit]);
    Struct {
        fields: fields
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
    }
}

fn layer(name: &str, values: Struct) -> bootstrap::RuntimeLayer {
    use bootstrap::runtime_layer::LayerSpecifier;
    bootstrap::RuntimeLayer {
        name: name.to_owned(),
        layer_specifier: Some(LayerSpecifier::StaticLayer(values)),
    }
}
