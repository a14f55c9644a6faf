//! Upstream policies: the bounds on the use of an upstream, each for one calling sidecar.

use std::time::Duration;

use super::retries::RetryBudget;

/// How long a connection to a sidecar is kept without a request. Sidecars keep it for an hour: a request that meets the end of its
/// connection is lost, and must not be sent again, for it may have arrived.
const IDLE_TO_SIDECARS: Duration = Duration::from_secs(50 * 60);
/// The same for connections to applications. Some servers close them after two seconds.
const IDLE_TO_APPLICATIONS: Duration = Duration::from_secs(1);

/// Returns how long connections are kept without a request, by whether an endpoint has no sidecar.
pub(crate) const fn idle_timeout(unmeshed: bool) -> Duration {
    match unmeshed {
        true => IDLE_TO_APPLICATIONS,
        false => IDLE_TO_SIDECARS,
    }
}

/// The bounds on the use of an upstream.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct UpstreamPolicy {
    /// The bound on retries at the same time. None: 1024.
    pub retry_budget: Option<RetryBudget>,
    /// The failures after which an endpoint is ejected.
    pub ejection: Ejection,
    /// The most connections and requests at the same time.
    pub limits: Limits,
    /// The timeouts of connections, and their replacement.
    pub connections: Connections,
    /// How long it takes until a new endpoint has its whole share. None: no time.
    pub slow_start: Option<Duration>,
}

/// When an endpoint is ejected: it gets no requests for a while. By default after five failures in a row that no application
/// answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ejection {
    /// Failures in a row: connections that are not made, requests without a response. Zero: never.
    pub failures: u32,
    /// Responses in a row with status 502, 503 or 504. Zero: never.
    pub gateway_errors: u32,
    /// Responses in a row with status 500 to 599. Zero: never.
    pub server_errors: u32,
    /// How often ejected endpoints are looked at.
    pub interval: Duration,
    /// How long an endpoint stays ejected at its first ejection.
    pub base: Duration,
    /// The most endpoints that are ejected at once, in percent of all.
    pub max_percent: u32,
}

impl Default for Ejection {
    fn default() -> Self {
        Self {
            failures: 5,
            gateway_errors: 0,
            server_errors: 0,
            interval: Duration::from_secs(5),
            base: Duration::from_secs(30),
            max_percent: 50,
        }
    }
}

impl Ejection {
    /// The ejection of an upstream that ejects no endpoint.
    pub const NEVER: Self = Self {
        failures: 0,
        gateway_errors: 0,
        server_errors: 0,
        interval: Duration::ZERO,
        base: Duration::ZERO,
        max_percent: 0,
    };

    /// Returns the same for connections of bytes, which have no responses.
    #[must_use]
    pub(crate) fn for_bytes(self) -> Self {
        let failures_only = Self {
            gateway_errors: 0,
            server_errors: 0,
            ..self
        };
        failures_only.canonical()
    }

    /// Returns [`Self::NEVER`] if no endpoint is ever ejected, for equal clusters have equal policies.
    #[must_use]
    pub(crate) fn canonical(self) -> Self {
        if self.happens() { self } else { Self::NEVER }
    }

    /// Whether an endpoint is ever ejected.
    #[must_use]
    pub const fn happens(&self) -> bool {
        self.failures > 0 || self.gateway_errors > 0 || self.server_errors > 0
    }
}

/// The most that is asked of an upstream at the same time; None: any number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Limits {
    /// Connections that are open.
    pub connections: Option<u32>,
    /// Requests that wait for a connection.
    pub pending_requests: Option<u32>,
    /// Requests under way.
    pub requests: Option<u32>,
}

/// The timeouts of connections to an upstream, and their replacement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Connections {
    /// The longest time in which a connection is made. None: 2 s.
    pub connect_timeout: Option<Duration>,
    /// The number of requests after which a connection is replaced. None: any number.
    pub max_requests: Option<u32>,
    /// How long one is silent before the kernel asks whether the peer is there. None: it never asks.
    pub tcp_keepalive: Option<Duration>,
}
