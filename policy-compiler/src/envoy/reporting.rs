//! The reports of a filter about the requests and connections that it passes on.

use envoy_types::pb::envoy::config::accesslog::v3::AccessLog;
use envoy_types::pb::envoy::config::core::v3::TypedExtensionConfig;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::Tracing;

use super::access_log;
use super::metrics::{self, Edge};
use super::tap;
use super::tracing::{self, Spans};
use crate::telemetry::LineFormat;

/// The two ends of a connection for metrics and for access logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reporting<'a> {
    pub(crate) edge: Edge<'a>,
    /// The identity of the server, or a command for it.
    pub(crate) server: &'static str,
    pub(crate) format: LineFormat,
    /// Whether the kubelet's probes are among the requests.
    pub(crate) probed: bool,
    /// None: the sidecar does not trace.
    pub(crate) spans: Option<Spans<'a>>,
}

impl Reporting<'_> {
    /// The loggers of an HTTP connection manager.
    pub(super) fn of_requests(&self) -> Vec<AccessLog> {
        let [requests, failures] = metrics::http(&self.edge, self.probed);
        let logs = access_log::http(&self.edge, self.server, self.format);
        let tap = tap::http(&self.edge);
        [requests, failures]
            .into_iter()
            .chain(logs)
            .chain([tap])
            .collect()
    }

    /// The tracer of an HTTP connection manager.
    pub(super) fn tracer(&self) -> Option<Tracing> {
        self.spans.as_ref().map(tracing::tracer)
    }

    /// The extension of an HTTP connection manager that the draw of traces needs.
    pub(super) fn own_id(&self) -> Vec<TypedExtensionConfig> {
        let of = |_: &Spans<'_>| tracing::own_id();
        self.spans.iter().map(of).collect()
    }

    /// The loggers of a TCP proxy.
    pub(super) fn of_connections(&self) -> Vec<AccessLog> {
        vec![
            metrics::tcp(&self.edge),
            access_log::tcp(&self.edge, self.server, self.format),
        ]
    }
}
