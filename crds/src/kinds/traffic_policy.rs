//! `TrafficPolicy`: the timeouts of requests to a service.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::crd::{Definition, Nulls};
use crate::{HumanDuration, LastGood};

/// Sets the timeouts of requests to a service, at any backend.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "heddle.dev",
    version = "v1alpha1",
    kind = "TrafficPolicy",
    plural = "trafficpolicies",
    namespaced,
    shortname = "tp",
    category = "heddle",
    category = "mesh-policies",
    status = "TrafficPolicyStatus",
    derive = "PartialEq",
    doc = "Sets the timeouts of requests to a service.",
    printcolumn(name = "Service", type_ = "string", json_path = ".spec.target.service"),
    printcolumn(
        name = "Proxies",
        type_ = "string",
        json_path = ".status.proxies",
        description = "Sidecars that run this generation, of all that should."
    ),
    printcolumn(
        name = "Programmed",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Programmed")].status"#
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrafficPolicySpec {
    /// The service that clients call. The policy applies to all requests to its ports that carry HTTP, with or without a
    /// TrafficSplit. Calls to single pods, by their own addresses, have no timeouts.
    pub target: TrafficTarget,

    /// How long requests may take.
    pub timeouts: RequestTimeouts,
}

impl Definition for TrafficPolicy {
    const NULLS: Nulls = Nulls::Pruned;
}

/// A service of the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrafficTarget {
    /// The name of the service.
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = r"^[a-z]([-a-z0-9]*[a-z0-9])?$")
    )]
    pub service: String,
}

/// Timeouts, each from `1s` to `8760h`, at least one of them. A timeout that is left out does not exist.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("has(self.request) || has(self.perTry) || has(self.idle)").message(
    "spec.timeouts is empty: name request, perTry or idle"
))]
pub struct RequestTimeouts {
    /// From the end of the request to the end of the response, retries included. A request that takes longer is answered
    /// with status 504; a response that has begun is cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('8760h')").message(
        "spec.timeouts.request must be from 1s to 8760h: write for example 10s"
    ))]
    pub request: Option<HumanDuration>,
    /// Of one attempt, at most `request`. After a longer attempt the request is answered with status 504; it is not sent
    /// again, for the application may have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('8760h')").message(
        "spec.timeouts.perTry must be from 1s to 8760h: write for example 10s"
    ))]
    pub per_try: Option<HumanDuration>,
    /// Without a byte in either direction, also on a WebSocket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('8760h')").message(
        "spec.timeouts.idle must be from 1s to 8760h: write for example 10s"
    ))]
    pub idle: Option<HumanDuration>,
}

/// The status of a [`TrafficPolicy`], written by the control plane.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrafficPolicyStatus {
    /// The generation of the spec that the conditions are about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Accepted`, `ResolvedRefs`, `Conflicted`, `Programmed`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// The last spec that was accepted; it stays in force while the present one is unusable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_good: Option<LastGood>,
    /// Sidecars that run this generation, of all that should, as `n/m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxies: Option<String>,
}
