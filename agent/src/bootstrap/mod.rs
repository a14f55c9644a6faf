//! Envoy's bootstrap. It names no listener and no policy: all that comes from the control plane.

mod control_plane;
mod overload;
mod stats;
mod zone;

use std::path::Path;

use serde_json::{Value, json};

use heddle_xds_types::bootstrap::{
    AGENT, BOOTSTRAP_METADATA, BOOTSTRAP_VERSION, CONTROL_PLANE, METRICS, REGEX_PROGRAM_SIZE,
    RUNTIME_FEATURES, RUNTIME_LAYER, SDS,
};

use crate::settings::{LogFormat, Settings};

/// The Unix sockets of a sidecar.
#[derive(Clone, Copy, Debug)]
pub struct Sockets<'a> {
    /// The agent's SDS.
    pub sds: &'a Path,
    /// Envoy's admin interface.
    pub admin: &'a Path,
    /// The agent's access log service, for taps.
    pub agent: &'a Path,
    /// The agent's socket for readers of metrics.
    pub metrics: &'a Path,
}

/// Returns Envoy's bootstrap, with the container's memory in bytes if it has a limit, and the zone of the node if it is known.
pub fn bootstrap(
    settings: &Settings,
    sockets: &Sockets<'_>,
    memory: Option<u64>,
    zone: Option<&str>,
) -> Value {
    let mut config = json!({
        "node": {
            "id": settings.node_id(),
            "cluster": settings.id.to_string(),
            "metadata": { BOOTSTRAP_METADATA: BOOTSTRAP_VERSION },
        },
        "admin": {
            "address": pipe(sockets.admin),
            "ignore_global_conn_limit": true,
        },
        "dynamic_resources": {
            "ads_config": control_plane::ads(),
            // Without an end: a proxy without a configuration is not ready, however long it takes.
            "cds_config": { "ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s" },
            "lds_config": { "ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s" },
        },
        // The loads show which destinations a sidecar uses: an unused destination leaves the scope.
        "cluster_manager": { "load_stats_config": control_plane::loads() },
        "static_resources": { "clusters": [
            control_plane::cluster(settings),
            local(SDS, sockets.sds, &http2()),
            local(AGENT, sockets.agent, &http2()),
            local(METRICS, sockets.metrics, &json!({ "explicit_http_config": { "http_protocol_options": {} } })),
        ] },
        "layered_runtime": { "layers": [
            { "name": "bootstrap", "static_layer": fixed_runtime() },
            { "name": RUNTIME_LAYER, "rtds_layer": { "name": RUNTIME_LAYER, "rtds_config": {
                "ads": {},
                "resource_api_version": "V3",
                // Envoy starts without the layer if a control plane of before it does not answer.
                "initial_fetch_timeout": "15s",
            } } },
            // By it the agent stops a tap that no control plane wants.
            { "name": "agent", "admin_layer": {} },
        ] },
        "overload_manager": overload::manager(memory),
        // The counters of a cluster are made at its first use.
        "deferred_stat_options": { "enable_deferred_creation_stats": true },
        "stats_config": stats::kept(),
        "stats_eviction_interval": stats::EVICTION_INTERVAL,
    });
    if let Some(zone) = zone {
        zone::set(&mut config, zone, sockets.agent);
    }
    if let (LogFormat::Json, Some(fields)) = (settings.log_format, config.as_object_mut()) {
        let format = json!({ "timestamp": "%Y-%m-%dT%T.%FZ", "level": "%l", "target": "envoy::%n", "message": "%j" });
        fields.insert(
            "application_log_config".to_owned(),
            json!({ "log_format": { "json_format": format } }),
        );
    }
    config
}

fn fixed_runtime() -> Value {
    let (limit, size) = REGEX_PROGRAM_SIZE;
    let features = RUNTIME_FEATURES.map(|name| (name.to_owned(), json!(true)));
    features
        .into_iter()
        .chain([(limit.to_owned(), json!(size))])
        .collect()
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
        let sockets = Sockets {
            sds: Path::new("/sds"),
            admin: Path::new("/admin"),
            agent: Path::new("/agent"),
            metrics: Path::new("/metrics"),
        };
        let config = bootstrap(&settings, &sockets, None, None);
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
