//! Requests by their content: alternatives of method, path, headers, cookies and query.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::strict;

/// One alternative: all of its fields must match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new(
    "has(self.method) || has(self.path) || has(self.headers) || has(self.cookies) || has(self.query)"
).message(
    "an alternative without a condition matches every request; name method, path, headers, cookies or query"
))]
pub struct RequestMatch {
    /// The method, in capitals.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32), regex(pattern = r"^[A-Z][A-Z0-9_-]*$"))]
    pub method: Option<String>,
    /// The path without the query, as the caller sends it: escapes, `//` and `/../` stay as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathMatch>,
    /// Headers of the request, 1 to 16, each name once; all of them must match.
    #[serde(
        default,
        deserialize_with = "strict::list",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub headers: Vec<RequestHeader>,
    /// Cookies of the request, 1 to 16, each name once; all of them must match.
    #[serde(
        default,
        deserialize_with = "strict::list",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub cookies: Vec<RequestCookie>,
    /// Parameters of the query, 1 to 16, each name once; all of them must match.
    #[serde(
        default,
        deserialize_with = "strict::list",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub query: Vec<QueryParameter>,
}

/// A path, without the query.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new(
    "[has(self.exact), has(self.prefix), has(self.regex)].filter(x, x).size() == 1"
).message("a path takes exactly one of exact, prefix and regex; keep one"))]
pub struct PathMatch {
    /// The whole path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024), regex(pattern = r#"^/[!-"$->@-~]*$"#))]
    pub exact: Option<String>,
    /// This path and all below it, by segments: `/v2` and `/v2/` match `/v2` and `/v2/a`, and not `/v2a`. `/` matches every path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 1024),
        regex(pattern = r#"^(/|/[!-"$->@-~]*[!-"$-.0->@-~]/?)$"#)
    )]
    pub prefix: Option<String>,
    /// A regular expression (RE2) that matches the whole path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub regex: Option<String>,
}

/// One header of a request and its value. Of a header that comes in several lines one must match.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new(
    "[has(self.exact), has(self.prefix), has(self.regex), has(self.present)].filter(x, x).size() == 1"
).message("a header takes exactly one of exact, prefix, regex and present; keep one"))]
pub struct RequestHeader {
    /// The header's name, in any case.
    #[schemars(
        length(min = 1, max = 256),
        regex(pattern = r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")
    )]
    pub name: String,
    /// The whole value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub exact: Option<String>,
    /// The beginning of the value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub prefix: Option<String>,
    /// A regular expression (RE2) that matches the whole value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub regex: Option<String>,
    /// `true`: the header is there, with any value; `false`: it is not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub present: Option<bool>,
}

/// One cookie of a request and its value, without quotes around it. Of a cookie that comes several times the first one counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new(
    "[has(self.exact), has(self.prefix), has(self.regex), has(self.present)].filter(x, x).size() == 1"
).message("a cookie takes exactly one of exact, prefix, regex and present; keep one"))]
pub struct RequestCookie {
    /// The cookie's name; upper and lower case differ.
    #[schemars(
        length(min = 1, max = 256),
        regex(pattern = r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")
    )]
    pub name: String,
    /// The whole value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub exact: Option<String>,
    /// The beginning of the value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub prefix: Option<String>,
    /// A regular expression (RE2) that matches the whole value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub regex: Option<String>,
    /// `true`: the cookie is there, with any value; `false`: it is not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub present: Option<bool>,
}

/// One parameter of the query and its value, as they are sent, escapes included. Of a parameter that comes several times the first
/// one counts; one without `=` has the empty value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new(
    "[has(self.exact), has(self.prefix), has(self.regex), has(self.present)].filter(x, x).size() == 1"
).message("a query parameter takes exactly one of exact, prefix, regex and present; keep one"))]
pub struct QueryParameter {
    /// The parameter's name; upper and lower case differ.
    #[schemars(length(min = 1, max = 256), regex(pattern = r#"^[!-"$%'-<>-~]+$"#))]
    pub name: String,
    /// The whole value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub exact: Option<String>,
    /// The beginning of the value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub prefix: Option<String>,
    /// A regular expression (RE2) that matches the whole value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub regex: Option<String>,
    /// `true`: the parameter is there, with any value; `false`: it is not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub present: Option<bool>,
}

/// The demand of a [`RequestHeader`], [`RequestCookie`] or [`QueryParameter`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestValue<'a> {
    /// The whole value.
    Exact(&'a str),
    /// The beginning of the value.
    Prefix(&'a str),
    /// A regular expression for the whole value.
    Regex(&'a str),
    /// Any value.
    Present,
    /// It is not there.
    Absent,
}

impl<'a> RequestValue<'a> {
    /// The demand; `None` if there is not exactly one, which an API server refuses but a file may hold.
    fn of(
        exact: Option<&'a String>,
        prefix: Option<&'a String>,
        regex: Option<&'a String>,
        present: Option<bool>,
    ) -> Option<Self> {
        let present = present.map(|present| match present {
            true => Self::Present,
            false => Self::Absent,
        });
        let all = [
            exact.map(|text| Self::Exact(text)),
            prefix.map(|text| Self::Prefix(text)),
            regex.map(|text| Self::Regex(text)),
            present,
        ];
        let mut all = all.into_iter().flatten();
        all.next().filter(|_| all.next().is_none())
    }
}

macro_rules! value {
    ($($type:ident),*) => {
        $(impl $type {
            /// The demand; `None` if there is not exactly one, which an API server refuses but a file may hold.
            #[must_use]
            pub fn value(&self) -> Option<RequestValue<'_>> {
                RequestValue::of(self.exact.as_ref(), self.prefix.as_ref(), self.regex.as_ref(), self.present)
            }
        })*
    };
}

value!(RequestHeader, RequestCookie, QueryParameter);
