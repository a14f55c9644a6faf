//! The reports of a filter about the requests and connections that it passes on.

use envoy_types::pb::envoy::config::accesslog::v3::AccessLog;

use super::access_log;
use super::metrics::{self, Edge};
use crate::telemetry::LineFormat;

/// The two ends of a connection for metrics and for access logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reporting<'a> {
    pub(crate) edge: Edge<'a>,
    /// The identity of the server, or a command for it.
    pub(crate) server: &'static str,
    pub(crate) format: LineFormat,
}

impl Reporting<'_> {
    /// The loggers of an HTTP connection manager.
    pub(super) fn of_requests(&self) -> Vec<AccessLog> {
        vec![
            metrics::http(&self.edge),
            access_log::http(&self.edge, self.server, self.format),
        ]
    }

    /// The loggers of a TCP proxy.
    pub(super) fn of_connections(&self) -> Vec<AccessLog> {
        vec![
            metrics::tcp(&self.edge),
            access_log::tcp(&self.edge, self.server, self.format),
        ]
    }
}
