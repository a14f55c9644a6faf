//! A client of the incremental protocol with requests that the test chooses.

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse,
};
use heddle_xds_server::ResourceKind;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Status, Streaming};

use super::pki::{Leaf, Pki};
use super::{BOUND, Running};

/// The requests of a client on its stream.
pub type Outbox = mpsc::Sender<DeltaDiscoveryRequest>;

/// A stream, and its first answer.
pub async fn open(
    channel: Channel,
    requests: Vec<DeltaDiscoveryRequest>,
) -> (Outbox, Result<Streaming<DeltaDiscoveryResponse>, Status>) {
    let (out, outgoing) = mpsc::channel(8);
    for request in requests {
        out.send(request).await.unwrap();
    }
    let mut client = AggregatedDiscoveryServiceClient::new(channel);
    let answer = client
        .delta_aggregated_resources(ReceiverStream::new(outgoing))
        .await;
    (out, answer.map(tonic::Response::into_inner))
}

pub async fn next(
    stream: &mut Streaming<DeltaDiscoveryResponse>,
) -> Result<Option<DeltaDiscoveryResponse>, Status> {
    tokio::time::timeout(BOUND, stream.message())
        .await
        .expect("the server says nothing")
}

/// The status that the stream ends with.
pub async fn end(answer: Result<Streaming<DeltaDiscoveryResponse>, Status>) -> Code {
    let mut stream = match answer {
        Ok(stream) => stream,
        Err(status) => return status.code(),
    };
    loop {
        match next(&mut stream).await {
            Ok(Some(_)) => {}
            Ok(None) => return Code::Ok,
            Err(status) => return status.code(),
        }
    }
}

pub fn request(node: &str, kind: ResourceKind) -> DeltaDiscoveryRequest {
    let node = Some(node)
        .filter(|node| !node.is_empty())
        .and_then(self::node);
    DeltaDiscoveryRequest {
        node,
        type_url: kind.type_url().into(),
        ..DeltaDiscoveryRequest::default()
    }
}

pub async fn plain(server: &Running) -> Channel {
    Endpoint::from_shared(format!("http://{}", server.address))
        .unwrap()
        .connect()
        .await
        .unwrap()
}

pub fn node(id: &str) -> Option<Node> {
    Some(Node {
        id: id.into(),
        ..Node::default()
    })
}

/// Trusts the authority, and has no certificate of its own.
pub fn tls_config(pki: &Pki) -> ClientTlsConfig {
    ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(pki.root()))
        .domain_name("localhost")
}

/// A connection with this certificate.
pub fn tls(server: &Running, pki: &Pki, leaf: Leaf) -> Channel {
    let identity = Identity::from_pem(leaf.certificate, leaf.key);
    let tls = tls_config(pki).identity(identity);
    let endpoint = Endpoint::from_shared(format!("https://{}", server.address)).unwrap();
    endpoint.tls_config(tls).unwrap().connect_lazy()
}
