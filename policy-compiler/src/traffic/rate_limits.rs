//! Rate limits: bounds on the requests that a server takes in a period.

use std::sync::Arc;
use std::time::Duration;

use super::matcher::RequestMatcher;

/// A bound on the requests that a server takes: a bucket that loses a token with each request, and refuses requests when it is empty. A
/// shared bound is a count of the rate limit service, which is 0 again at the beginning of each period.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RateLimit {
    /// The requests, by method, path and headers; the path not by a regular expression.
    pub matcher: RequestMatcher,
    /// The tokens that come back in each period.
    pub requests: u32,
    /// The period, 1 s or more.
    pub period: Duration,
    /// The tokens of a full bucket.
    pub burst: u32,
    /// Whether each caller has a bucket of its own, by its identity. Callers without an identity share one.
    pub per_caller: bool,
    /// The name of the count at the rate limit service, `<namespace>/<policy>/<index>`. None: each pod counts for itself.
    pub shared: Option<Arc<str>>,
}

/// How the server's sidecar asks the rate limit service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Questions {
    /// How long a request waits for the answer.
    pub timeout: Duration,
    /// Whether a request without an answer is refused.
    pub closed: bool,
}
