//! Envoy's bootstrap. It names no listener and no policy: all that comes from the control plane.

mod control_plane;
mod overload;
mod stats;

use std::path::Path;

use serde_json::{Value, json};

use crate::settings::{LogFormat, Settings};

/// The cluster of the control plane: ADS and load reports.
const CONTROL_PLANE: &str = "heddle-control-plane";
/// The cluster of the agent's SDS, which the compiler's TLS contexts name.
const SDS: &str = "heddle-sds";
/// The cluster of Envoy's own admin socket, for the metrics port of the inbound listener.
const ADMIN: &str = "heddle-admin";

/// The bootstrap for these settings, with the sockets where they are, for a container that may have so many bytes of memory.
pub fn bootstrap(settings: &Settings, sds: &Path, admin: &Path, memory: Option<u64>) -> Value {
    let mut config = json!({
        "node": { "id": settings.node_id(), "cluster": settings.id.to_string() },
        "admin": {
            "address": pipe(admin),
            "ignore_global_conn_limit": true,
        },
        "dynamic_resources": {
            "ads_config": control_plane::ads(),
            // Without an end: a proxy without a configuration is not ready, however long it takes.
            "cds_config": { "ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s" },
            "lds_config": { "ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s" },
        },
        // What a sidecar uses is known from its loads: an unused destination leaves the scope.
        "cluster_manager": { "load_stats_config": control_plane::loads() },
        "static_resources": { "clusters": [
            control_plane::cluster(settings),
            local(SDS, sds, &http2()),
            local(ADMIN, admin, &json!({ "explicit_http_config": { "http_protocol_options": {} } })),
        ] },
        "layered_runtime": { "layers": [{
            "name": "heddle",
            // The default of 100 refuses regular expressions that users do write.
            "static_layer": { "re2.max_program_size.error_level": 65536 },
        }] },
        "overload_manager": overload::manager(memory),
        // The counters of a cluster are made at its first use.
        "deferred_stat_options": { "enable_deferred_creation_stats": true },
        "stats_config": stats::kept(),
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Every TLS context of a client in a configuration.
    fn contexts<'a>(value: &'a Value, found: &mut Vec<&'a Value>) {
        let of_client = |kind: &Value| {
            kind.as_str()
                .is_some_and(|kind| kind.ends_with(".UpstreamTlsContext"))
        };
        match value {
            Value::Object(fields) => {
                found.extend(
                    fields
                        .get("@type")
                        .filter(|kind| of_client(kind))
                        .map(|_| value),
                );
                fields.values().for_each(|value| contexts(value, found));
            }
            Value::Array(items) => items.iter().for_each(|item| contexts(item, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    #[test]
    fn the_control_plane_is_reached_by_full_handshakes_only() {
        let settings = Settings::from_env(|name| {
            let value = match name {
                "HEDDLE_CONTROL_PLANE" => "127.0.0.1",
                "HEDDLE_TRUST_DOMAIN" => "cluster.local",
                "HEDDLE_TRUST_BUNDLE" => "-----BEGIN CERTIFICATE-----",
                "HEDDLE_TOKEN_FILE" | "POD_NAME" | "POD_NAMESPACE" | "POD_SERVICE_ACCOUNT" => "x",
                _ => return None,
            };
            Some(value.to_owned())
        })
        .unwrap();
        let config = bootstrap(&settings, Path::new("/sds"), Path::new("/admin"), None);
        let mut found = Vec::new();
        contexts(&config, &mut found);
        assert!(!found.is_empty(), "{config}");
        for context in found {
            assert_eq!(
                context.get("max_session_keys"),
                Some(&json!(0)),
                "{context}"
            );
        }
    }
}
