//! A control plane of a few lines: a real CA and ADS over mTLS with fixed resources.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};
use futures::{Stream, StreamExt};
use heddle_identity::wire::{Identity, IdentityServer, IssueRequest, IssueResponse, bearer};
use heddle_identity::{Ca, SpiffeId, TrustDomain};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Certificate, Identity as Own, Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};

use crate::resources::Resources;

pub const TOKEN: &str = "the-right-token";

/// What tests look at and turn.
pub struct Plane {
    pub ca: Ca,
    pub lifetime: Mutex<Duration>,
    pub issued: AtomicUsize,
    pub refused: AtomicUsize,
    pub ads: SocketAddr,
    pub issuing: SocketAddr,
}

pub fn domain() -> TrustDomain {
    "cluster.local".parse().unwrap()
}

pub fn workload() -> SpiffeId {
    SpiffeId::new(domain(), "shop", "cart").unwrap()
}

fn seconds(time: SystemTime) -> i64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs()
        .try_into()
        .unwrap()
}

impl Plane {
    pub async fn start(resources: Resources) -> Arc<Self> {
        let now = SystemTime::now();
        let (ca, _) = Ca::create(&domain(), now).unwrap();
        let ads = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let issuing = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let id = SpiffeId::control_plane(domain());
        let ips = ["127.0.0.1".parse().unwrap()];
        let own = ca
            .server_certificate(&[], &ips, &id, Duration::from_secs(3600), now)
            .unwrap();
        let chain: String = own
            .issued
            .chain
            .iter()
            .map(|c| pem::encode(&pem::Pem::new("CERTIFICATE", c.to_vec())))
            .collect();
        let tls = ServerTlsConfig::new().identity(Own::from_pem(chain, own.key.private_key_pem()));
        let plane = Arc::new(Self {
            lifetime: Mutex::new(Duration::from_secs(3600)),
            issued: AtomicUsize::new(0),
            refused: AtomicUsize::new(0),
            ads: ads.local_addr().unwrap(),
            issuing: issuing.local_addr().unwrap(),
            ca,
        });
        let mutual = tls
            .clone()
            .client_ca_root(Certificate::from_pem(plane.ca.trust_bundle()));
        let issuer = IdentityServer::from_arc(Arc::clone(&plane));
        let server = Server::builder()
            .tls_config(tls)
            .unwrap()
            .add_service(issuer);
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(issuing)));
        let source = AggregatedDiscoveryServiceServer::new(Ads(resources));
        let server = Server::builder()
            .tls_config(mutual)
            .unwrap()
            .add_service(source);
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(ads)));
        plane
    }
}

#[tonic::async_trait]
impl Identity for Plane {
    async fn issue(
        &self,
        request: Request<IssueRequest>,
    ) -> Result<Response<IssueResponse>, Status> {
        if bearer(request.metadata()) != Some(TOKEN) {
            self.refused.fetch_add(1, Ordering::SeqCst);
            return Err(Status::unauthenticated("the token has expired"));
        }
        let now = SystemTime::now();
        let lifetime = *self.lifetime.lock().unwrap();
        let issued = self
            .ca
            .issue(&request.into_inner().csr, &workload(), lifetime, now)
            .map_err(|e| Status::invalid_argument(e.to_string()))?;
        self.issued.fetch_add(1, Ordering::SeqCst);
        Ok(Response::new(IssueResponse {
            certificate_chain: issued.chain.iter().map(|c| c.to_vec()).collect(),
            trust_bundle: self.ca.trust_bundle().to_owned(),
            not_before: seconds(issued.not_before),
            issued_at: seconds(now),
            not_after: seconds(issued.not_after),
            spiffe_id: workload().to_string(),
        }))
    }
}

struct Ads(Resources);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Ads {
    type StreamAggregatedResourcesStream = Answers<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Answers<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        _: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("delta only"))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let resources = self.0.clone();
        let answers = request.into_inner().filter_map(move |ask| {
            let answer = ask.ok().filter(|a| a.response_nonce.is_empty()).map(|ask| {
                if let Some(error) = ask.error_detail {
                    eprintln!("NACK: {}", error.message);
                }
                let of_type = resources
                    .iter()
                    .filter(|(_, any)| any.type_url == ask.type_url);
                let resources = of_type.map(|(name, any)| Resource {
                    name: name.clone(),
                    version: "1".to_owned(),
                    resource: Some(any.clone()),
                    ..Default::default()
                });
                Ok(DeltaDiscoveryResponse {
                    resources: resources.collect(),
                    nonce: "1".to_owned(),
                    type_url: ask.type_url.clone(),
                    ..Default::default()
                })
            });
            std::future::ready(answer)
        });
        Ok(Response::new(Box::pin(answers)))
    }
}
