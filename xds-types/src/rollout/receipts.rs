//! The answer of one replica of the control plane: `/api/v1/receipts`, and `receipts.json` of a standalone one.

use serde::{Deserialize, Serialize};

use super::wire::ReleaseReason;

/// The version of the format. Fields may be added without a new version; readers ignore fields that they do not know.
pub const VERSION: u32 = 1;

/// The ends of pods in the last quarter of an hour, as one replica saw them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct ReceiptsReport {
    /// [`VERSION`].
    pub version: u32,
    /// The seconds of the quarter of an hour in which the replica has listened.
    pub covered_seconds: u64,
    /// The pods, the oldest first.
    pub receipts: Vec<Receipt>,
    /// The number of receipts that made room for others, since the start of the replica.
    pub evicted: u64,
}

/// The end of one pod. Times are milliseconds since 1970, by the clock of the replica.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Receipt {
    /// The namespace of the pod.
    pub namespace: String,
    /// The workload of the pod.
    pub workload: String,
    /// The pod.
    pub pod: String,
    /// Its uid: of several ends under one name, this one. `None`: the replica does not know it, as without Kubernetes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// When the replica learned that the pod is being deleted, in milliseconds since 1970.
    pub terminating_at: u64,
    /// The number of services that have the pod.
    pub services: u32,
    /// Since when no configuration of this replica has the pod, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub withdrawn_at: Option<u64>,
    /// The number of callers with a stream to this replica that had, or could have had, the pod.
    pub callers: u32,
    /// The number of callers that acknowledged the removal.
    pub acknowledged: u32,
    /// Some of those that have not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
    /// When the last of them acknowledged, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acknowledged_at: Option<u64>,
    /// When the kubelet called the hook of the pod, in milliseconds since 1970. This and the next times come from the pod's
    /// agent, by the replica that it asked; `None`: not reported to this replica.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked_at: Option<u64>,
    /// When the last request or connection from a caller began, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_request_at: Option<u64>,
    /// When the hook was answered and the kubelet sends SIGTERM, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub released_at: Option<u64>,
    /// Why the hook was answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<ReleaseReason>,
    /// When the containers of the application had ended, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<u64>,
}
