//! Connections of a `TrafficPolicy`.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::HumanDuration;

/// How a calling sidecar makes and keeps connections; at least one field.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new(
    "has(self.connectTimeout) || has(self.idleTimeout) || has(self.maxRequests) || has(self.tcpKeepalive)"
).message(
    "spec.connections is empty; name connectTimeout, idleTimeout, maxRequests or tcpKeepalive"
))]
pub struct Connections {
    /// How long it may take to make a connection, from 10ms to 1m. Left out: 2s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('10ms') && duration(self) <= duration('1m')").message(
        "spec.connections.connectTimeout must be from 10ms to 1m; write for example 2s"
    ))]
    pub connect_timeout: Option<HumanDuration>,
    /// How long a connection of HTTP is kept without a request, from 100ms to 59m. It must be shorter than the server keeps
    /// it, or a request is lost that meets the end of its connection. Left out: 50m to sidecars, 1s where an endpoint has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('100ms') && duration(self) <= duration('59m')").message(
        "spec.connections.idleTimeout must be from 100ms to 59m; write for example 30s"
    ))]
    pub idle_timeout: Option<HumanDuration>,
    /// Requests after which a connection of HTTP is replaced, 1 to 1000000. Left out: any number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_requests: Option<u32>,
    /// How long a connection is silent before the kernel asks whether its peer is there, from 3s to 9h: then three times,
    /// each after a third of it. Left out: it never asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('3s') && duration(self) <= duration('9h')").message(
        "spec.connections.tcpKeepalive must be from 3s to 9h; write for example 60s"
    ))]
    pub tcp_keepalive: Option<HumanDuration>,
}
