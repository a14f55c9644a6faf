//! The golden metrics under the names of Istio's standard metrics, for tools that read these, such as Kiali and Flagger.
//!
//! Source: Istio's reference "Standard Metrics". A label is `unknown` where the sidecar does not have its value. The server has the
//! service account of a caller and not its workload, so the account stands for the workload.

use heddle_xds_types::account_of;
use heddle_xds_types::edges::PROBE_ROUTE;
use heddle_xds_types::golden::{self, Edge, Pod, Side};

use super::families::{Families, OfHistogram, Value, labels};

const REQUESTS: &str = "istio_requests_total";
const DURATIONS: &str = "istio_request_duration_milliseconds";
const UNKNOWN: &str = "unknown";
/// The name of the only cluster. Kiali's default has the same.
const CLUSTER: &str = "Kubernetes";
/// The revision of a workload without versions.
const REVISION: &str = "latest";
const NO_FLAGS: &str = "-";

/// Adds a value of a golden metric under these names.
pub(super) fn add(all: &mut Families, pod: &Pod, edge: &Edge<'_>, name: &str, value: Value<'_>) {
    let flags = edge.details.map(|details| details.flags);
    if edge
        .details
        .is_some_and(|details| details.route == PROBE_ROUTE)
    {
        return;
    }
    match value {
        Value::Duration(line) => {
            // The failures have flags, so they are counted from their own metric.
            if let OfHistogram::Count(count) = line
                && !is_failure(edge)
            {
                all.count(REQUESTS, labels_of(edge, pod, Some(NO_FLAGS)), count);
            }
            all.add(DURATIONS, labels_of(edge, pod, None), line);
        }
        Value::Count(count) if name == golden::FAILURES => {
            if is_failure(edge) {
                all.count(REQUESTS, labels_of(edge, pod, flags), count);
            }
        }
        Value::Count(count) => {
            let name = match name {
                golden::RECEIVED => "istio_tcp_received_bytes_total",
                golden::SENT => "istio_tcp_sent_bytes_total",
                _ => "istio_tcp_connections_closed_total",
            };
            all.count(name, labels_of(edge, pod, flags), count);
        }
    }
}

/// Whether every request of this status is in the metric of failures, with and without flags. Status 0 stands for no answer, which
/// has a flag.
fn is_failure(edge: &Edge<'_>) -> bool {
    edge.code
        .parse::<u16>()
        .is_ok_and(|code| code == 0 || code >= 400)
}

fn labels_of(edge: &Edge<'_>, pod: &Pod, flags: Option<&str>) -> String {
    let (source, destination) = ends(edge, pod);
    let service = known(edge.service);
    let namespace = match edge.reporter {
        Side::Source => known(edge.namespace),
        Side::Destination => &pod.namespace,
    };
    let host = match service {
        UNKNOWN => UNKNOWN.to_owned(),
        service => format!("{service}.{namespace}.svc.cluster.local"),
    };
    let canonical = match edge.reporter {
        Side::Source => service,
        Side::Destination => destination.workload,
    };
    let protocol = match (edge.is_tcp(), edge.grpc_status) {
        (true, _) => "tcp",
        (false, "") => "http",
        (false, _) => "grpc",
    };
    let security = match (edge.reporter, source.principal) {
        (Side::Source, _) => UNKNOWN,
        (Side::Destination, UNKNOWN) => "none",
        (Side::Destination, _) => "mutual_tls",
    };
    labels([
        ("reporter", edge.reporter.as_str()),
        ("source_workload", source.workload),
        ("source_workload_namespace", source.namespace),
        ("source_canonical_service", source.workload),
        ("source_canonical_revision", REVISION),
        ("source_principal", source.principal),
        ("source_cluster", CLUSTER),
        ("destination_workload", destination.workload),
        ("destination_workload_namespace", destination.namespace),
        ("destination_canonical_service", canonical),
        ("destination_canonical_revision", REVISION),
        ("destination_principal", destination.principal),
        ("destination_service", &host),
        ("destination_service_name", service),
        ("destination_service_namespace", namespace),
        ("destination_cluster", CLUSTER),
        ("request_protocol", protocol),
        ("response_code", edge.code),
        ("grpc_response_status", edge.grpc_status),
        ("response_flags", flags.unwrap_or_default()),
        ("connection_security_policy", security),
    ])
}

/// One end of a call.
#[derive(Clone, Copy)]
struct End<'a> {
    workload: &'a str,
    namespace: &'a str,
    principal: &'a str,
}

/// The caller and the server.
fn ends<'a>(edge: &Edge<'a>, pod: &'a Pod) -> (End<'a>, End<'a>) {
    let own = End {
        workload: &pod.workload,
        namespace: &pod.namespace,
        principal: &pod.principal,
    };
    match edge.reporter {
        Side::Source => {
            let server = End {
                workload: UNKNOWN,
                namespace: known(edge.namespace),
                principal: UNKNOWN,
            };
            (own, server)
        }
        Side::Destination => (caller(edge.peer), own),
    }
}

/// The caller with an identity: `spiffe://DOMAIN/ns/NAMESPACE/sa/ACCOUNT`.
fn caller(principal: &str) -> End<'_> {
    let (namespace, workload) = account_of(principal).unwrap_or((UNKNOWN, UNKNOWN));
    End {
        workload,
        namespace,
        principal: known(principal),
    }
}

/// A field, or `unknown` where Envoy has none.
fn known(field: &str) -> &str {
    match field {
        "" | "-" => UNKNOWN,
        field => field,
    }
}
