//! `AuthPolicy`: the callers of a workload, and whether mTLS is demanded.

use std::{collections::BTreeMap, num::NonZeroU16};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::crd::{Definition, Nulls};
use crate::{LastGood, strict};

/// Selects the callers that may reach a workload. Judged at the server's sidecar: a matching Deny rule denies; else, if any enforced
/// policy with an Allow rule selects the workload and port, only a matching Allow rule lets the request pass; else the
/// Mesh's `defaultAction` decides.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "heddle.dev",
    version = "v1alpha1",
    kind = "AuthPolicy",
    plural = "authpolicies",
    namespaced,
    shortname = "ap",
    category = "heddle",
    category = "mesh-policies",
    status = "AuthPolicyStatus",
    derive = "PartialEq",
    doc = "Says who may reach a workload, and whether mTLS is demanded.",
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.mode"),
    printcolumn(
        name = "Enforced",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Enforced")].status"#
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
#[x_kube(
    validation = Rule::new("!(has(self.selector) && has(self.target))").message(
        "spec: selector and target exclude each other; remove one (with neither, the whole namespace is selected)"
    ),
    validation = Rule::new("has(self.mtls) || size(self.rules) > 0").message(
        "spec: a policy with neither rules nor mtls does nothing; add one (to deny everything: rules: [{action: Deny}])"
    )
)]
pub struct AuthPolicySpec {
    /// The workloads, by their pods' labels. With neither `selector` nor `target`: every workload of the namespace.
    #[serde(
        default,
        deserialize_with = "strict::present",
        skip_serializing_if = "Option::is_none"
    )]
    pub selector: Option<WorkloadSelector>,

    /// The workloads behind a service.
    #[serde(
        default,
        deserialize_with = "strict::present",
        skip_serializing_if = "Option::is_none"
    )]
    pub target: Option<PolicyTarget>,

    /// `Enforce` applies the rules. `Audit` changes no verdict and reports the one that would fall.
    #[serde(default)]
    pub mode: PolicyMode,

    /// Whether the workloads demand mTLS. Left out: the Mesh's mode holds.
    #[serde(
        default,
        deserialize_with = "strict::present",
        skip_serializing_if = "Option::is_none"
    )]
    pub mtls: Option<Mtls>,

    /// Alternatives, at most 64: a request matches if any rule matches.
    #[serde(default)]
    #[schemars(length(max = AuthPolicySpec::MAX_RULES))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub rules: Vec<AuthRule>,
}

impl Definition for AuthPolicy {
    const NULLS: Nulls = Nulls::Refused;
}

/// Workloads by labels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkloadSelector {
    /// The pods that have all these labels, 1 to 16.
    #[serde(deserialize_with = "strict::labels")]
    #[schemars(schema_with = "crate::schema::labels")]
    pub match_labels: BTreeMap<String, String>,
}

/// Workloads by a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PolicyTarget {
    /// A service in the same namespace; the policy holds for the pods that it selects.
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = r"^[a-z]([-a-z0-9]*[a-z0-9])?$")
    )]
    pub service: String,
}

/// Whether the decision of a policy is enforced.
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
pub enum PolicyMode {
    /// The verdict holds.
    #[default]
    Enforce,
    /// The verdict is only reported.
    Audit,
}

/// Whether to let pass or to refuse.
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
pub enum Action {
    /// Let pass.
    #[default]
    Allow,
    /// Refuse.
    Deny,
}

/// Whether workloads demand mTLS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mtls {
    /// For every port that `ports` does not name.
    pub mode: MtlsMode,
    /// Ports for which something else holds, at most 32.
    #[serde(default)]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["port".into()]))]
    pub ports: Vec<PortMtls>,
}

/// Whether one port demands mTLS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PortMtls {
    /// The port of the workload (the container's, not the service's).
    pub port: NonZeroU16,
    /// The mode of this port.
    pub mode: MtlsMode,
}

/// The accepted transport.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum MtlsMode {
    /// Plain text is accepted beside mTLS.
    Permissive,
    /// Only mTLS is accepted.
    Strict,
}

impl AuthPolicySpec {
    /// The most rules.
    pub const MAX_RULES: usize = 64;
}

impl Source {
    /// The most identities.
    pub const MAX_IDENTITIES: usize = 64;
}

impl Operation {
    /// The most methods.
    pub const MAX_METHODS: usize = 16;
    /// The longest method, in bytes.
    pub const MAX_METHOD_LENGTH: usize = 32;
}

/// One rule. All fields must match; a rule with neither `from` nor `to` matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuthRule {
    /// The decision about a request that matches.
    #[serde(default)]
    pub action: Action,
    /// The callers. Left out: all callers, also callers without an identity.
    #[serde(
        default,
        deserialize_with = "strict::present",
        skip_serializing_if = "Option::is_none"
    )]
    pub from: Option<Source>,
    /// The requests. Left out: all requests.
    #[serde(
        default,
        deserialize_with = "strict::present",
        skip_serializing_if = "Option::is_none"
    )]
    pub to: Option<Operation>,
}

/// Callers: all fields that are set must match, within a field any value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("has(self.identities) || has(self.namespaces) || has(self.ipBlocks)").message(
    "spec.rules.from is empty; name identities, namespaces or ipBlocks, or leave from out to match anybody"
))]
pub struct Source {
    /// Identities, as `<namespace>/<service account>` of this mesh or as full `spiffe://` ids. At most 64.
    #[serde(
        default,
        deserialize_with = "strict::list",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(schema_with = "crate::schema::identities")]
    pub identities: Vec<String>,
    /// Namespaces; every identity in them matches. At most 64.
    #[serde(
        default,
        deserialize_with = "strict::list",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(schema_with = "crate::schema::namespaces")]
    pub namespaces: Vec<String>,
    /// Blocks of addresses, such as `10.0.0.0/8`, of the connection's source. At most 64.
    #[serde(
        default,
        deserialize_with = "strict::list",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(schema_with = "crate::schema::ip_blocks")]
    pub ip_blocks: Vec<String>,
}

/// Requests: all fields that are set must match, within a field any value. `methods`, `paths` and `headers`
/// match only on ports that carry HTTP.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new(
    "has(self.ports) || has(self.methods) || has(self.paths) || has(self.headers)"
).message(
    "spec.rules.to is empty; name ports, methods, paths or headers, or leave to out to match anything"
))]
pub struct Operation {
    /// Ports of the workload (the container's, not the service's). At most 32.
    #[serde(
        default,
        deserialize_with = "strict::list",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(schema_with = "crate::schema::ports")]
    pub ports: Vec<NonZeroU16>,
    /// HTTP methods, in capitals; a Deny rule matches them in any case. At most 16.
    #[serde(
        default,
        deserialize_with = "strict::list",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(schema_with = "crate::schema::methods")]
    pub methods: Vec<String>,
    /// Paths without the query: exact, or a prefix with a trailing `*`. A Deny rule matches every spelling that some
    /// server takes for the path, an Allow rule only the plain one. At most 64.
    #[serde(
        default,
        deserialize_with = "strict::list",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(schema_with = "crate::schema::paths")]
    pub paths: Vec<String>,
    /// Whether upper and lower case of `paths` are alike. Left out: yes for Deny, no for Allow.
    #[serde(
        default,
        deserialize_with = "strict::present",
        skip_serializing_if = "Option::is_none"
    )]
    pub ignore_case: Option<bool>,
    /// Headers; unlike the other lists, all of them must match. A Deny rule looks at every line and element of a
    /// header, an Allow rule demands that there is one. At most 16.
    #[serde(
        default,
        deserialize_with = "strict::list",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(schema_with = "crate::schema::headers")]
    pub headers: Vec<HeaderMatch>,
}

impl Operation {
    /// Whether anything here can be judged only on HTTP.
    #[must_use]
    pub const fn needs_http(&self) -> bool {
        !(self.methods.is_empty() && self.paths.is_empty() && self.headers.is_empty())
    }
}

/// A condition on one header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new(
    "[has(self.exact), has(self.prefix), has(self.regex), has(self.present)].filter(x, x).size() == 1"
).message(
    "spec.rules.to.headers: each header takes exactly one of exact, prefix, regex and present; keep one"
))]
pub struct HeaderMatch {
    /// The header's name, in any case.
    #[schemars(
        length(min = 1, max = 256),
        regex(pattern = r"^:?[A-Za-z0-9!#$%&'*+.^_`|~-]+$")
    )]
    pub name: String,
    /// The whole value.
    #[serde(
        default,
        deserialize_with = "strict::present",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(length(max = 4096))]
    pub exact: Option<String>,
    /// The beginning of the value.
    #[serde(
        default,
        deserialize_with = "strict::present",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(length(min = 1, max = 4096))]
    pub prefix: Option<String>,
    /// A regular expression (RE2) that matches the whole value.
    #[serde(
        default,
        deserialize_with = "strict::present",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(length(min = 1, max = 1024))]
    pub regex: Option<String>,
    /// `true`: the header is there, with any value; `false`: it is not.
    #[serde(
        default,
        deserialize_with = "strict::present",
        skip_serializing_if = "Option::is_none"
    )]
    pub present: Option<bool>,
}

/// The condition of a [`HeaderMatch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderValue<'a> {
    /// The whole value.
    Exact(&'a str),
    /// The beginning of the value.
    Prefix(&'a str),
    /// A regular expression (RE2) that matches the whole value.
    Regex(&'a str),
    /// The header is there, with any value.
    Present,
    /// The header is not there.
    Absent,
}

impl HeaderMatch {
    /// Returns the condition. `None` if there is not exactly one: the API server refuses that, but a file may contain it.
    #[must_use]
    pub const fn value(&self) -> Option<HeaderValue<'_>> {
        match (&self.exact, &self.prefix, &self.regex, self.present) {
            (Some(exact), None, None, None) => Some(HeaderValue::Exact(exact.as_str())),
            (None, Some(prefix), None, None) => Some(HeaderValue::Prefix(prefix.as_str())),
            (None, None, Some(regex), None) => Some(HeaderValue::Regex(regex.as_str())),
            (None, None, None, Some(true)) => Some(HeaderValue::Present),
            (None, None, None, Some(false)) => Some(HeaderValue::Absent),
            _ => None,
        }
    }
}

/// The status of an [`AuthPolicy`], written by the control plane.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuthPolicyStatus {
    /// The generation of the spec that the conditions are about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Accepted`, `ResolvedRefs`, `Conflicted`, `Enforced`, `Programmed`.
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
