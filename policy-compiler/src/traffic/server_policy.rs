//! The part of a traffic policy that the sidecars of the service's own pods keep.

use std::time::Duration;

use super::rate_limits::{Questions, RateLimit};

/// The treatment of requests that authorization lets pass, by the pod's own sidecar.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServerPolicy {
    /// Bounds on the rate of requests. A request must pass all of them.
    pub limits: Vec<RateLimit>,
    /// Protections from overload. A request must pass all of them.
    pub overload: Vec<Overload>,
    /// How to ask for shared limits. None: no limit is shared.
    pub questions: Option<Questions>,
}

impl ServerPolicy {
    /// Whether the policy lets every request pass.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.limits.is_empty() && self.overload.is_empty()
    }
}

/// Protection from more requests than a pod can take.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Overload {
    /// A bound on the requests under way.
    pub concurrency: Option<AdaptiveConcurrency>,
    /// The refusal of a share of the requests while the pod fails.
    pub admission: Option<AdmissionControl>,
}

/// A bound on the requests under way that follows their latency.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AdaptiveConcurrency {
    /// The latency of a request without load. None: the sidecar measures it.
    pub latency: Option<Duration>,
    /// The lowest bound, in requests under way.
    pub min: u32,
    /// The highest bound, in requests under way.
    pub max: u32,
}

/// The refusal of a share of the requests that grows as the rate of success falls.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AdmissionControl {
    /// The rate of success below which requests are refused, in percent.
    pub success_percent: u32,
    /// The time over which the rate of success is counted.
    pub window: Duration,
    /// The rate, in requests per second, below which no request is refused.
    pub min_rate: u32,
    /// The largest share that is refused, in percent.
    pub max_refused_percent: u32,
}
