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
    /// Receipts that made room for others, since the start of the replica.
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
    /// The replica learned that the pod is being deleted.
    pub terminating_at: u64,
    /// The services that have the pod.
    pub services: u32,
    /// No configuration of this replica had the pod any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub withdrawn_at: Option<u64>,
    /// Callers with a stream to this replica that had, or could have had, the pod.
    pub callers: u32,
    /// Those that acknowledged the removal.
    pub acknowledged: u32,
    /// Some of those that have not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
    /// The last of them acknowledged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acknowledged_at: Option<u64>,
    /// The kubelet called the hook of the pod. This and the next ones come from the pod's agent, by the replica that it
    /// asked; `None`: not reported to this replica.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked_at: Option<u64>,
    /// The last request or connection from a caller began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_request_at: Option<u64>,
    /// The hook was answered: the kubelet sends SIGTERM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub released_at: Option<u64>,
    /// Why the hook was answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<ReleaseReason>,
    /// The containers of the application had ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<u64>,
}
