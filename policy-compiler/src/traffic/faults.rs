//! Faults that callers meet on purpose.

use std::time::Duration;

use super::matcher::RequestMatcher;

/// A fault. Several faults of a rule decide independently, in their order; the retries of the rule see none of them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// The requests, by method, path and headers; the path neither by a regular expression.
    pub matcher: RequestMatcher,
    /// The wait before the request goes on.
    pub delay: Option<Delay>,
    /// The answer in place of a backend.
    pub abort: Option<Abort>,
}

/// A wait of some requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Delay {
    /// How long, above zero.
    pub time: Duration,
    /// The share of requests, at most 100.
    pub percent: u32,
}

/// An answer to some requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Abort {
    /// The answer.
    pub answer: FaultAnswer,
    /// The share of requests, at most 100.
    pub percent: u32,
}

/// The answer of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultAnswer {
    /// A status of HTTP.
    Status(u16),
    /// A code of gRPC.
    Grpc(u8),
}
