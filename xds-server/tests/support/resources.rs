//! Envoy resources for the tests.

use envoy_types::pb::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType, EdsClusterConfig};
use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::core::v3::address::Address as AddressKind;
use envoy_types::pb::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::core::v3::substitution_format_string::Format;
use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
use envoy_types::pb::envoy::config::core::v3::*;
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints,
};
use envoy_types::pb::envoy::config::listener::v3::filter::ConfigType;
use envoy_types::pb::envoy::config::listener::v3::{ApiListener, Filter, FilterChain, Listener};
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::ClusterSpecifier;
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::{Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost};
use envoy_types::pb::envoy::extensions::filters::common::set_filter_state::v3::FilterStateValue;
use envoy_types::pb::envoy::extensions::filters::common::set_filter_state::v3::filter_state_value::{Key, Value};
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_filter;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, Rds,
};
use envoy_types::pb::envoy::extensions::filters::network::set_filter_state;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use envoy_types::pb::google::protobuf::{Any, Duration, UInt32Value};
use heddle_xds_server::{Resource, ResourceKey, ResourceKind};
use prost::Message;

fn resource(
    kind: ResourceKind,
    name: &str,
    version: &str,
    message: &impl Message,
    requires: Vec<ResourceKey>,
) -> Resource {
    let body = message.encode_to_vec().into();
    Resource {
        key: ResourceKey::new(kind, name),
        version: version.into(),
        body,
        requires,
        empty: false,
    }
}

/// The runtime layer with one value.
pub fn runtime(key: &str, value: u32) -> Resource {
    use envoy_types::pb::google::protobuf::{Struct, Value, value::Kind};
    let kind = Some(Kind::NumberValue(value.into()));
    let layer = Struct {
        fields: [(key.to_owned(), Value { kind })].into(),
    };
    let message = envoy_types::pb::envoy::service::runtime::v3::Runtime {
        name: "heddle".to_owned(),
        layer: Some(layer),
    };
    let version = value.to_string();
    resource(
        ResourceKind::Runtime,
        "heddle",
        &version,
        &message,
        Vec::new(),
    )
}

fn any(type_name: &str, message: &impl Message) -> Any {
    Any {
        type_url: format!("type.googleapis.com/{type_name}"),
        value: message.encode_to_vec(),
    }
}

fn ads() -> ConfigSource {
    ConfigSource {
        resource_api_version: ApiVersion::V3.into(),
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        ..ConfigSource::default()
    }
}

fn address(port: u16) -> Address {
    let socket = SocketAddress {
        address: "127.0.0.1".into(),
        port_specifier: Some(PortSpecifier::PortValue(port.into())),
        ..SocketAddress::default()
    };
    Address {
        address: Some(AddressKind::SocketAddress(socket)),
    }
}

fn assignment(name: &str, port: u16) -> ClusterLoadAssignment {
    let endpoint = Endpoint {
        address: Some(address(port)),
        ..Endpoint::default()
    };
    let endpoint = LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(endpoint)),
        ..LbEndpoint::default()
    };
    // gRPC insists on a locality and a weight.
    let locality = LocalityLbEndpoints {
        locality: Some(Locality {
            region: "here".into(),
            ..Locality::default()
        }),
        load_balancing_weight: Some(UInt32Value { value: 1 }),
        lb_endpoints: vec![endpoint],
        ..LocalityLbEndpoints::default()
    };
    ClusterLoadAssignment {
        cluster_name: name.into(),
        endpoints: vec![locality],
        ..ClusterLoadAssignment::default()
    }
}

pub fn key(kind: ResourceKind, name: &str) -> ResourceKey {
    ResourceKey::new(kind, name)
}

/// An EDS cluster. The version is also its connect timeout, so that another version is a true update.
pub fn cluster(name: &str, version: i64) -> Resource {
    let cluster = Cluster {
        name: name.into(),
        connect_timeout: Some(Duration {
            seconds: version,
            nanos: 0,
        }),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())),
        eds_cluster_config: Some(EdsClusterConfig {
            eds_config: Some(ads()),
            ..EdsClusterConfig::default()
        }),
        ..Cluster::default()
    };
    resource(
        ResourceKind::Cluster,
        name,
        &version.to_string(),
        &cluster,
        vec![],
    )
}

pub fn static_cluster(name: &str, port: u16, requires: Vec<ResourceKey>) -> Resource {
    let cluster = Cluster {
        name: name.into(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Static.into())),
        load_assignment: Some(assignment(name, port)),
        ..Cluster::default()
    };
    resource(ResourceKind::Cluster, name, "1", &cluster, requires)
}

pub fn endpoints(name: &str, port: u16) -> Resource {
    resource(
        ResourceKind::Endpoints,
        name,
        &port.to_string(),
        &assignment(name, port),
        vec![],
    )
}

/// Everything to one cluster, with the version in the response header `x-version`.
pub fn route(name: &str, to: &str, version: &str) -> Resource {
    let header = HeaderValue {
        key: "x-version".into(),
        value: version.into(),
        ..HeaderValue::default()
    };
    let action = RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster(to.into())),
        ..RouteAction::default()
    };
    let route = Route {
        r#match: Some(RouteMatch {
            path_specifier: Some(PathSpecifier::Prefix(String::new())),
            ..RouteMatch::default()
        }),
        action: Some(Action::Route(action)),
        response_headers_to_add: vec![HeaderValueOption {
            header: Some(header),
            ..HeaderValueOption::default()
        }],
        ..Route::default()
    };
    let host = VirtualHost {
        name: "all".into(),
        domains: vec!["*".into()],
        routes: vec![route],
        ..VirtualHost::default()
    };
    let config = RouteConfiguration {
        name: name.into(),
        virtual_hosts: vec![host],
        ..RouteConfiguration::default()
    };
    let requires = vec![
        key(ResourceKind::Cluster, to),
        key(ResourceKind::Endpoints, to),
    ];
    resource(ResourceKind::Route, name, version, &config, requires)
}

fn connection_manager(route: &str) -> Any {
    let rds = Rds {
        config_source: Some(ads()),
        route_config_name: route.into(),
    };
    let router = any(
        "envoy.extensions.filters.http.router.v3.Router",
        &Router::default(),
    );
    let filter = HttpFilter {
        name: "router".into(),
        config_type: Some(http_filter::ConfigType::TypedConfig(router)),
        ..HttpFilter::default()
    };
    let manager = HttpConnectionManager {
        stat_prefix: "test".into(),
        route_specifier: Some(RouteSpecifier::Rds(rds)),
        http_filters: vec![filter],
        ..HttpConnectionManager::default()
    };
    any(
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        &manager,
    )
}

fn filter(name: &str, config: Any) -> Filter {
    Filter {
        name: name.into(),
        config_type: Some(ConfigType::TypedConfig(config)),
    }
}

fn listener(name: &str, port: u16, filters: Vec<Filter>) -> Resource {
    let chain = FilterChain {
        filters,
        ..FilterChain::default()
    };
    let listener = Listener {
        name: name.into(),
        address: Some(address(port)),
        filter_chains: vec![chain],
        ..Listener::default()
    };
    resource(ResourceKind::Listener, name, "1", &listener, vec![])
}

pub fn http_listener(name: &str, port: u16, route: &str) -> Resource {
    listener(name, port, vec![filter("http", connection_manager(route))])
}

/// A listener that Envoy rejects: a TCP proxy that goes nowhere.
pub fn bad_listener(name: &str, port: u16) -> Resource {
    let proxy = any(
        "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        &TcpProxy::default(),
    );
    listener(name, port, vec![filter("tcp", proxy)])
}

/// A TCP listener with a filter that comes by ECDS.
pub fn extended_listener(name: &str, port: u16, extension: &str, to: &str) -> Resource {
    let source = ExtensionConfigSource {
        config_source: Some(ads()),
        type_urls: vec![format!("type.googleapis.com/{SET_STATE}")],
        ..ExtensionConfigSource::default()
    };
    let discovered = Filter {
        name: extension.into(),
        config_type: Some(ConfigType::ConfigDiscovery(source)),
    };
    let proxy = TcpProxy {
        stat_prefix: "extended".into(),
        cluster_specifier: Some(tcp_proxy::ClusterSpecifier::Cluster(to.into())),
        ..TcpProxy::default()
    };
    let proxy = any(
        "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        &proxy,
    );
    listener(name, port, vec![discovered, filter("tcp", proxy)])
}

const SET_STATE: &str = "envoy.extensions.filters.network.set_filter_state.v3.Config";

/// A filter that chooses the cluster of a connection.
pub fn chooses(name: &str, version: &str, cluster: &str) -> Resource {
    let config = TypedExtensionConfig {
        name: name.into(),
        typed_config: Some(any(SET_STATE, &choice(cluster))),
    };
    resource(ResourceKind::Extension, name, version, &config, vec![])
}

fn choice(cluster: &str) -> set_filter_state::v3::Config {
    let text = DataSource {
        specifier: Some(Specifier::InlineString(cluster.into())),
        ..DataSource::default()
    };
    let format = SubstitutionFormatString {
        format: Some(Format::TextFormatSource(text)),
        ..SubstitutionFormatString::default()
    };
    set_filter_state::v3::Config {
        on_new_connection: vec![FilterStateValue {
            key: Some(Key::ObjectKey("envoy.tcp_proxy.cluster".into())),
            value: Some(Value::FormatString(format)),
            ..FilterStateValue::default()
        }],
        ..set_filter_state::v3::Config::default()
    }
}

/// A listener for gRPC.
pub fn api_listener(name: &str, route: &str) -> Resource {
    let api = ApiListener {
        api_listener: Some(connection_manager(route)),
    };
    let listener = Listener {
        name: name.into(),
        api_listener: Some(api),
        ..Listener::default()
    };
    resource(ResourceKind::Listener, name, "1", &listener, vec![])
}

/// A listener that asks for the cluster `dst|<its own address>` when somebody connects.
pub fn on_demand_listener(name: &str, port: u16) -> Resource {
    let proxy = TcpProxy {
        stat_prefix: "on-demand".into(),
        on_demand: Some(tcp_proxy::OnDemand {
            odcds_config: Some(ads()),
            timeout: Some(Duration {
                seconds: 10,
                nanos: 0,
            }),
            ..tcp_proxy::OnDemand::default()
        }),
        cluster_specifier: Some(tcp_proxy::ClusterSpecifier::Cluster("unused".into())),
        ..TcpProxy::default()
    };
    let filters = vec![
        filter(
            "state",
            any(SET_STATE, &choice("dst|%DOWNSTREAM_LOCAL_ADDRESS%")),
        ),
        filter(
            "tcp",
            any(
                "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                &proxy,
            ),
        ),
    ];
    listener(name, port, filters)
}
