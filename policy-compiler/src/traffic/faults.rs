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

/// A wait before some requests go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Delay {
    /// The length of the wait, above zero.
    pub time: Duration,
    /// The share of requests that wait, in percent.
    pub percent: u32,
}

/// An answer to some requests, which reach no backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Abort {
    /// The status of the answer.
    pub answer: FaultAnswer,
    /// The share of requests that are answered, in percent.
    pub percent: u32,
}

/// The status of an answer by a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultAnswer {
    /// A status code of HTTP.
    Status(u16),
    /// A status code of gRPC, by its number.
    Grpc(u8),
}
