//! The two ends of a connection, as far as the reporting sidecar has them by itself.

use crate::envoy::external::NAMESPACE_OF_CLUSTER;
use crate::envoy::metrics::{Edge, NO_SERVICE, OWN_NAMESPACE, OWN_PRINCIPAL, SERVICE_OF_CLUSTER};
use crate::envoy::reporting::Reporting;
use crate::envoy::tracing::Spans;
use crate::telemetry::{LineFormat, SpanTag};

/// The reports of the client's sidecar about calls to a service.
pub(super) fn source<'a>(
    destination_namespace: &'a str,
    service: Option<&'a str>,
    format: LineFormat,
) -> Reporting<'a> {
    let edge = Edge::Source {
        namespace: destination_namespace,
        service: service.unwrap_or(NO_SERVICE),
    };
    Reporting {
        edge,
        server: "%UPSTREAM_PEER_URI_SAN%",
        format,
        probed: false,
        spans: None,
    }
}

/// The reports of the client's sidecar about calls to hosts outside the mesh. The metadata of the cluster contain the object that names the host.
pub(super) fn external(format: LineFormat) -> Reporting<'static> {
    let mut of_cluster = source(NAMESPACE_OF_CLUSTER, Some(SERVICE_OF_CLUSTER), format);
    of_cluster.server = "-";
    of_cluster
}

/// The reports of the server's sidecar. The service may be a command.
pub(super) fn destination(destination_service: &str, format: LineFormat) -> Reporting<'_> {
    let edge = Edge::Destination {
        service: destination_service,
    };
    Reporting {
        edge,
        server: OWN_PRINCIPAL,
        format,
        probed: false,
        spans: None,
    }
}

/// The spans of the client's sidecar about calls to a service: named after the service and the port that was called, or after the
/// cluster where there is no service.
pub(super) fn client_spans<'a>(
    namespace: &str,
    service: Option<&str>,
    port: u16,
    tags: &'a [SpanTag],
) -> Spans<'a> {
    let operation = match service {
        Some(service) => format!("{service}.{namespace}:{port}"),
        None => "%UPSTREAM_CLUSTER%".to_owned(),
    };
    Spans { operation, tags }
}

/// The spans of the server's sidecar.
pub(super) fn server_spans(tags: &[SpanTag]) -> Spans<'_> {
    let operation = format!("{SERVICE_OF_CLUSTER}.{OWN_NAMESPACE}:%DOWNSTREAM_LOCAL_PORT%");
    Spans { operation, tags }
}
