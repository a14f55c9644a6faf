//! The reports of sidecars in the Mesh, and traces: where sidecars send them, and which requests have one.

use std::num::NonZeroU16;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{AccessLogFormat, AccessLogSink, AccessLogs, HostTls, Percent, ServiceAccountRef};

/// The reports of the sidecars.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("!has(self.tracing) || has(self.collector)").message(
    "traces have to go somewhere; add spec.telemetry.collector"
))]
#[x_kube(validation = Rule::new("self.accessLogSink != 'Collector' || has(self.collector)").message(
    "the lines of access logs have to go somewhere; add spec.telemetry.collector"
))]
#[x_kube(validation = Rule::new("self.accessLogSink != 'Collector' || self.accessLogFormat != 'Text'").message(
    "a collector takes fields and no text; remove spec.telemetry.accessLogFormat"
))]
pub struct MeshTelemetry {
    /// The service accounts that may read the metrics of sidecars (port 15020, mTLS only). All others are denied.
    #[serde(default)]
    #[schemars(length(max = 32))]
    pub metrics_readers: Vec<ServiceAccountRef>,

    /// The labels that the golden metrics are scraped without, at most all of these; series that differ in no other label become one.
    /// A change reaches sidecars as a runtime value.
    #[serde(default)]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub omit_metric_labels: Vec<MetricLabel>,

    /// The access logs of every sidecar for which no Telemetry sets others. Left out: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_logs: Option<AccessLogs>,

    /// The form of the lines of access logs. A change replaces the listeners of every sidecar: their connections drain.
    #[serde(default)]
    pub access_log_format: AccessLogFormat,

    /// The destination of the lines of access logs. A change replaces the listeners of every sidecar: their connections drain.
    #[serde(default)]
    pub access_log_sink: AccessLogSink,

    /// The collector of traces, and of access logs if `accessLogSink` is `Collector`. Left out: no sidecar traces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collector: Option<Collector>,

    /// Traces. Left out: only sidecars for which a Telemetry sets a share trace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracing: Option<MeshTracing>,
}

/// A label of the golden metrics that may be left out, as Prometheus shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MetricLabel {
    /// The caller's workload.
    SourceWorkload,
    /// The caller's identity.
    SourcePrincipal,
    /// The server's workload.
    DestinationWorkload,
    /// The backend.
    UpstreamCluster,
    /// The status of gRPC.
    GrpcStatus,
    /// Envoy's response flags.
    ResponseFlags,
    /// The rule that took the request.
    Route,
    /// The policy that denied.
    Policy,
}

impl MetricLabel {
    /// The name of the label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SourceWorkload => "source_workload",
            Self::SourcePrincipal => "source_principal",
            Self::DestinationWorkload => "destination_workload",
            Self::UpstreamCluster => "upstream_cluster",
            Self::GrpcStatus => "grpc_status",
            Self::ResponseFlags => "response_flags",
            Self::Route => "route",
            Self::Policy => "policy",
        }
    }
}

/// The collector of telemetry: a server of OTLP over gRPC. Names exactly one of `service` and `address`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("has(self.service) != has(self.address)").message(
    "a collector is either a service or an address; keep one of the two"
))]
pub struct Collector {
    /// A Service of the cluster. Pods of it with a sidecar are called by mTLS, and are not traced themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<CollectorService>,

    /// A host outside the mesh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<CollectorAddress>,
}

/// A port of a Service with a cluster IP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CollectorService {
    /// Its namespace.
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
    )]
    pub namespace: String,
    /// Its name.
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = r"^[a-z]([-a-z0-9]*[a-z0-9])?$")
    )]
    pub name: String,
    /// The port of the Service that takes OTLP over gRPC.
    #[serde(default = "otlp")]
    pub port: NonZeroU16,
}

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CollectorAddress {
    /// A DNS name, which each sidecar looks up, or an address.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?|[0-9a-f:]*:[0-9a-f:.]*)$")
    )]
    pub host: String,
    /// The port that takes OTLP over gRPC.
    #[serde(default = "otlp")]
    pub port: NonZeroU16,
    /// TLS to the host; `{}` by public authorities. Left out, or without a value: plain text, which everybody on the way can read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<HostTls>,
}

/// The port that IANA lists for OTLP over gRPC.
const fn otlp() -> NonZeroU16 {
    const { NonZeroU16::new(4317).unwrap() }
}

/// Traces of the whole mesh, by Envoy's OpenTelemetry tracer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MeshTracing {
    /// The share of requests that begin a trace where they carry no `traceparent`, in percent, 0 to 100, in steps of 0.01. A request
    /// with a `traceparent` is traced by that. A change reaches sidecars as a runtime value. Left out: only sidecars for which
    /// a Telemetry sets a share trace; all others leave requests as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<Percent>,

    /// Attributes of every span, at most 16, each name once. A change replaces the listeners of the sidecars that trace.
    #[serde(default)]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub tags: Vec<SpanTag>,
}

/// An attribute of spans. Names exactly one of `literal` and `requestHeader`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("has(self.literal) != has(self.requestHeader)").message(
    "a tag takes its value from either literal or requestHeader; keep one of the two"
))]
#[x_kube(validation = Rule::new(
    "!has(self.requestHeader) || !(self.requestHeader in ['auth', 'code', 'key', 'otp', 'pwd', 'sig', 'sid'] || self.requestHeader.endsWith('-auth') || self.requestHeader.endsWith('_auth') || ['apikey', 'api-key', 'api_key', 'access-key', 'access_key', 'assertion', 'auth_code', 'authorization', 'client-cert', 'cookie', 'credential', 'jwt', 'passphrase', 'passw', 'saml', 'secret', 'session', 'signature', 'ticket', 'token', 'verifier'].exists(word, self.requestHeader.contains(word)))"
).message("credentials never leave the pod; name a header that carries none"))]
#[x_kube(validation = Rule::new("!(self.name in ['http.url', 'route'])").message(
    "every span has this attribute already; choose another name"
))]
pub struct SpanTag {
    /// The name of the attribute.
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$")
    )]
    pub name: String,

    /// The value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub literal: Option<String>,

    /// The header of the request with the value, in lower case. A request without it has no such attribute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = r"^[a-z0-9]([a-z0-9_-]*[a-z0-9])?$")
    )]
    pub request_header: Option<String>,
}

/// Traces of some workloads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tracing {
    /// The share of requests that begin a trace where they carry no `traceparent`, in percent, 0 to 100, in steps of 0.01. A request
    /// with a `traceparent` is traced by that.
    pub percent: Percent,
}
