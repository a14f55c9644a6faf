//! Envoy's resources for the tests, written as JSON: caller -> outbound -> mTLS -> inbound -> application.

use std::net::SocketAddr;

use envoy_types::pb::google::protobuf::Any;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage};
use serde_json::{Value, json};

pub type Resources = Vec<(String, Any)>;

/// Where things listen.
#[derive(Clone, Copy)]
pub struct Ports {
    pub inbound: SocketAddr,
    pub outbound: SocketAddr,
    pub metrics: SocketAddr,
    pub app: SocketAddr,
}

pub fn resources(ports: Ports) -> Resources {
    let types = descriptors();
    let peer = json!({ "san_type": "URI", "matcher": { "exact": "spiffe://cluster.local/ns/shop/sa/cart" } });
    let mut to_itself = cluster("to-itself", ports.inbound);
    to_itself["transport_socket"] = tls("UpstreamTlsContext", &peer);
    // New handshakes all the time, so that each new leaf is used at once.
    to_itself["typed_extension_protocol_options"] = json!({ "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "common_http_protocol_options": { "max_requests_per_connection": 3 },
        "explicit_http_config": { "http_protocol_options": {} },
    } });
    let app = cluster("app", ports.app);
    let mut inbound = listener("inbound", ports.inbound, "app", "INBOUND");
    inbound["filter_chains"][0]["transport_socket"] = tls("DownstreamTlsContext", &peer);
    inbound["filter_chains"][0]["transport_socket"]["typed_config"]["require_client_certificate"] =
        json!(true);
    let outbound = listener("outbound", ports.outbound, "to-itself", "OUTBOUND");
    // As the inbound listener's port 15020 does.
    let metrics = listener("metrics", ports.metrics, "heddle-admin", "OUTBOUND");
    [
        ("envoy.config.cluster.v3.Cluster", app),
        ("envoy.config.cluster.v3.Cluster", to_itself),
        ("envoy.config.listener.v3.Listener", inbound),
        ("envoy.config.listener.v3.Listener", outbound),
        ("envoy.config.listener.v3.Listener", metrics),
    ]
    .into_iter()
    .map(|(kind, value)| {
        (
            value["name"].as_str().unwrap().to_owned(),
            pack(&types, kind, value),
        )
    })
    .collect()
}

/// The runtime layer with this value.
pub fn runtime(name: &str, value: u32) -> (String, Any) {
    let layer = json!({ "name": "heddle", "layer": { name: value } });
    let kind = "envoy.service.runtime.v3.Runtime";
    ("heddle".to_owned(), pack(&descriptors(), kind, layer))
}

fn address(at: SocketAddr) -> Value {
    json!({ "socket_address": { "address": at.ip().to_string(), "port_value": at.port() } })
}

fn cluster(name: &str, at: SocketAddr) -> Value {
    json!({
        "name": name,
        "type": "STATIC",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": address(at) } }] }],
        },
    })
}

fn listener(name: &str, at: SocketAddr, cluster: &str, direction: &str) -> Value {
    let serial = json!({ "header": { "key": "x-serial", "value": "%DOWNSTREAM_PEER_SERIAL%" }, "append_action": "ADD_IF_ABSENT" });
    let header = if name == "inbound" {
        json!([serial])
    } else {
        json!([])
    };
    json!({
        "name": name,
        "stat_prefix": name,
        "address": address(at),
        "traffic_direction": direction,
        "filter_chains": [{ "filters": [{
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                "stat_prefix": name,
                "access_log": [golden(name)],
                "route_config": { "virtual_hosts": [{
                    "name": name,
                    "domains": ["*"],
                    "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": cluster, "timeout": "30s" }, "response_headers_to_add": header }],
                }] },
                "http_filters": [{
                    "name": "envoy.filters.http.router",
                    "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" },
                }],
            },
        }] }],
    })
}

/// The golden metrics under their own names, as the compiler has them, with the path in the place of the cluster.
fn golden(name: &str) -> Value {
    let edge = match name {
        "inbound" => "destination;;cart",
        _ => "source;shop;itself",
    };
    let stat = |name: &str, details: &str| {
        let edge = format!("{edge};%RESPONSE_CODE%;%GRPC_STATUS_NUMBER%;%REQ(:PATH)%{details}");
        json!({ "name": name, "tags": [{ "name": "edge", "value_format": edge }] })
    };
    let details = ";%RESPONSE_FLAGS%;%ROUTE_NAME%;%RESPONSE_CODE_DETAILS%";
    json!({ "name": "envoy.access_loggers.stats", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.access_loggers.stats.v3.Config",
        "stats_scope": { "sharing_name": "heddle", "max_counters": 3, "max_histograms": 3, "enable_eviction": true },
        "counters": [{ "stat": stat("heddle_request_failures_total", details), "value_fixed": 1 }],
        "histograms": [{ "stat": stat("heddle_request_duration_ms", ""), "unit": "Milliseconds", "value_format": "%DURATION%" }],
    } })
}

fn tls(kind: &str, peer: &Value) -> Value {
    let secret = |name: &str| {
        json!({ "name": name, "sds_config": {
            "resource_api_version": "V3",
            "api_config_source": {
                // State of the world here, delta in the bootstrap: both are served.
                "api_type": "GRPC",
                "transport_api_version": "V3",
                "grpc_services": [{ "envoy_grpc": { "cluster_name": "heddle-sds" } }],
            },
        } })
    };
    json!({ "name": "envoy.transport_sockets.tls", "typed_config": {
        "@type": format!("type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{kind}"),
        "common_tls_context": {
            "tls_certificate_sds_secret_configs": [secret("workload")],
            "combined_validation_context": {
                "default_validation_context": { "match_typed_subject_alt_names": [peer] },
                "validation_context_sds_secret_config": secret("trust"),
            },
        },
    } })
}

fn pack(types: &DescriptorPool, kind: &str, value: Value) -> Any {
    let descriptor = types.get_message_by_name(kind).unwrap();
    let message = DynamicMessage::deserialize(descriptor, value).unwrap();
    Any {
        type_url: format!("type.googleapis.com/{kind}"),
        value: message.encode_to_vec(),
    }
}

/// The descriptor set of envoy-types.
fn descriptors() -> DescriptorPool {
    let bytes: &[u8] = heddle_envoy_descriptors::envoy_descriptors!();
    DescriptorPool::decode(bytes).unwrap()
}
