//! Rate limits of a `TrafficPolicy`.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::{CallMatch, HumanDuration};

/// A bound on the requests that each pod of the service takes, or all of them together. The pod's own sidecar answers those beyond it
/// with status 429 (gRPC: RESOURCE_EXHAUSTED) and `retry-after`. A request must pass every limit of the list that it matches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new(
    "!self.shared || duration(self.per) == duration('1s') || duration(self.per) == duration('1m') || duration(self.per) == duration('1h')"
).message("a shared limit counts for a whole second, minute or hour; set per to 1s, 1m or 1h"))]
#[x_kube(validation = Rule::new("!self.shared || !has(self.burst)").message(
    "a shared limit counts from 0 in each period and has no burst; remove burst"
))]
pub struct RateLimit {
    /// Only requests that match. Left out: all requests.
    #[serde(default, rename = "match", skip_serializing_if = "Option::is_none")]
    pub matching: Option<CallMatch>,
    /// Requests in each period, 1 to 1000000.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub requests: u32,
    /// The period, from 1s to 1h.
    #[serde(default = "second")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('1h')").message(
        "spec.rateLimits.per must be from 1s to 1h; write for example 1m"
    ))]
    pub per: HumanDuration,
    /// Requests that a pod takes at once after a pause, 1 to 1000000. Left out: as `requests`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub burst: Option<u32>,
    /// Whether each caller has a bound of its own, by its identity. Callers without an identity share one.
    #[serde(default)]
    pub per_caller: bool,
    /// Whether all pods of the service have the bound together, over all its ports. The rate limit service of the Mesh
    /// (`spec.rateLimits.server`) counts the requests then. `per` is 1s, 1m or 1h, and `burst` is left out.
    #[serde(default)]
    pub shared: bool,
}

fn second() -> HumanDuration {
    HumanDuration::seconds(1)
}
