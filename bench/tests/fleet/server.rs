//! An ADS server of a few lines, on tonic: one cluster with endpoints, nothing on demand. It sends the resources that a
//! client does not hold, and remembers those that clients reported on reconnect.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType};
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, LbEndpoint, LocalityLbEndpoints,
};
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};
use envoy_types::pb::google::protobuf::Any;
use futures::Stream;
use heddle_bench::sim::response::{CLUSTER, ENDPOINTS, LISTENER};
use heddle_identity::{Ca, SpiffeId};
use prost::Message;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};

/// The number of endpoints for clients, and the clients' reports.
#[derive(Clone)]
pub struct Plane {
    endpoints: watch::Sender<usize>,
    /// Names of resources that clients brought along.
    pub brought: Arc<Mutex<Vec<String>>>,
}

impl Plane {
    pub fn new(endpoints: usize) -> Self {
        Self {
            endpoints: watch::Sender::new(endpoints),
            brought: Arc::default(),
        }
    }

    pub fn set(&self, endpoints: usize) {
        self.endpoints.send_replace(endpoints);
    }

    /// Serves at an address until the task is aborted; with a CA, by mutual TLS.
    pub fn serve(&self, at: SocketAddr, ca: Option<&Ca>) -> JoinHandle<()> {
        let listener = std::net::TcpListener::bind(at).unwrap();
        listener.set_nonblocking(true).unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let mut server = Server::builder();
        if let Some(ca) = ca {
            server = server.tls_config(tls(ca)).unwrap();
        }
        let service = AggregatedDiscoveryServiceServer::new(self.clone());
        tokio::spawn(async move {
            let incoming = TcpListenerStream::new(listener);
            server
                .add_service(service)
                .serve_with_incoming(incoming)
                .await
                .unwrap();
        })
    }

    fn answer(&self, request: &DeltaDiscoveryRequest) -> Option<DeltaDiscoveryResponse> {
        let held = &request.initial_resource_versions;
        self.brought.lock().unwrap().extend(held.keys().cloned());
        let (healthy, names) = (*self.endpoints.borrow(), &request.resource_names_subscribe);
        let (resources, removed) = match request.type_url.as_str() {
            CLUSTER if request.response_nonce.is_empty() => {
                let on_demand = names.iter().filter(|name| name.starts_with("dst|"));
                (vec![cluster()], on_demand.cloned().collect())
            }
            ENDPOINTS if !names.is_empty() => (vec![endpoints(healthy)], Vec::new()),
            LISTENER if request.response_nonce.is_empty() => (Vec::new(), Vec::new()),
            _ => return None,
        };
        let news = |resource: &Resource| held.get(&resource.name) != Some(&resource.version);
        let resources: Vec<Resource> = resources.into_iter().filter(news).collect();
        // A client that brings everything along is told nothing.
        if resources.is_empty() && removed.is_empty() && !held.is_empty() {
            return None;
        }
        Some(response(&request.type_url, resources, removed))
    }
}

fn tls(ca: &Ca) -> ServerTlsConfig {
    let id = SpiffeId::control_plane("cluster.local".parse().unwrap());
    let hour = std::time::Duration::from_secs(3600);
    let now = std::time::SystemTime::now();
    let own = ca
        .server_certificate(&["localhost".to_owned()], &[], &id, hour, now)
        .unwrap();
    let chain = own.issued.chain.iter();
    let chain: String = chain
        .map(|der| pem::encode(&pem::Pem::new("CERTIFICATE", der.to_vec())))
        .collect();
    ServerTlsConfig::new()
        .identity(Identity::from_pem(chain, own.key.private_key_pem()))
        .client_ca_root(Certificate::from_pem(ca.trust_bundle()))
}

fn response(url: &str, resources: Vec<Resource>, removed: Vec<String>) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        type_url: url.to_owned(),
        nonce: "n".to_owned(),
        resources,
        removed_resources: removed,
        ..DeltaDiscoveryResponse::default()
    }
}

fn resource(type_url: &str, version: &str, value: Vec<u8>) -> Resource {
    Resource {
        name: "a".to_owned(),
        version: version.to_owned(),
        resource: Some(Any {
            type_url: type_url.to_owned(),
            value,
        }),
        ..Resource::default()
    }
}

fn cluster() -> Resource {
    let cluster = Cluster {
        name: "a".to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())),
        ..Cluster::default()
    };
    resource(CLUSTER, "1", cluster.encode_to_vec())
}

fn endpoints(healthy: usize) -> Resource {
    let locality = LocalityLbEndpoints {
        // Large enough to come in many frames.
        lb_endpoints: vec![LbEndpoint::default(); healthy],
        ..LocalityLbEndpoints::default()
    };
    let assignment = ClusterLoadAssignment {
        cluster_name: "a".repeat(100_000),
        endpoints: vec![locality],
        ..ClusterLoadAssignment::default()
    };
    resource(ENDPOINTS, &healthy.to_string(), assignment.encode_to_vec())
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Plane {
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
        let (plane, mut requests) = (self.clone(), request.into_inner());
        let (sender, answers) = mpsc::channel(16);
        let mut changes = self.endpoints.subscribe();
        tokio::spawn(async move {
            loop {
                let answer = tokio::select! {
                    request = requests.next() => match request {
                        Some(Ok(request)) => plane.answer(&request),
                        _ => return,
                    },
                    changed = changes.changed() => {
                        changed.unwrap();
                        let healthy = *changes.borrow_and_update();
                        Some(response(ENDPOINTS, vec![endpoints(healthy)], Vec::new()))
                    }
                };
                if let Some(answer) = answer
                    && sender.send(Ok(answer)).await.is_err()
                {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }
}
