//! The sidecar's own zone, which clusters with `zone_aware_lb_config` prefer.

use std::path::Path;

use heddle_xds_types::bootstrap::LOCAL;
use serde_json::{Value, json};

use super::pipe;

/// Writes the zone into a bootstrap. Envoy balances by zone only if `local_cluster_name` names a cluster of the node's own peers. Ours has
/// one endpoint in the zone, which gets no traffic.
pub(super) fn set(config: &mut Value, zone: &str, socket: &Path) {
    let locality = json!({ "zone": zone });
    let endpoint = json!({ "endpoint": { "address": pipe(socket) } });
    let local = json!({
        "name": LOCAL,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": LOCAL,
            "endpoints": [{ "locality": locality, "lb_endpoints": [endpoint] }],
        },
    });
    if let Some(clusters) = config
        .pointer_mut("/static_resources/clusters")
        .and_then(Value::as_array_mut)
    {
        clusters.push(local);
    }
    for (path, key, value) in [
        ("/node", "locality", locality),
        ("/cluster_manager", "local_cluster_name", json!(LOCAL)),
    ] {
        if let Some(fields) = config.pointer_mut(path).and_then(Value::as_object_mut) {
            fields.insert(key.to_owned(), value);
        }
    }
}
