//! Protection of pods from overload by a `TrafficPolicy`.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::HumanDuration;

/// How each pod of the service is protected from more requests than it can take; at least one field. The pod's own sidecar answers
/// the requests beyond with status 503 (gRPC: UNAVAILABLE), before the application sees them. Probes always pass.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("has(self.concurrency) || has(self.admission)").message(
    "spec.overload is empty; name concurrency or admission"
))]
pub struct Overload {
    /// Bounds the requests under way by their latency. Left out: no bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<AdaptiveConcurrency>,
    /// Refuses a share of the requests while the pod fails. Left out: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admission: Option<AdmissionControl>,
}

/// A bound on the requests under way in a pod that follows their latency: it falls while requests take longer than without load, and rises
/// again when they do not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("self.min <= self.max").message(
    "spec.overload.concurrency.min is above max; lower it or raise max"
))]
pub struct AdaptiveConcurrency {
    /// The latency of a request without load, from 1ms to 1h. Left out: measured about once a minute, for which only `min` requests
    /// are let in for a moment; the others are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1ms') && duration(self) <= duration('1h')").message(
        "spec.overload.concurrency.latency must be from 1ms to 1h; write for example 20ms"
    ))]
    pub latency: Option<HumanDuration>,
    /// The bound never falls below this number of requests, 1 to 100000.
    #[serde(default = "min_requests")]
    #[schemars(range(min = 1, max = 100_000))]
    pub min: u32,
    /// The bound never rises above this number of requests, 1 to 100000.
    #[serde(default = "max_requests")]
    #[schemars(range(min = 1, max = 100_000))]
    pub max: u32,
}

impl Default for AdaptiveConcurrency {
    fn default() -> Self {
        Self {
            latency: None,
            min: min_requests(),
            max: max_requests(),
        }
    }
}

/// The refusal of a share of the requests while too many of a pod's answers are failures: status 500 to 599, or a status of gRPC that
/// stands for overload or faults of the server. The share grows as the rate of success falls, so the pod can recover.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AdmissionControl {
    /// The rate of success below which requests are refused, in percent, 1 to 100.
    #[serde(default = "success_percent")]
    #[schemars(range(min = 1, max = 100))]
    pub success_percent: u32,
    /// The time over which it is counted, in whole seconds, from 1s to 10m.
    #[serde(default = "window")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('10m')").message(
        "spec.overload.admission.window must be from 1s to 10m; write for example 30s"
    ))]
    pub window: HumanDuration,
    /// No request is refused while the pod takes fewer requests a second than this, 0 to 1000000.
    #[serde(default = "min_rate")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub min_requests_per_second: u32,
    /// The largest share that is refused, in percent, 1 to 99: the others show when the pod has recovered.
    #[serde(default = "max_refused_percent")]
    #[schemars(range(min = 1, max = 99))]
    pub max_refused_percent: u32,
}

impl Default for AdmissionControl {
    fn default() -> Self {
        Self {
            success_percent: success_percent(),
            window: window(),
            min_requests_per_second: min_rate(),
            max_refused_percent: max_refused_percent(),
        }
    }
}

const fn min_requests() -> u32 {
    3
}

const fn max_requests() -> u32 {
    1000
}

const fn success_percent() -> u32 {
    95
}

fn window() -> HumanDuration {
    HumanDuration::seconds(30)
}

const fn min_rate() -> u32 {
    5
}

const fn max_refused_percent() -> u32 {
    80
}
