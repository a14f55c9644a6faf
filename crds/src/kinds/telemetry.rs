//! `Telemetry`: the reports of the sidecars of a namespace or a workload.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::crd::{Definition, Nulls};
use crate::{LastGood, Percent, Tracing, WorkloadSelector};

/// Sets the access logs and the traces of the sidecars of a namespace or a workload, in the place of those of the Mesh.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "heddle.dev",
    version = "v1alpha1",
    kind = "Telemetry",
    plural = "telemetries",
    namespaced,
    category = "heddle",
    category = "mesh-policies",
    status = "TelemetryStatus",
    derive = "PartialEq",
    doc = "Sets the access logs and the traces of the sidecars of a namespace or a workload, in the place of those of the Mesh.",
    printcolumn(
        name = "Logged",
        type_ = "number",
        json_path = ".spec.accessLogs.percent",
        description = "Requests and connections with a line in the access log, in percent."
    ),
    printcolumn(
        name = "Traced",
        type_ = "number",
        json_path = ".spec.tracing.percent",
        description = "Requests without a traceparent that begin a trace, in percent."
    ),
    printcolumn(
        name = "Proxies",
        type_ = "string",
        json_path = ".status.proxies",
        description = "Sidecars that run this generation, of all that should."
    ),
    printcolumn(
        name = "Programmed",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Programmed")].status"#
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("has(self.accessLogs) || has(self.tracing)").message(
    "spec: an object that sets nothing does nothing; add accessLogs or tracing"
))]
pub struct TelemetrySpec {
    /// The workloads, by labels of their pods. Left out: every workload of the namespace. An object with a selector wins over one
    /// without; of two of a kind, the one with the smaller name wins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<WorkloadSelector>,

    /// The access logs of the sidecars of these workloads. Left out: those of an object for the whole namespace, else those
    /// of the Mesh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_logs: Option<AccessLogs>,

    /// The traces of the sidecars of these workloads. Left out: those of an object for the whole namespace, else those of the
    /// Mesh. Needs `spec.telemetry.collector` of the Mesh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracing: Option<Tracing>,
}

impl Definition for Telemetry {
    const NULLS: Nulls = Nulls::Pruned;
}

/// Access logs: a line on the standard output of the sidecar for a request or a TCP connection, at its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("!has(self.failures) || self.failures.percent >= self.percent").message(
    "failures are requests too, so failures.percent cannot be below percent; raise it"
))]
pub struct AccessLogs {
    /// The share of all requests and connections that are logged, in percent, 0 to 100, in steps of 0.01. 0: none.
    #[serde(default = "all")]
    pub percent: Percent,

    /// The requests and connections that failed, where more of them are logged than of the others. Left out: `percent` of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failures: Option<FailureLogs>,
}

/// Access logs of requests and connections that failed: with a status from `fromStatus` on, or with a response flag of Envoy's, by
/// which the sidecar reports that no whole answer of the application came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FailureLogs {
    /// The share of the failures that are logged, in percent, 0 to 100, in steps of 0.01.
    #[serde(default = "all")]
    pub percent: Percent,

    /// The lowest status of a failure, 100 to 600. 600: a status alone is not a failure.
    #[serde(default = "server_error")]
    #[schemars(range(min = 100, max = 600))]
    pub from_status: u16,
}

const fn all() -> Percent {
    Percent::ALL
}

const fn server_error() -> u16 {
    500
}

/// The form of the lines of access logs.
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
pub enum AccessLogFormat {
    /// An object of JSON, without the fields that have no value.
    #[default]
    #[serde(rename = "JSON")]
    Json,
    /// `name=value` for each field, separated by spaces; `-` for a field without a value.
    Text,
}

/// The destination of the lines of access logs.
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
pub enum AccessLogSink {
    /// The standard output of the sidecar.
    #[default]
    Stdout,
    /// The collector, as log records of OTLP over gRPC. Lines that it does not take in time are lost, and counted.
    Collector,
}

/// The status of a [`Telemetry`], written by the control plane.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TelemetryStatus {
    /// The generation of the spec that the conditions are about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Accepted`, `ResolvedRefs`, `Conflicted`, `Programmed`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// The last spec that was accepted; it stays in force while the present one is unusable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_good: Option<LastGood>,
    /// Sidecars that run this generation, of all that should, as `n/m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxies: Option<String>,
}
