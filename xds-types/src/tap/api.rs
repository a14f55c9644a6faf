//! The exchange of the command line with one replica of the control plane, in JSON.

use serde::{Deserialize, Serialize};

use super::wire::{Sides, TappedRequest};

/// The version of the format. Fields may be added without a new version; readers ignore fields that they do not know.
pub const VERSION: u32 = 1;

/// The requests that a tap wants.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct TapFilter {
    /// The sides; none: those that received.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sides: Option<Sides>,
    /// The caller: `namespace`, `namespace/workload`, `namespace/service account`, or `outside` for callers without an identity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The method.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// The beginning of the path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_prefix: Option<String>,
    /// A status, such as `503`, or a class of them, such as `5xx`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// The shortest duration, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_duration_ms: Option<u64>,
}

/// A tap. The first request with an id begins it; each later one with the same content keeps it alive and takes its rows.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TapRequest {
    /// A number by chance, of the caller's choice: 32 hexadecimal digits.
    pub id: String,
    /// The namespace of the tapped workloads.
    pub namespace: String,
    /// The workload; none: all of the namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<String>,
    /// The requests.
    #[serde(default)]
    pub filter: TapFilter,
    /// The request headers to show.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<String>,
    /// Whether paths have their query.
    #[serde(default)]
    pub query: bool,
    /// The rows per second of each sidecar, at most.
    pub per_second: u32,
    /// The time after which the tap ends in any case, in seconds.
    pub seconds: u64,
    /// Ends the tap now.
    #[serde(default)]
    pub end: bool,
}

/// A request, with the pod of the sidecar that reports it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct TapLine {
    /// The namespace of the pod.
    pub namespace: String,
    /// The pod.
    pub pod: String,
    /// Its workload.
    pub workload: String,
    /// Its identity.
    pub identity: String,
    /// At the server: the workload of the caller, `namespace/name`, if its pod is known by address and identity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_workload: Option<String>,
    /// The request.
    #[serde(flatten)]
    pub request: TappedRequest,
}

/// The rows since the last answer, and the state of the tap at this replica.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct TapAnswer {
    /// [`VERSION`].
    pub version: u32,
    /// The rows.
    pub rows: Vec<TapLine>,
    /// The number of sidecars with a stream to this replica that the tap covers.
    pub sidecars: usize,
    /// Sidecars among them that cannot be tapped, for their bootstrap is older: the first of them, `namespace/pod`.
    pub too_old: Vec<String>,
    /// The number of sidecars that cannot be tapped.
    pub too_old_count: usize,
    /// The number of requests that matched and were more than a sidecar may report, since the tap began.
    pub left_out: u64,
    /// The number of requests that were lost on the way, since the tap began.
    pub lost: u64,
    /// The time that is left, in seconds.
    pub seconds_left: u64,
}
