//! The requests of a fault or a rate limit of a `TrafficPolicy`.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::{RequestHeader, strict};

/// The requests of a fault or a rate limit: all fields must match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("has(self.method) || has(self.path) || has(self.headers)").message(
    "a match without a condition is every request; name method, path or headers, or leave match out"
))]
pub struct CallMatch {
    /// The method, in capitals.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32), regex(pattern = r"^[A-Z][A-Z0-9_-]*$"))]
    pub method: Option<String>,
    /// The path without the query, as the caller sends it: escapes, `//` and `/../` stay as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<CallPath>,
    /// Headers of the request, 1 to 16, each name once; all of them must match.
    #[serde(
        default,
        deserialize_with = "strict::list",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub headers: Vec<RequestHeader>,
}

/// A path, without the query.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("has(self.exact) != has(self.prefix)").message(
    "the path takes exactly one of exact and prefix; keep one"
))]
pub struct CallPath {
    /// The whole path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024), regex(pattern = r#"^/[!-"$->@-~]*$"#))]
    pub exact: Option<String>,
    /// This path and all below it, by segments: `/v2` and `/v2/` match `/v2` and `/v2/a`, and not `/v2a`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 1024),
        regex(pattern = r#"^(/|/[!-"$->@-~]*[!-"$-.0->@-~]/?)$"#)
    )]
    pub prefix: Option<String>,
}
