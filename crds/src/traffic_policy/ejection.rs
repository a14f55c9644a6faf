//! Ejection of endpoints by a `TrafficPolicy`.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::HumanDuration;

/// When a calling sidecar stops sending to an endpoint that fails. Never to more than half of them at once: a single
/// endpoint always stays. A host of an ExternalService is ejected as a whole: calls to it fail at once for the time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OutlierEjection {
    /// Failures in a row, 0 to 1000, after which an endpoint is ejected: connections that are not made, requests without a
    /// response. Zero: never.
    #[serde(default = "five")]
    #[schemars(range(min = 0, max = 1000))]
    pub failures: u32,
    /// Responses in a row with status 502, 503 or 504, 1 to 1000, after which an endpoint is ejected. Left out: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub gateway_errors: Option<u32>,
    /// Responses in a row with status 500 to 599, 1 to 1000, after which an endpoint is ejected. Left out: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub server_errors: Option<u32>,
    /// How often ejected endpoints are looked at, from 100ms to 1h.
    #[serde(default = "interval")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('100ms') && duration(self) <= duration('1h')").message(
        "spec.outlierEjection.interval must be from 100ms to 1h; write for example 5s"
    ))]
    pub interval: HumanDuration,
    /// How long an endpoint stays ejected, from 1s to 1h; at its second ejection twice as long, and so on, up to 5m or this.
    #[serde(default = "base_time")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('1h')").message(
        "spec.outlierEjection.baseTime must be from 1s to 1h; write for example 30s"
    ))]
    pub base_time: HumanDuration,
    /// The most endpoints that are ejected at once, in percent of all, 1 to 50.
    #[serde(default = "half")]
    #[schemars(range(min = 1, max = 50))]
    pub max_percent: u32,
}

impl Default for OutlierEjection {
    fn default() -> Self {
        Self {
            failures: five(),
            gateway_errors: None,
            server_errors: None,
            interval: interval(),
            base_time: base_time(),
            max_percent: half(),
        }
    }
}

const fn five() -> u32 {
    5
}

fn interval() -> HumanDuration {
    HumanDuration::seconds(5)
}

fn base_time() -> HumanDuration {
    HumanDuration::seconds(30)
}

const fn half() -> u32 {
    50
}
