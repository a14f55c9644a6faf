//! The rate limit service of the mesh.

use std::num::NonZeroU16;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{HostTls, HumanDuration};

/// Shared rate limits: those of a TrafficPolicy with `shared: true`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RateLimitSettings {
    /// The rate limit service: a server of Envoy's rate limit protocol (`envoy.service.ratelimit.v3`), such as envoyproxy/ratelimit with
    /// `domain: heddle`. Left out: a TrafficPolicy with a shared limit does not come into force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<RateLimitServer>,

    /// How long a request waits for the answer of the service, from 1ms to 10s.
    #[serde(default = "tenth_of_a_second")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1ms') && duration(self) <= duration('10s')").message(
        "spec.rateLimits.timeout must be from 1ms to 10s; write for example 100ms"
    ))]
    pub timeout: HumanDuration,

    /// The treatment of requests for which the service gives no answer in time. `Open`: they pass. `Closed`: they are answered 503 (gRPC:
    /// UNAVAILABLE).
    #[serde(default)]
    pub failure_mode: FailureMode,
}

impl Default for RateLimitSettings {
    fn default() -> Self {
        Self {
            server: None,
            timeout: tenth_of_a_second(),
            failure_mode: FailureMode::default(),
        }
    }
}

/// The first question of a sidecar waits for a TLS handshake, so it takes longer than Envoy's default of 20 ms.
fn tenth_of_a_second() -> HumanDuration {
    HumanDuration::milliseconds(100)
}

/// The treatment of requests without an answer of the rate limit service.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
)]
pub enum FailureMode {
    /// They pass: a limit protects from too much, and no service stops because its counter does.
    #[default]
    Open,
    /// They are refused.
    Closed,
}

/// The rate limit service. Names exactly one of `service` and `address`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("has(self.service) != has(self.address)").message(
    "the server is either a service or an address; keep one of the two"
))]
pub struct RateLimitServer {
    /// A Service of the cluster. Pods of it with a sidecar are called by mTLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<RateLimitServerService>,

    /// A host outside the mesh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<RateLimitServerAddress>,
}

/// A port of a Service with a cluster IP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RateLimitServerService {
    /// Its namespace.
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
    )]
    pub namespace: String,
    /// Its name.
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = r"^[a-z]([-a-z0-9]*[a-z0-9])?$")
    )]
    pub name: String,
    /// The port of the Service that takes gRPC.
    #[serde(default = "grpc")]
    pub port: NonZeroU16,
}

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RateLimitServerAddress {
    /// A DNS name, which each sidecar looks up, or an address.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?|[0-9a-f:]*:[0-9a-f:.]*)$")
    )]
    pub host: String,
    /// The port that takes gRPC.
    #[serde(default = "grpc")]
    pub port: NonZeroU16,
    /// TLS to the host; `{}` by public authorities. Left out, or without a value: plain text, which everybody on the way can read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<HostTls>,
}

/// The port of envoyproxy/ratelimit.
const fn grpc() -> NonZeroU16 {
    const { NonZeroU16::new(8081).unwrap() }
}
