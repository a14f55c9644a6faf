//! Changes of headers of a `TrafficPolicy`.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::strict;

/// Changes of the headers of requests and responses, by the sidecar of the caller. Those of a rule of a route come after
/// them, and may change the same headers again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("has(self.request) || has(self.response)").message(
    "spec.headers: without request and response nothing changes; add one of them"
))]
pub struct HeaderPolicy {
    /// The changes of requests. Left out: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<HeaderChanges>,
    /// The changes of responses. Left out: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response: Option<HeaderChanges>,
}

/// Changes of headers, each header in one of the lists. Headers that frame a message, such as `host` and `content-length`,
/// and those by which sidecars know the caller do not change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("has(self.set) || has(self.add) || has(self.remove)").message(
    "spec.headers: without set, add and remove nothing changes; add one of them"
))]
pub struct HeaderChanges {
    /// Headers that get this value in the place of those that they have, 1 to 16.
    #[serde(
        default,
        deserialize_with = "strict::list",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub set: Vec<HeaderWithValue>,
    /// Headers that get a line with this value beside those that they have, 1 to 16.
    #[serde(
        default,
        deserialize_with = "strict::list",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub add: Vec<HeaderWithValue>,
    /// The names of headers that go, 1 to 16.
    #[serde(
        default,
        deserialize_with = "strict::list",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(schema_with = "crate::schema::header_names")]
    pub remove: Vec<String>,
}

/// A header and its new value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HeaderWithValue {
    /// The name, in any case.
    #[schemars(
        length(min = 1, max = 256),
        regex(pattern = r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")
    )]
    pub name: String,
    /// The value, 4,096 characters at most. It is not a format: `%` stands for itself.
    #[schemars(length(max = 4096))]
    pub value: String,
}
