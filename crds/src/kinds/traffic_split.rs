//! `TrafficSplit`: weights over the backends of one service.

use std::{collections::BTreeMap, num::NonZeroU16};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::crd::{Definition, Nulls};
use crate::{HumanDuration, LastGood, Percent, RequestMatch, strict};

/// Divides the calls to one service among backends.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "heddle.dev",
    version = "v1alpha1",
    kind = "TrafficSplit",
    namespaced,
    shortname = "ts",
    category = "heddle",
    category = "mesh-policies",
    status = "TrafficSplitStatus",
    derive = "PartialEq",
    doc = "Divides the calls to one service among backends, by weight.",
    printcolumn(name = "Service", type_ = "string", json_path = ".spec.service"),
    printcolumn(
        name = "Weights",
        type_ = "string",
        json_path = ".status.weightsInForce",
        description = "The weights in force, in the order of spec.backends."
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
pub struct TrafficSplitSpec {
    /// The service that clients call, in the namespace of this object.
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = r"^[a-z]([-a-z0-9]*[a-z0-9])?$")
    )]
    pub service: String,

    /// Only this port of the service. Left out: all its ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<NonZeroU16>,

    /// Only requests that one of these alternatives matches, 1 to 64, with at most 32 regular expressions; ports that do
    /// not carry HTTP stay as they are. Left out: all calls. Of several alternatives that match, in any splits of one
    /// service, one counts: an exact path before a regular expression, that before a prefix, each longer before shorter;
    /// then one with a method, with more headers and cookies, with more query parameters; then that of the split with the
    /// smaller name. Requests that none matches go to the service. A port has at most
    /// 1,000 splits, with 2,000 alternatives and 64 regular expressions in all; splits with smaller names come first.
    #[serde(
        default,
        deserialize_with = "strict::list",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub matches: Vec<RequestMatch>,

    /// Where the calls go, 1 to 32 backends. A backend gets the share of its weight in the sum of all weights.
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub backends: Vec<Backend>,

    /// Where copies of the requests go, 1 to 4 mirrors; ports that do not carry HTTP have no copies. The answers to copies
    /// are dropped. A mirror that stalls or fails loses copies, and fails no request. Left out: no copies.
    #[serde(
        default,
        deserialize_with = "strict::list",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(length(min = 1, max = 4))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub mirrors: Vec<Mirror>,

    /// How all requests of a user get the same backend; ports that do not carry HTTP have no users. A user keeps the
    /// backend while its share grows. Where more than two backends have weight, users move between neighbors in the list
    /// only, as long as nothing but the weights of these two changes, and their sum does not. Left out: each request gets
    /// a backend by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sticky: Option<Sticky>,
}

impl Definition for TrafficSplit {
    const NULLS: Nulls = Nulls::Pruned;
}

/// One backend of a split: a service, or some of the pods of the service that is split.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("has(self.service) != has(self.labels)").message(
    "spec.backends: each backend takes exactly one of service and labels; remove one, or add the missing one"
))]
pub struct Backend {
    /// A service in the same namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = r"^[a-z]([-a-z0-9]*[a-z0-9])?$")
    )]
    pub service: Option<String>,

    /// The pods of `spec.service` that have all these labels, 1 to 16.
    #[serde(
        default,
        deserialize_with = "strict::some_labels",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(schema_with = "crate::schema::labels")]
    pub labels: Option<BTreeMap<String, String>>,

    /// The share of this backend, 0 to 1000000, relative to the sum of all weights. Zero takes no traffic.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub weight: u32,
}

/// The part of a request by which its user is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("has(self.header) != has(self.cookie)").message(
    "spec.sticky: it takes exactly one of header and cookie; remove one, or add the missing one"
))]
pub struct Sticky {
    /// A header that the application sets, in any case: requests with the same value get the same backend. A request
    /// without it gets any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 256),
        regex(pattern = r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")
    )]
    pub header: Option<String>,

    /// A cookie that the caller's sidecar adds to the first response of a user. The shares are whole percents then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cookie: Option<StickyCookie>,
}

/// A cookie that sidecars add.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StickyCookie {
    /// Its name, which no cookie of the application has.
    #[schemars(
        length(min = 1, max = 256),
        regex(pattern = r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")
    )]
    pub name: String,

    /// How long clients keep it, from 1m to 8760h; then the user is a new one. Left out: until the session of the client
    /// ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1m') && duration(self) <= duration('8760h')").message(
        "spec.sticky.cookie.maxAge must be from 1m to 8760h; write for example 720h"
    ))]
    pub max_age: Option<HumanDuration>,
}

/// The target of a [`Backend`] or a [`Mirror`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendTarget<'a> {
    /// A service of the same namespace, by name.
    Service(&'a str),
    /// The pods of the split service with these labels.
    Labels(&'a BTreeMap<String, String>),
}

impl Backend {
    /// The largest weight.
    pub const MAX_WEIGHT: u32 = 1_000_000;

    /// Returns the target. `None` if the backend names both or neither: the API server refuses that, but a file may contain it.
    #[must_use]
    pub const fn target(&self) -> Option<BackendTarget<'_>> {
        target(self.service.as_ref(), self.labels.as_ref())
    }

    /// How status, logs and metrics call this backend: the service's name, or its labels as `key=value,...`.
    #[must_use]
    pub fn display_name(&self) -> String {
        display_name(self.service.as_ref(), self.labels.as_ref())
    }
}

/// A target of copies of requests: a service, or some of the pods of the service that is split.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("has(self.service) != has(self.labels)").message(
    "spec.mirrors: each mirror takes exactly one of service and labels; remove one, or add the missing one"
))]
pub struct Mirror {
    /// A service in the same namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = r"^[a-z]([-a-z0-9]*[a-z0-9])?$")
    )]
    pub service: Option<String>,

    /// The pods of `spec.service` that have all these labels, 1 to 16.
    #[serde(
        default,
        deserialize_with = "strict::some_labels",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(schema_with = "crate::schema::labels")]
    pub labels: Option<BTreeMap<String, String>>,

    /// The share of requests that are copied, in percent, 0 to 100, in steps of 0.01.
    #[serde(default = "all")]
    pub percent: Percent,
}

const fn all() -> Percent {
    Percent::ALL
}

impl Mirror {
    /// Returns the target. `None` if the mirror names both or neither: the API server refuses that, but a file may contain it.
    #[must_use]
    pub const fn target(&self) -> Option<BackendTarget<'_>> {
        target(self.service.as_ref(), self.labels.as_ref())
    }

    /// The name of the target: the service's name, or its labels as `key=value,...`.
    #[must_use]
    pub fn display_name(&self) -> String {
        display_name(self.service.as_ref(), self.labels.as_ref())
    }
}

const fn target<'a>(
    service: Option<&'a String>,
    labels: Option<&'a BTreeMap<String, String>>,
) -> Option<BackendTarget<'a>> {
    match (service, labels) {
        (Some(service), None) => Some(BackendTarget::Service(service.as_str())),
        (None, Some(labels)) => Some(BackendTarget::Labels(labels)),
        (Some(_), Some(_)) | (None, None) => None,
    }
}

fn display_name(service: Option<&String>, labels: Option<&BTreeMap<String, String>>) -> String {
    let mut names: Vec<String> = service.into_iter().cloned().collect();
    let labels = labels.into_iter().flatten();
    names.extend(labels.map(|(key, value)| format!("{key}={value}")));
    names.join(",")
}

/// The status of a [`TrafficSplit`], written by the control plane.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrafficSplitStatus {
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
    /// The weights in force.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub weights: Vec<WeightInForce>,
    /// The weights in force on one line, such as `95/5`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights_in_force: Option<String>,
}

/// The weight that a backend has at present.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct WeightInForce {
    /// The backend: the service's name, or its labels as `key=value,...`.
    pub backend: String,
    /// Its weight.
    pub weight: u32,
}
