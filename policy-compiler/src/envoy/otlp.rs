//! Reports to the collector by OTLP over gRPC: the way of spans and log records, and the records themselves.

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::extensions::access_loggers::open_telemetry::v3::OpenTelemetryAccessLogConfig;
use envoy_types::pb::envoy::extensions::tracers::opentelemetry::resource_detectors::v3::EnvironmentResourceDetectorConfig;
use envoy_types::pb::opentelemetry::proto::common::v1::{
    AnyValue, KeyValue, KeyValueList, any_value,
};

use super::{any, extension};

/// The cluster of the collector. A listener may name it before it is there: reports are lost until then.
pub(crate) const COLLECTOR: &str = "otlp";

/// The service that takes reports.
pub(super) fn service() -> core::GrpcService {
    use core::grpc_service::{EnvoyGrpc, TargetSpecifier};
    let to = EnvoyGrpc {
        cluster_name: COLLECTOR.to_owned(),
        ..Default::default()
    };
    core::GrpcService {
        target_specifier: Some(TargetSpecifier::EnvoyGrpc(to)),
        ..Default::default()
    }
}

/// The source of the attributes of the reporting pod. The agent puts the workload into `OTEL_RESOURCE_ATTRIBUTES`, so that the
/// listeners of all workloads are the same.
pub(super) fn resource() -> core::TypedExtensionConfig {
    extension("environment", any(&EnvironmentResourceDetectorConfig {}))
}

/// A logger that sends a record for each line, with its fields as attributes.
pub(super) fn records<'a>(
    fields: impl Iterator<Item = (&'a str, &'a str)>,
) -> OpenTelemetryAccessLogConfig {
    // A record has its time in a field of its own.
    let fields = fields.filter(|(name, _)| *name != "time");
    let attributes = fields.map(|(name, value)| KeyValue {
        key: name.to_owned(),
        value: Some(text(value)),
        ..Default::default()
    });
    OpenTelemetryAccessLogConfig {
        grpc_service: Some(service()),
        disable_builtin_labels: true,
        resource_detectors: vec![resource()],
        attributes: Some(KeyValueList {
            values: attributes.collect(),
        }),
        ..Default::default()
    }
}

fn text(value: &str) -> AnyValue {
    AnyValue {
        value: Some(any_value::Value::StringValue(value.to_owned())),
    }
}
