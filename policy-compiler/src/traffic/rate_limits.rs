//! Rate limits: bounds on the requests that a server takes in a period.

use std::time::Duration;

use super::matcher::RequestMatcher;

/// A bound on the requests that a server takes: a bucket that loses a token with each request, and refuses requests when it is empty.
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
}
