//! Timeouts of a `TrafficPolicy`.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::HumanDuration;

/// Timeouts, each from `1ms` to `8760h`, at least one of them. A timeout that is left out does not exist.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("has(self.request) || has(self.perTry) || has(self.idle)").message(
    "spec.timeouts is empty; name request, perTry or idle"
))]
pub struct RequestTimeouts {
    /// From the end of the request to the end of the response, retries included. A request that takes longer is answered
    /// with status 504; a response that has begun is cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1ms') && duration(self) <= duration('8760h')").message(
        "spec.timeouts.request must be from 1ms to 8760h; write for example 10s"
    ))]
    pub request: Option<HumanDuration>,
    /// Of one attempt, at most `request`. After a longer attempt the request is answered with status 504, or sent again if
    /// `retries` names one of `conditions`: by itself it is not, for the application may have the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1ms') && duration(self) <= duration('8760h')").message(
        "spec.timeouts.perTry must be from 1ms to 8760h; write for example 10s"
    ))]
    pub per_try: Option<HumanDuration>,
    /// Without a byte in either direction, also on a WebSocket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1ms') && duration(self) <= duration('8760h')").message(
        "spec.timeouts.idle must be from 1ms to 8760h; write for example 10s"
    ))]
    pub idle: Option<HumanDuration>,
}
