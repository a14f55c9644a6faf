//! Faults of a `TrafficPolicy`.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::{CallMatch, HumanDuration};

/// A fault that callers meet on purpose, for tests: their own sidecars delay requests, or answer them in place of the
/// service. Each fault of the list decides for itself about each request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("has(self.delay) || has(self.abort)").message(
    "a fault with neither delay nor abort does nothing; add one of them"
))]
pub struct Fault {
    /// Only requests that match. Left out: all requests.
    #[serde(default, rename = "match", skip_serializing_if = "Option::is_none")]
    pub matching: Option<CallMatch>,
    /// The wait before the request is sent, or aborted. It does not count for `timeouts`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay: Option<FaultDelay>,
    /// The answer in place of the service. `retries` do not send such a request again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abort: Option<FaultAbort>,
}

/// A delay of requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FaultDelay {
    /// How long they wait, from 1ms to 1h.
    #[x_kube(validation = Rule::new("duration(self) >= duration('1ms') && duration(self) <= duration('1h')").message(
        "spec.faults.delay.duration must be from 1ms to 1h; write for example 2s"
    ))]
    pub duration: HumanDuration,
    /// The share of requests in percent, 0 to 100.
    #[schemars(range(min = 0, max = 100))]
    pub percent: u32,
}

/// An answer in place of the service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("has(self.status) != has(self.grpcStatus)").message(
    "an abort takes exactly one of status and grpcStatus; keep one"
))]
pub struct FaultAbort {
    /// The status of the answer, 400 to 599.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 400, max = 599))]
    pub status: Option<u16>,
    /// The code of gRPC of the answer, 1 to 16. The fault is then for calls of gRPC only, its delay included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 16))]
    pub grpc_status: Option<u8>,
    /// The share of requests in percent, 0 to 100.
    #[schemars(range(min = 0, max = 100))]
    pub percent: u32,
}
