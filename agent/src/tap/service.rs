//! The access log service for the sidecar's own Envoy, on a private Unix socket.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use envoy_types::pb::envoy::service::accesslog::v3::access_log_service_server::{
    AccessLogService, AccessLogServiceServer,
};
use envoy_types::pb::envoy::service::accesslog::v3::stream_access_logs_message::LogEntries;
use envoy_types::pb::envoy::service::accesslog::v3::{
    StreamAccessLogsMessage, StreamAccessLogsResponse,
};
use heddle_acceptor::{Link, Protocol};
use heddle_xds_types::edges::Reporter;
use heddle_xds_types::golden::Side;
use hyper_util::service::TowerToHyperService;
use tokio::sync::mpsc;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};

use super::Lost;
use super::request::Seen;
use crate::socket::Server;

/// The largest message: Envoy sends 16 KiB of requests at a time, and the last of them may have long headers.
const MAX_MESSAGE: usize = 1 << 20;

/// Serves until it fails.
pub(super) async fn serve(
    socket: &Path,
    requests: mpsc::Sender<Seen>,
    lost: Arc<Lost>,
) -> Result<()> {
    let service = AccessLogServiceServer::new(Service { requests, lost });
    let router = Routes::new(service.max_decoding_message_size(MAX_MESSAGE))
        .prepare()
        .into_axum_router();
    let handler = move |_: Arc<Link>| TowerToHyperService::new(router.clone());
    let server = Server {
        name: "access logs",
        protocol: Protocol::Http2,
        // Each of its streams stays open.
        request: None,
    };
    server.serve(socket, handler).await
}

struct Service {
    requests: mpsc::Sender<Seen>,
    lost: Arc<Lost>,
}

#[tonic::async_trait]
impl AccessLogService for Service {
    async fn stream_access_logs(
        &self,
        messages: Request<Streaming<StreamAccessLogsMessage>>,
    ) -> Result<Response<StreamAccessLogsResponse>, Status> {
        let mut messages = messages.into_inner();
        // In the first message of the stream.
        let mut reporter = None;
        while let Some(message) = messages.message().await? {
            if let Some(identifier) = &message.identifier {
                reporter = side(&identifier.log_name);
            }
            let Some(reporter) = reporter else {
                return Err(Status::invalid_argument("no such log"));
            };
            if let Some(LogEntries::HttpLogs(entries)) = message.log_entries {
                for entry in entries.log_entry {
                    if let Some(seen) = Seen::of(reporter, entry)
                        && self.requests.try_send(seen).is_err()
                    {
                        self.lost.add(1);
                    }
                }
            }
        }
        Ok(Response::new(StreamAccessLogsResponse {}))
    }
}

fn side(log: &str) -> Option<Reporter> {
    if log == Side::Source.as_str() {
        return Some(Reporter::Source);
    }
    (log == Side::Destination.as_str()).then_some(Reporter::Destination)
}
