//! The way to the control plane: one connection over mTLS, which carries ADS and the load reports.

use heddle_identity::SpiffeId;
use serde_json::{Value, json};

use super::{CONTROL_PLANE, SDS, assignment, protocol};
use crate::settings::Settings;

/// How ADS is asked.
pub(super) fn ads() -> Value {
    json!({
        "api_type": "DELTA_GRPC",
        "transport_api_version": "V3",
        "set_node_on_first_message_only": true,
        "grpc_services": [{ "envoy_grpc": {
            "cluster_name": CONTROL_PLANE,
            // Jittered by Envoy: the proxies of a dead replica do not come to the others at one moment.
            "retry_policy": { "retry_back_off": { "base_interval": "0.5s", "max_interval": "10s" } },
        } }],
    })
}

/// Where loads are reported: to the replica that serves ADS, for both streams share one connection.
pub(super) fn loads() -> Value {
    json!({
        "api_type": "GRPC",
        "transport_api_version": "V3",
        "grpc_services": [{ "envoy_grpc": { "cluster_name": CONTROL_PLANE } }],
    })
}

/// The control plane's cluster.
pub(super) fn cluster(settings: &Settings) -> Value {
    let address = json!({ "socket_address": { "address": settings.control_plane, "port_value": settings.ads_port } });
    let mut cluster = json!({
        "name": CONTROL_PLANE,
        "connect_timeout": "5s",
        "load_assignment": assignment(CONTROL_PLANE, &address),
        "transport_socket": { "name": "envoy.transport_sockets.tls", "typed_config": tls(settings) },
        "typed_extension_protocol_options": protocol(&json!({ "explicit_http_config": { "http2_protocol_options": {
            // A control plane that vanished without a word is noticed within the sum of the two.
            "connection_keepalive": { "interval": "15s", "timeout": "5s" },
        } } })),
        "upstream_connection_options": { "tcp_keepalive": { "keepalive_time": 60 } },
    });
    let (key, found) = match settings.control_plane_ip() {
        Some(_) => ("type", json!("STATIC")),
        None => ("cluster_type", resolved()),
    };
    if let Some(fields) = cluster.as_object_mut() {
        fields.insert(key.to_owned(), found);
    }
    cluster
}

/// The addresses of a name are one endpoint: of several, each new connection takes the first of the latest answer, and both
/// streams take the same. The name is that of a Service. The address of a Service never changes, so it is seldom looked up;
/// the Service chooses the replica for each new connection.
fn resolved() -> Value {
    json!({ "name": "envoy.clusters.dns", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.clusters.dns.v3.DnsCluster",
        "all_addresses_in_single_endpoint": true,
        "dns_lookup_family": "V4_PREFERRED",
        "dns_refresh_rate": "30s",
        "dns_jitter": "10s",
        "dns_failure_refresh_rate": { "base_interval": "0.5s", "max_interval": "5s" },
    } })
}

fn tls(settings: &Settings) -> Value {
    let own = SpiffeId::control_plane(settings.id.trust_domain().clone());
    let mut tls = json!({
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        // No session is resumed: each handshake shows both certificates as they are now.
        "max_session_keys": 0,
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
        fields.insert("sni".to_owned(), json!(settings.server_name()));
    }
    tls
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
                "grpc_services": [{ "envoy_grpc": {
                    "cluster_name": SDS,
                    // Envoy's first try comes before that cluster is ready, and a pod's start waits for the second.
                    "retry_policy": { "retry_back_off": { "base_interval": "0.02s", "max_interval": "1s" } },
                } }],
            },
        },
    })
}
