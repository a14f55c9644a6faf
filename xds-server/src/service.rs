//! The gRPC service: hands each stream to [`crate::stream`].

use std::pin::Pin;
use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::AggregatedDiscoveryService;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use futures::Stream;
use tokio::sync::watch;
use tonic::{Request, Response, Status, Streaming, async_trait};

use crate::counters::Counters;
use crate::progress::Registry;
use crate::session::Limits;
use crate::source::{Peer, ResourceSource};
use crate::stream::{Delta, Sotw, responses};

/// What all streams share.
pub(crate) struct Shared<S> {
    pub source: Arc<S>,
    pub registry: Arc<Registry>,
    pub counters: Arc<Counters>,
    pub limits: Limits,
    pub stopping: watch::Sender<bool>,
}

pub(crate) struct Ads<S>(pub Arc<Shared<S>>);

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[async_trait]
impl<S: ResourceSource> AggregatedDiscoveryService for Ads<S> {
    type StreamAggregatedResourcesStream = Responses<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Responses<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        let peer = peer(&request);
        Ok(Response::new(Box::pin(responses::<Sotw, S>(
            Arc::clone(&self.0),
            peer,
            request.into_inner(),
        ))))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let peer = peer(&request);
        Ok(Response::new(Box::pin(responses::<Delta, S>(
            Arc::clone(&self.0),
            peer,
            request.into_inner(),
        ))))
    }
}

/// Without the connection's own word a peer has proven nothing.
fn peer<T>(request: &Request<T>) -> Peer {
    request
        .extensions()
        .get::<Peer>()
        .cloned()
        .unwrap_or_default()
}
