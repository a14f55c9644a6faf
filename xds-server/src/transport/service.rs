//! The gRPC services: hands each stream to its handler.

use std::sync::Arc;

use envoy_types::pb::envoy::service::load_stats::v3::LoadStatsRequest;
use heddle_acceptor::Link;
use heddle_xds_types::edges::{self, EdgeReport};
use heddle_xds_types::rollout::{self, EndReport};
use heddle_xds_types::tap::{self, TapReport};
use http::{Method, Request, Response};
use hyper::body::Incoming;
use tonic::Status;

use crate::source::ResourceSource;

use super::grpc::{Requests, Responses};
use super::reports;
use super::shared::Shared;
use super::stream::{self, Delta, Sotw};

const DELTA: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
const SOTW: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";
const LOADS: &str = "/envoy.service.load_stats.v3.LoadReportingService/StreamLoadStats";
/// The largest report on edges, in bytes. A message of an agent has 32 edges at most, with names of up to 2 kB each.
const MAX_EDGE_REPORT: usize = 128 << 10;
/// The largest report on the end of a pod, in bytes: some numbers and a node id.
const MAX_END_REPORT: usize = 4 << 10;
/// The largest report on requests, in bytes. A message of an agent has 32 requests at most, each with texts of up to 8 kB.
const MAX_TAP_REPORT: usize = 256 << 10;

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
        (&Method::POST, LOADS) => {
            let inbound = Requests::<LoadStatsRequest>::new(body, max_bytes);
            Responses::begin(reports::responses(shared, link, inbound))
        }
        (&Method::POST, edges::METHOD) => {
            let inbound = Requests::<EdgeReport>::new(body, MAX_EDGE_REPORT);
            Responses::begin(reports::responses(shared, link, inbound))
        }
        (&Method::POST, rollout::METHOD) => {
            let inbound = Requests::<EndReport>::new(body, MAX_END_REPORT);
            Responses::begin(reports::responses(shared, link, inbound))
        }
        (&Method::POST, tap::METHOD) => {
            let inbound = Requests::<TapReport>::new(body, MAX_TAP_REPORT);
            Responses::begin(reports::responses(shared, link, inbound))
        }
        _ => Status::unimplemented("no such method").into_http(),
    }
}
