//! The part of a traffic policy that the sidecars of the service's own pods keep.

use std::collections::BTreeSet;
use std::time::Duration;

use super::rate_limits::{Questions, RateLimit};
use crate::finding::ObjectRef;

/// The most policies that the name of a route has.
const MAX_NAMED: usize = 4;

/// The treatment of requests that authorization lets pass, by the pod's own sidecar.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServerPolicy {
    /// Bounds on the rate of requests. A request must pass all of them.
    pub limits: Vec<RateLimit>,
    /// Protections from overload. A request must pass all of them.
    pub overload: Vec<Overload>,
    /// How to ask for shared limits. None: no limit is shared.
    pub questions: Option<Questions>,
    /// The objects that set the limits and protections.
    pub objects: BTreeSet<ObjectRef>,
}

impl ServerPolicy {
    /// Whether the policy lets every request pass.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.limits.is_empty() && self.overload.is_empty()
    }

    /// The name of the route of all requests: metrics and access logs have it with the flag of a request that is refused.
    pub(crate) fn route_name(&self) -> String {
        let named = self.objects.iter().take(MAX_NAMED);
        let name = named.fold("all".to_owned(), |name, object| format!("{name}, {object}"));
        match self.objects.len().saturating_sub(MAX_NAMED) {
            0 => name,
            more => format!("{name}, +{more}"),
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ObjectKind;

    #[test]
    fn the_route_names_a_few_policies() {
        let with = |count: usize| ServerPolicy {
            objects: (0..count).map(policy).collect(),
            ..ServerPolicy::default()
        };
        assert_eq!(with(0).route_name(), "all");
        let two = "all, TrafficPolicy shop/p0, TrafficPolicy shop/p1";
        assert_eq!(with(2).route_name(), two);
        let many = with(9).route_name();
        assert!(
            many.starts_with(two) && many.ends_with("shop/p3, +5"),
            "{many}"
        );
    }

    fn policy(index: usize) -> ObjectRef {
        ObjectRef {
            kind: ObjectKind::TrafficPolicy,
            namespace: "shop".into(),
            name: format!("p{index}").into(),
        }
    }
}
