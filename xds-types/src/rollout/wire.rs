//! The messages on the wire: protobuf, package `heddle.rollout.v1`. Times are ages, so that no clocks are compared.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why the agent let the application end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, prost::Enumeration, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
#[repr(i32)]
pub enum ReleaseReason {
    /// It has not done so yet.
    Held = 0,
    /// Every caller had acknowledged the removal.
    Acknowledged = 1,
    /// No service has the pod.
    NoService = 2,
    /// The time was over before every caller had acknowledged.
    TimeOver = 3,
    /// No control plane answered.
    NoControlPlane = 4,
    /// The pod was not terminating: one container alone was stopped.
    NotTerminating = 5,
}

impl fmt::Display for ReleaseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Held => "held",
            Self::Acknowledged => "acknowledged",
            Self::NoService => "no service",
            Self::TimeOver => "time over",
            Self::NoControlPlane => "no control plane",
            Self::NotTerminating => "not terminating",
        })
    }
}

/// The end of a pod as its agent sees it. Each report replaces the one before.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct EndReport {
    /// The node id, with the first report of a stream.
    #[prost(string, tag = "1")]
    pub node: String,
    /// Milliseconds since the kubelet called the first hook.
    #[prost(uint64, optional, tag = "2")]
    pub asked_ago_ms: Option<u64>,
    /// Milliseconds since the first hook was answered. The kubelet signals the container then.
    #[prost(uint64, optional, tag = "3")]
    pub released_ago_ms: Option<u64>,
    /// Milliseconds since the last request or connection from a caller began.
    #[prost(uint64, optional, tag = "4")]
    pub last_request_ago_ms: Option<u64>,
    /// Milliseconds since the agent itself was told to end: the containers of the application have ended.
    #[prost(uint64, optional, tag = "5")]
    pub ended_ago_ms: Option<u64>,
    /// Why the hook was answered.
    #[prost(enumeration = "ReleaseReason", tag = "6")]
    pub reason: i32,
}

/// The withdrawal of a pod as the control plane sees it, all replicas together.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct WithdrawalReport {
    /// Whether the pod is being deleted.
    #[prost(bool, tag = "1")]
    pub terminating: bool,
    /// The number of services that have the pod.
    #[prost(uint32, tag = "2")]
    pub services: u32,
    /// Milliseconds since no configuration has the pod any more.
    #[prost(uint64, optional, tag = "3")]
    pub withdrawn_ago_ms: Option<u64>,
    /// The number of callers with a stream that had, or could have had, the pod.
    #[prost(uint32, tag = "4")]
    pub total: u32,
    /// The number of callers that have acknowledged the removal.
    #[prost(uint32, tag = "5")]
    pub acknowledged: u32,
    /// The number of callers that have no stream to any replica.
    #[prost(uint32, tag = "6")]
    pub away: u32,
    /// Whether every replica has reported that all its callers have acknowledged.
    #[prost(bool, tag = "7")]
    pub complete: bool,
    /// Milliseconds since that is so. `None` from a control plane of an older version.
    #[prost(uint64, optional, tag = "8")]
    pub completed_ago_ms: Option<u64>,
}
