//! Envoy's bootstrap. It names no listener and no policy: all that comes from the control plane.

use std::path::Path;

use heddle_identity::SpiffeId;
use serde_json::{Value, json};

use crate::settings::{LogFormat, Settings};

/// The cluster of the control plane's ADS.
const ADS: &str = "heddle-control-plane";
/// The cluster of the agent's SDS, which the compiler's TLS contexts name.
const SDS: &str = "heddle-sds";
/// The cluster of Envoy's own admin socket, for the metrics port of the inbound listener.
const ADMIN: &str = "heddle-admin";
/// Two file descriptors each, in and out, stay far below what a container is allowed.
const MAX_DOWNSTREAM_CONNECTIONS: u32 = 32_768;

/// The bootstrap for these settings, with the sockets where they are.
pub fn bootstrap(settings: &Settings, sds: &Path, admin: &Path) -> Value {
    let mut config = json!({
        "node": { "id": settings.node_id(), "cluster": settings.id.to_string() },
        "admin": {
            "address": pipe(admin),
            "ignore_global_conn_limit": true,
        },
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": true,
                "grpc_services": [{ "envoy_grpc": {
                    "cluster_name": ADS,
                    "retry_policy": { "retry_back_off": { "base_interval": "0.5s", "max_interval": "10s" } },
                } }],
            },
            // Without an end: a proxy without a configuration is not ready, however long it takes.
            "cds_config": { "ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s" },
            "lds_config": { "ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s" },
        },
        "static_resources": { "clusters": [
            control_plane(settings),
            local(SDS, sds, &http2()),
            local(ADMIN, admin, &json!({ "explicit_http_config": { "http_protocol_options": {} } })),
        ] },
        "layered_runtime": { "layers": [{
            "name": "heddle",
            // The default of 100 refuses regular expressions that users do write.
            "static_layer": { "re2.max_program_size.error_level": 65536 },
        }] },
        "overload_manager": { "resource_monitors": [{
            "name": "envoy.resource_monitors.global_downstream_max_connections",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                "max_active_downstream_connections": MAX_DOWNSTREAM_CONNECTIONS,
            },
        }] },
        "deferred_stat_options": { "enable_deferred_creation_stats": true },
        "stats_config": stats(),
    });
    if let (LogFormat::Json, Some(fields)) = (settings.log_format, config.as_object_mut()) {
        let format = json!({ "timestamp": "%Y-%m-%dT%T.%FZ", "level": "%l", "target": "envoy::%n", "message": "%j" });
        fields.insert(
            "application_log_config".to_owned(),
            json!({ "log_format": { "json_format": format } }),
        );
    }
    config
}

fn control_plane(settings: &Settings) -> Value {
    let own = SpiffeId::control_plane(settings.id.trust_domain().clone());
    let mut tls = json!({
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "common_tls_context": {
            "tls_params": { "tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3" },
            "alpn_protocols": ["h2"],
            "tls_certificate_sds_secret_configs": [secret("workload")],
            "combined_validation_context": {
                "default_validation_context": { "match_typed_subject_alt_names": [
                    { "san_type": "URI", "matcher": { "exact": own.to_string() } },
                ] },
                "validation_context_sds_secret_config": secret("trust"),
            },
        },
    });
    if let (None, Some(fields)) = (settings.control_plane_ip(), tls.as_object_mut()) {
        fields.insert("sni".to_owned(), json!(settings.control_plane));
    }
    let address = json!({ "socket_address": { "address": settings.control_plane, "port_value": settings.ads_port } });
    json!({
        "name": ADS,
        "type": "STRICT_DNS",
        "dns_lookup_family": "V4_PREFERRED",
        "connect_timeout": "5s",
        "load_assignment": assignment(ADS, &address),
        "transport_socket": { "name": "envoy.transport_sockets.tls", "typed_config": tls },
        "typed_extension_protocol_options": protocol(&json!({ "explicit_http_config": { "http2_protocol_options": {
            // A control plane that vanished without a word is noticed within the sum of the two.
            "connection_keepalive": { "interval": "15s", "timeout": "5s" },
        } } })),
        "upstream_connection_options": { "tcp_keepalive": { "keepalive_time": 60 } },
    })
}

fn local(name: &str, socket: &Path, options: &Value) -> Value {
    json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": assignment(name, &pipe(socket)),
        "typed_extension_protocol_options": protocol(options),
    })
}

fn http2() -> Value {
    json!({ "explicit_http_config": { "http2_protocol_options": {} } })
}

fn protocol(options: &Value) -> Value {
    let mut options = options.clone();
    if let Some(fields) = options.as_object_mut() {
        let kind = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
        fields.insert("@type".to_owned(), json!(kind));
    }
    json!({ "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options })
}

fn assignment(name: &str, address: &Value) -> Value {
    json!({ "cluster_name": name, "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": address } }] }] })
}

fn pipe(path: &Path) -> Value {
    json!({ "pipe": { "path": path.to_string_lossy(), "mode": 0o600 } })
}

fn secret(name: &str) -> Value {
    json!({
        "name": name,
        "sds_config": {
            "resource_api_version": "V3",
            "initial_fetch_timeout": "0s",
            "api_config_source": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": true,
                "grpc_services": [{ "envoy_grpc": { "cluster_name": SDS } }],
            },
        },
    })
}

/// Only what someone reads: the golden metrics, refusals, what readiness and draining ask, and the state of the connection upward.
fn stats() -> Value {
    let prefixes = [
        "server.",
        "listener_manager.",
        "cluster_manager.",
        "control_plane.",
        "overload.",
    ];
    let contained = ["heddle_", "rbac", "cluster.heddle-control-plane."];
    let suffixes = [
        ".downstream_cx_active",
        ".downstream_rq_active",
        ".downstream_cx_total",
        ".upstream_cx_active",
        ".upstream_cx_connect_fail",
        ".upstream_rq_pending_overflow",
        ".membership_healthy",
        ".membership_total",
        ".update_rejected",
        ".ssl.fail_verify_san",
        ".ssl.fail_verify_error",
        ".ssl.connection_error",
    ];
    let patterns: Vec<Value> = prefixes
        .iter()
        .map(|p| json!({ "prefix": p }))
        .chain(contained.iter().map(|c| json!({ "contains": c })))
        .chain(suffixes.iter().map(|s| json!({ "suffix": s })))
        .collect();
    json!({ "stats_matcher": { "inclusion_list": { "patterns": patterns } } })
}
