//! A control plane of a few lines: a real CA, and over mTLS ADS with fixed resources and load reports.

use std::collections::BTreeMap;
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
use envoy_types::pb::envoy::service::load_stats::v3::load_reporting_service_server::{
    LoadReportingService, LoadReportingServiceServer,
};
use envoy_types::pb::envoy::service::load_stats::v3::{LoadStatsRequest, LoadStatsResponse};
use envoy_types::pb::google::protobuf::Duration as Interval;
use futures::{Stream, StreamExt};
use heddle_identity::wire::{Identity, IdentityServer, IssueRequest, IssueResponse, bearer};
use heddle_identity::{Ca, SpiffeId, TrustDomain};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Certificate, Identity as Own, Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};

use crate::resources::Resources;

/// The zone of every pod.
pub const ZONE: &str = "zone-a";
pub const TOKEN: &str = "the-right-token";

/// The parts of a control plane that tests inspect and set.
pub struct Plane {
    pub ca: Ca,
    pub lifetime: Mutex<Duration>,
    pub issued: AtomicUsize,
    pub refused: AtomicUsize,
    pub ads: SocketAddr,
    pub issuing: SocketAddr,
    pub seen: Arc<Seen>,
}

/// The requests that came over mTLS.
#[derive(Default)]
pub struct Seen {
    /// The connections of the ADS streams, in their order.
    pub streams: Mutex<Vec<SocketAddr>>,
    /// The node and the connection of each stream of load reports.
    pub reporters: Mutex<Vec<(String, SocketAddr)>>,
    /// Requests by cluster.
    pub loads: Mutex<BTreeMap<String, u64>>,
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
            seen: Arc::default(),
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
        let seen = Arc::clone(&plane.seen);
        let source = AggregatedDiscoveryServiceServer::new(Ads { resources, seen });
        let loads = LoadReportingServiceServer::new(Loads(Arc::clone(&plane.seen)));
        let server = Server::builder()
            .tls_config(mutual)
            .unwrap()
            .add_service(source)
            .add_service(loads);
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
        let (csr, id) = (request.into_inner().csr, workload());
        let issued = self
            .ca
            .issue(&csr, &id, "cart-1", lifetime, now)
            .map_err(|e| Status::invalid_argument(e.to_string()))?;
        self.issued.fetch_add(1, Ordering::SeqCst);
        Ok(Response::new(IssueResponse {
            certificate_chain: issued.chain.iter().map(|c| c.to_vec()).collect(),
            trust_bundle: self.ca.trust_bundle().to_owned(),
            not_before: seconds(issued.not_before),
            issued_at: seconds(now),
            not_after: seconds(issued.not_after),
            spiffe_id: workload().to_string(),
            zone: ZONE.to_owned(),
        }))
    }
}

struct Ads {
    resources: Resources,
    seen: Arc<Seen>,
}

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
        let peer = request.remote_addr().unwrap();
        self.seen.streams.lock().unwrap().push(peer);
        let resources = self.resources.clone();
        let answers = request.into_inner().filter_map(move |ask| {
            let answer = ask.ok().filter(|a| a.response_nonce.is_empty()).map(|ask| {
                if let Some(error) = ask.error_detail {
                    eprintln!("NACK: {}", error.message);
                }
                let of_type = resources
                    .iter()
                    .filter(|(_, any)| any.type_url == ask.type_url);
                let known: Vec<&String> = of_type.clone().map(|(name, _)| name).collect();
                let asked = ask.resource_names_subscribe.iter();
                let missing = asked.filter(|name| *name != "*" && !known.contains(name));
                let resources = of_type.clone().map(|(name, any)| Resource {
                    name: name.clone(),
                    version: "1".to_owned(),
                    resource: Some(any.clone()),
                    ..Default::default()
                });
                Ok(DeltaDiscoveryResponse {
                    resources: resources.collect(),
                    nonce: "1".to_owned(),
                    type_url: ask.type_url.clone(),
                    removed_resources: missing.cloned().collect(),
                    ..Default::default()
                })
            });
            std::future::ready(answer)
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

struct Loads(Arc<Seen>);

#[tonic::async_trait]
impl LoadReportingService for Loads {
    type StreamLoadStatsStream = Answers<LoadStatsResponse>;

    async fn stream_load_stats(
        &self,
        request: Request<Streaming<LoadStatsRequest>>,
    ) -> Result<Response<Self::StreamLoadStatsStream>, Status> {
        let (seen, peer) = (Arc::clone(&self.0), request.remote_addr().unwrap());
        let mut greeted = false;
        let answers = request.into_inner().filter_map(move |report| {
            let answer = report.ok().and_then(|report| {
                let mut loads = seen.loads.lock().unwrap();
                for cluster in report.cluster_stats {
                    let localities = cluster.upstream_locality_stats.iter();
                    let issued: u64 = localities.map(|l| l.total_issued_requests).sum();
                    *loads.entry(cluster.cluster_name).or_default() += issued;
                }
                // Every report names its node; the first one asks for the clusters to report.
                let node = report
                    .node
                    .filter(|_| !std::mem::replace(&mut greeted, true))?;
                seen.reporters.lock().unwrap().push((node.id, peer));
                Some(Ok(LoadStatsResponse {
                    send_all_clusters: true,
                    load_reporting_interval: Some(Interval {
                        seconds: 0,
                        nanos: 200_000_000,
                    }),
                    ..Default::default()
                }))
            });
            std::future::ready(answer)
        });
        Ok(Response::new(Box::pin(answers)))
    }
}
