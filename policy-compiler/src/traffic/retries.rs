//! Retries: which failed requests are sent again, and how often.

use std::collections::BTreeSet;
use std::time::Duration;

/// How failed requests are sent again. By default those that provably reached no application, twice at most: that is safe for every
/// method.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Retries {
    /// How often a request is sent again at most. Zero: never, not even one that reached no application.
    pub attempts: u32,
    /// Failures after which a request is sent again that an application may have received.
    pub failures: BTreeSet<Failure>,
    /// The requests that are sent again after such a failure.
    pub resend: Resend,
    /// The wait before a request is sent again, as an object names it ([`Self::waits`]).
    pub backoff: Option<Backoff>,
}

impl Default for Retries {
    fn default() -> Self {
        Self {
            attempts: 2,
            failures: BTreeSet::new(),
            resend: Resend::Idempotent,
            backoff: None,
        }
    }
}

impl Retries {
    /// Whether a request may be sent again that an application has received.
    #[must_use]
    pub fn resends(&self) -> bool {
        self.attempts > 0 && !self.failures.is_empty()
    }

    /// Returns the wait before a request is sent again. `resent`: also one that an application may have received. None: 25 ms, then up to
    /// 250 ms.
    #[must_use]
    pub fn waits(&self, resent: bool) -> Option<Backoff> {
        let default = (resent && self.resends()).then_some(Backoff::OF_RESENT);
        self.backoff.or(default)
    }
}

/// A failure after which an application may have the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    /// No response began.
    Reset,
    /// No response began, or its status is 502, 503 or 504.
    GatewayError,
    /// No response began, or its status is 500 to 599.
    ServerError,
    /// A response with this status.
    Status(u16),
    /// A response of gRPC without messages, with this code.
    Grpc(GrpcCode),
}

/// A code by which a server ends a call of gRPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum GrpcCode {
    /// Code 1: the call was cancelled.
    Cancelled,
    /// Code 4: the deadline of the call passed.
    DeadlineExceeded,
    /// Code 8: a quota or another resource is used up.
    ResourceExhausted,
    /// Code 13: the server failed.
    Internal,
    /// Code 14: the server is not available.
    Unavailable,
}

/// The requests that are sent again although an application may have received them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resend {
    /// Requests with a method in [`Self::IDEMPOTENT`].
    Idempotent,
    /// Requests with any method.
    All,
}

impl Resend {
    /// The idempotent methods of RFC 9110.
    pub const IDEMPOTENT: [&'static str; 6] = ["DELETE", "GET", "HEAD", "OPTIONS", "PUT", "TRACE"];

    /// Whether requests with a method are sent again. None: some are, for the method is not known.
    #[must_use]
    pub fn covers(self, method: Option<&str>) -> Option<bool> {
        match (self, method) {
            (Self::All, _) => Some(true),
            (Self::Idempotent, Some(method)) => Some(Self::IDEMPOTENT.contains(&method)),
            (Self::Idempotent, None) => None,
        }
    }
}

/// The wait before a request is sent again: random, up to `base` at first, then up to twice as long each time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Backoff {
    /// The longest wait before the first retry.
    pub base: Duration,
    /// The longest wait before any retry.
    pub max: Duration,
}

impl Backoff {
    /// The wait where an application may have the request and no object names a wait. A retry keeps its place in the budget while it waits,
    /// so a caller with few requests has two or three retries a second, also where every request fails: budgets multiply along a chain of
    /// callers, and with short waits such a budget bounds nothing.
    pub const OF_RESENT: Self = Self {
        base: Duration::from_millis(500),
        max: Duration::from_secs(5),
    };
}

/// The bound on retries at the same time, per calling sidecar and upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RetryBudget {
    /// In percent of the requests under way.
    pub percent: u32,
    /// Retries that are free however few requests there are.
    pub minimum: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_idempotent_methods_are_resent_unless_all_are() {
        for (method, covered) in [
            (Some("GET"), Some(true)),
            (Some("DELETE"), Some(true)),
            (Some("POST"), Some(false)),
            (Some("PATCH"), Some(false)),
            (Some("CONNECT"), Some(false)),
            (Some("get"), Some(false)),
            (None, None),
        ] {
            assert_eq!(Resend::Idempotent.covers(method), covered, "{method:?}");
            assert_eq!(Resend::All.covers(method), Some(true));
        }
    }

    #[test]
    fn requests_that_an_application_may_have_wait_longer() {
        let unsent = Retries::default();
        assert_eq!((unsent.waits(false), unsent.waits(true)), (None, None));
        let resent = Retries {
            failures: BTreeSet::from([Failure::ServerError]),
            ..unsent
        };
        assert_eq!(resent.waits(true), Some(Backoff::OF_RESENT));
        assert_eq!(resent.waits(false), None);
        let own = Backoff {
            base: Duration::from_millis(1),
            max: Duration::from_millis(10),
        };
        let named = Retries {
            backoff: Some(own),
            ..resent
        };
        assert_eq!(
            (named.waits(true), named.waits(false)),
            (Some(own), Some(own))
        );
    }
}
