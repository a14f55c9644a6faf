//! `TrafficPolicy`: the resilience of calls to a service.

use std::num::NonZeroU16;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::crd::{Definition, Nulls};
use crate::{
    Connections, Fault, HeaderPolicy, LastGood, Limits, LoadBalancing, OutlierEjection, Overload,
    RateLimit, RequestTimeouts, Retries, RouteTarget, strict,
};

/// Sets the timeouts and retries of calls to a service, their limits, and the choice of an endpoint.
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
    doc = "Sets the timeouts and retries of calls to a service, their limits, and the choice of an endpoint.",
    printcolumn(name = "Service", type_ = "string", json_path = ".spec.target.service"),
    printcolumn(
        name = "External",
        type_ = "string",
        json_path = ".spec.target.externalService"
    ),
    printcolumn(name = "Port", type_ = "integer", json_path = ".spec.target.port"),
    printcolumn(
        name = "Route",
        type_ = "string",
        json_path = ".spec.target.route.name"
    ),
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
#[x_kube(validation = Rule::new(
    "has(self.timeouts) || has(self.retries) || has(self.faults) || has(self.headers) || has(self.rateLimits) || has(self.overload) || has(self.outlierEjection) || has(self.limits) || has(self.connections) || has(self.loadBalancing)"
).message(
    "spec: a policy with nothing but a target does nothing; add timeouts, retries, faults, headers, rateLimits, overload, outlierEjection, limits, connections or loadBalancing"
))]
pub struct TrafficPolicySpec {
    /// The service that clients call, the hosts outside, or a route. The policy applies to all calls to it, with or without a
    /// TrafficSplit, by any of its callers. It does not apply to calls to single pods, by their own addresses.
    pub target: TrafficTarget,

    /// How long requests may take. Left out: as long as they like.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<RequestTimeouts>,

    /// How requests that failed are sent again. Left out: twice at most, and only those that reached no application.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<Retries>,

    /// Faults that callers meet on purpose, 1 to 8, for tests of their resilience. Left out: none.
    #[serde(
        default,
        deserialize_with = "strict::list",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(length(min = 1, max = 8))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub faults: Vec<Fault>,

    /// Changes of the headers of requests and responses. Left out: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers: Option<HeaderPolicy>,

    /// Bounds on the requests that each pod of the service takes, 1 to 8: its own sidecar keeps them. Left out: none.
    #[serde(
        default,
        deserialize_with = "strict::list",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(length(min = 1, max = 8))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub rate_limits: Vec<RateLimit>,

    /// Protection of each pod of the service from overload, by its own sidecar. Left out: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overload: Option<Overload>,

    /// When a sidecar stops sending to an endpoint that fails. Left out: after five connections or requests in a row that no
    /// application answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outlier_ejection: Option<OutlierEjection>,

    /// The most that one sidecar asks of the service at the same time. Left out: any number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,

    /// How connections are made and kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<Connections>,

    /// How an endpoint is chosen. Left out: in turn; by the address of the calling pod where the service has
    /// `sessionAffinity: ClientIP`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_balancing: Option<LoadBalancing>,
}

impl Definition for TrafficPolicy {
    const NULLS: Nulls = Nulls::Pruned;
}

/// A service, an ExternalService or a route, or a part of it. Names exactly one of `service`, `externalService` and `route`.
/// Where policies set the same group of fields (such as `timeouts`) for a request, that with
/// the closest target wins the whole group: a rule comes before its route, a route before a port, a port before its service.
/// Of two with the same target, that with the smaller name is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("[has(self.service), has(self.externalService), has(self.route)].exists_one(named, named)").message(
        "a target is a service, an externalService or a route; keep one of the three"
    ),
    validation = Rule::new("!has(self.namespace) || has(self.service)").message(
        "a namespace belongs to a service; remove it, for routes and ExternalServices are of the namespace of the policy"
    ),
    validation = Rule::new("!has(self.route) || !has(self.port)").message(
        "a route has its own ports; remove port, or target the service"
    )
)]
pub struct TrafficTarget {
    /// The name of the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = r"^[a-z]([-a-z0-9]*[a-z0-9])?$")
    )]
    pub service: Option<String>,
    /// The namespace of the service. Left out: that of the policy, which then holds for every caller. A policy for a service of
    /// another namespace holds for the requests of callers of its own namespace alone, and comes before the policies of the
    /// service's namespace. `rateLimits` and `overload` are not supported then, for the pods of the service keep them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
    )]
    pub namespace: Option<String>,
    /// The name of an ExternalService: the policy applies to the calls to its hosts. `rateLimits`, `overload` and `loadBalancing` are
    /// not supported then, for there is no sidecar at the host, and a host is one endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub external_service: Option<String>,
    /// A port of the target, 1 to 65535. Left out: all its ports. A route has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<NonZeroU16>,
    /// A route, or one of its rules: the policy applies to the requests that its rules take. `timeouts`, `retries` without
    /// `budget`, `faults` and `headers` are supported then. All else is of a service, which other routes use too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<RouteTarget>,
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
