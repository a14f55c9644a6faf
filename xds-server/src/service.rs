//! The gRPC services: hands each stream to its handler.

use std::sync::Arc;
use std::time::Duration;

use heddle_acceptor::Link;
use http::{Method, Request, Response};
use hyper::body::Incoming;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::counters::Counters;
use crate::grpc::{Requests, Responses};
use crate::loads;
use crate::open::OpenStreams;
use crate::progress::Registry;
use crate::session::Limits;
use crate::source::ResourceSource;
use crate::stream::{self, Delta, Sotw};

const DELTA: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
const SOTW: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";
const LOADS: &str = "/envoy.service.load_stats.v3.LoadReportingService/StreamLoadStats";

/// The state that all streams share.
pub(crate) struct Shared<S> {
    pub source: Arc<S>,
    pub registry: Arc<Registry>,
    pub counters: Arc<Counters>,
    pub limits: Limits,
    pub max_request_bytes: usize,
    pub load_report_interval: Duration,
    pub open: Arc<OpenStreams>,
    /// Once cancelled, every stream and connection ends.
    pub stopping: CancellationToken,
}

impl<S> Shared<S> {
    /// The status for a client that is sent away without a fault of its own.
    pub fn sent_away(&self) -> Status {
        Status::unavailable(match self.stopping.is_cancelled() {
            true => "the server is shutting down",
            false => "another server has more room",
        })
    }
}

/// Begins to answer a request.
pub(crate) fn answer<S: ResourceSource>(
    shared: &Arc<Shared<S>>,
    link: &Arc<Link>,
    request: Request<Incoming>,
) -> Response<Responses> {
    let (head, body) = request.into_parts();
    let (shared, link) = (Arc::clone(shared), Arc::clone(link));
    let max_bytes = shared.max_request_bytes;
    match (&head.method, head.uri.path()) {
        (&Method::POST, DELTA) => {
            let inbound = Requests::new(body, max_bytes);
            Responses::begin(stream::responses::<Delta, S>(shared, link, inbound))
        }
        (&Method::POST, SOTW) => {
            let inbound = Requests::new(body, max_bytes);
            Responses::begin(stream::responses::<Sotw, S>(shared, link, inbound))
        }
        (&Method::POST, LOADS) => Responses::begin(loads::responses(
            shared,
            link,
            Requests::new(body, max_bytes),
        )),
        _ => Status::unimplemented("no such method").into_http(),
    }
}
