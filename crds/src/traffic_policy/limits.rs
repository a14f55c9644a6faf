//! Limits of a `TrafficPolicy`.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// The most that one calling sidecar asks of a service, or of each backend of a TrafficSplit, at the same time; at least
/// one field. A request beyond it is answered with status 503 by the caller's sidecar; a connection of bytes is closed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("has(self.connections) || has(self.pendingRequests) || has(self.requests)").message(
    "spec.limits is empty; name connections, pendingRequests or requests"
))]
pub struct Limits {
    /// Connections, 1 to 1000000. Requests of HTTP/1 beyond it wait for a connection; connections of bytes are closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub connections: Option<u32>,
    /// Requests that wait for a connection, 1 to 1000000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub pending_requests: Option<u32>,
    /// Requests under way, 1 to 1000000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub requests: Option<u32>,
}
