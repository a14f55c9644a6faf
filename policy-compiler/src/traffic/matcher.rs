//! Request matchers: the conditions for a rule to apply.

use std::sync::Arc;

/// One alternative of a rule: all of it must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestMatcher {
    /// The path, without the query.
    pub path: PathMatcher,
    /// The method, in the case of the request; None: every method.
    pub method: Option<Arc<str>>,
    /// Sorted by name, each name once.
    pub headers: Vec<HeaderMatcher>,
    /// Sorted by name, each name once.
    pub query: Vec<QueryMatcher>,
}

impl RequestMatcher {
    /// Whether it holds for every request.
    #[must_use]
    pub fn is_any(&self) -> bool {
        self.path == PathMatcher::Any
            && self.method.is_none()
            && self.headers.is_empty()
            && self.query.is_empty()
    }
}

/// The path of a request as it was sent, escapes included.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum PathMatcher {
    /// Every path.
    #[default]
    Any,
    /// This path.
    Exact(Arc<str>),
    /// This path, and those below it: `/v2` matches `/v2/a` and not `/v2a`. Without a slash at its end.
    Prefix(Arc<str>),
    /// A path that a regular expression matches as a whole.
    Regex(Arc<str>),
}

/// A parameter of a request's query, as it was sent, escapes included. Of a parameter that comes twice the first value counts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct QueryMatcher {
    /// The name.
    pub name: Arc<str>,
    /// The value. A parameter without `=` has the empty value.
    pub value: ValueMatcher,
}

/// A header of a request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HeaderMatcher {
    /// The name, in lower case.
    pub name: Arc<str>,
    /// The value. Of a header that comes in several lines one must match.
    pub value: ValueMatcher,
}

/// The value of a header or a query parameter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ValueMatcher {
    /// This value.
    Exact(Arc<str>),
    /// A value that begins with this.
    Prefix(Arc<str>),
    /// A value that a regular expression matches as a whole.
    Regex(Arc<str>),
    /// Any value, also an empty one.
    Present,
    /// There is none.
    Absent,
}
