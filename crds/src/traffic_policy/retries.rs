//! Retries of a `TrafficPolicy`.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{HumanDuration, strict};

/// How requests that failed are sent again. A request that reached no application (the connection was not made, was
/// refused, or ended before the request left) is sent again with any method, twice at most, also without a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("!has(self.grpcCodes) || self.resend == 'All'").message(
    "spec.retries.grpcCodes: calls of gRPC are POST requests, which are not sent twice; add resend: All if the servers can bear it, or remove grpcCodes"
))]
pub struct Retries {
    /// How often a request is sent again at most, 0 to 10. Zero: never.
    #[serde(default = "two")]
    #[schemars(range(min = 0, max = 10))]
    pub attempts: u32,

    /// Failures after which a request is sent again that an application may have received, 1 to 3. Left out: none.
    #[serde(
        default,
        deserialize_with = "strict::list",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(length(min = 1, max = 3))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub conditions: Vec<RetryCondition>,

    /// Status codes of responses after which a request is sent again, 1 to 16, each from 400 to 599. Left out: none.
    #[serde(
        default,
        deserialize_with = "strict::list",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(schema_with = "crate::schema::status_codes")]
    pub status_codes: Vec<u16>,

    /// Codes of gRPC after which a call is sent again, 1 to 5, if the response has no messages. They need `resend: All`.
    /// Left out: none.
    #[serde(
        default,
        deserialize_with = "strict::list",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(length(min = 1, max = 5))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub grpc_codes: Vec<GrpcCode>,

    /// Which requests are sent again that an application may have received.
    #[serde(default)]
    pub resend: Resend,

    /// The wait before a request is sent again. Left out: up to 500ms at first and 5s at most, if requests are sent again
    /// that an application may have received; else up to 25ms and 250ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff: Option<RetryBackoff>,

    /// The bound on retries at the same time, per calling sidecar and backend. Left out: 20 % and 1 if requests are sent
    /// again that an application may have received; else none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<RetryBudget>,
}

const fn two() -> u32 {
    2
}

/// A failure after which an application may have the request.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum RetryCondition {
    /// No response began: the connection ended, or the attempt took longer than `timeouts.perTry`.
    Reset,
    /// `Reset`, or a response with status 502, 503 or 504.
    GatewayError,
    /// `Reset`, or a response with status 500 to 599.
    ServerError,
}

/// A code of gRPC by which a server ends a call.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum GrpcCode {
    /// Code 1.
    Cancelled,
    /// Code 4.
    DeadlineExceeded,
    /// Code 8.
    ResourceExhausted,
    /// Code 13.
    Internal,
    /// Code 14.
    Unavailable,
}

/// Which requests are sent again that an application may have received.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
)]
pub enum Resend {
    /// Those with an idempotent method: GET, HEAD, OPTIONS, TRACE, PUT and DELETE (RFC 9110). Calls of gRPC are POST.
    #[default]
    Idempotent,
    /// All. The application must bear a request that comes twice.
    All,
}

/// The wait before a request is sent again: random, up to `base` at first, then up to twice as long each time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RetryBackoff {
    /// The longest first wait, from 1ms to 1m.
    #[serde(default = "base")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1ms') && duration(self) <= duration('1m')").message(
        "spec.retries.backoff.base must be from 1ms to 1m; write for example 25ms"
    ))]
    pub base: HumanDuration,
    /// The longest wait, from `base` to 1h. Left out: ten times `base`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1ms') && duration(self) <= duration('1h')").message(
        "spec.retries.backoff.max must be from 1ms to 1h; write for example 1s"
    ))]
    pub max: Option<HumanDuration>,
}

fn base() -> HumanDuration {
    HumanDuration::milliseconds(25)
}

/// The bound on retries at the same time: a share of the requests under way, and a number that is always free.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RetryBudget {
    /// Retries in percent of the requests under way, 0 to 100.
    #[serde(default = "twenty")]
    #[schemars(range(min = 0, max = 100))]
    pub percent: u32,
    /// Retries at the same time however few requests there are, 0 to 1000.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 1000))]
    pub minimum: u32,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self {
            percent: twenty(),
            minimum: one(),
        }
    }
}

const fn twenty() -> u32 {
    20
}

const fn one() -> u32 {
    1
}
