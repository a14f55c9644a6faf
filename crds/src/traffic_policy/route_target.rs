//! A route as the target of a `TrafficPolicy`.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A route of the policy's namespace, or one of its rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("self.kind != 'TrafficSplit' || !has(self.rule)").message(
    "a TrafficSplit has one rule, which has no name; remove rule"
))]
pub struct RouteTarget {
    /// The kind of the route. Kinds for connections of bytes have no requests, and are not targets.
    pub kind: RouteKind,
    /// The name of the route.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The name of one of its rules, as `rules[].name` of the route has it. Left out: all its rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub rule: Option<String>,
}

/// A kind of route with rules for requests.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum RouteKind {
    /// `HTTPRoute` of Gateway API.
    #[serde(rename = "HTTPRoute")]
    HttpRoute,
    /// `GRPCRoute` of Gateway API.
    #[serde(rename = "GRPCRoute")]
    GrpcRoute,
    /// `TrafficSplit` of Heddle.
    TrafficSplit,
}
