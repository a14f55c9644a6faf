//! Clients that are not the identity or pod that they claim are refused, and the server stays up.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use futures::StreamExt;
use heddle_identity::wire::{IdentityClient, IssueRequest, IssueResponse, set_bearer};
use heddle_identity::{SpiffeId, WorkloadKey};
use heddle_xds_types::rollout::{EndReport, METHOD, WithdrawalReport};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use crate::harness::Fixture;

const PATIENCE: Duration = Duration::from_secs(10);

pub fn are_refused(mesh: &Fixture) {
    garbage(mesh.ads);
    garbage(mesh.ca);
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        tokens_and_names(mesh).await;
        node_ids(mesh).await;
    });
}

/// Bytes that are not TLS; the server closes, and goes on.
fn garbage(to: SocketAddr) {
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0u8; 3000],
        &[0x16, 3, 1, 0xff, 0xff, 1, 2, 3],
    ] {
        let mut stream = TcpStream::connect(to).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_millis(300)))
            .unwrap();
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(
            !answer.windows(4).any(|window| window == b"HTTP"),
            "{answer:?}"
        );
    }
}

async fn tokens_and_names(mesh: &Fixture) {
    let frontend = id("frontend");
    let token = mesh.token("frontend-1");
    for (token, id, expected) in [
        (None, &frontend, Code::Unauthenticated),
        (Some("0".repeat(64)), &frontend, Code::Unauthenticated),
        // A token of one's own, and somebody else's name.
        (Some(token.clone()), &id("reviews"), Code::InvalidArgument),
    ] {
        let refused = issue(mesh, token.as_deref(), id).await.unwrap_err();
        assert_eq!(refused.1.code(), expected, "{}", refused.1);
    }
    issue(mesh, Some(&token), &frontend).await.unwrap();
}

async fn node_ids(mesh: &Fixture) {
    // Without a certificate the handshake already fails; how that shows is up to TLS.
    let anonymous = subscribe(mesh, None, "shop/frontend-1").await.unwrap_err();
    assert_ne!(anonymous.code(), Code::Ok);

    let identity = certificate(mesh, &mesh.token("frontend-1"), &id("frontend")).await;
    let me = || Some(identity.clone());
    for (node, expected) in [
        ("shop/reviews-v1-1", Code::PermissionDenied),
        ("bank/frontend-1", Code::PermissionDenied),
        ("", Code::PermissionDenied),
        ("shop", Code::PermissionDenied),
        // A pod that may run as the same service account.
        ("shop/frontend-2", Code::PermissionDenied),
    ] {
        let refused = subscribe(mesh, me(), node).await.unwrap_err();
        assert_eq!(refused.code(), expected, "{node}: {refused}");
        let refused = report_end(mesh, identity.clone(), node).await.unwrap_err();
        assert_eq!(refused.code(), expected, "the end of {node}: {refused}");
    }
    // Two pods of one service account.
    let reviews = certificate(mesh, &mesh.token("reviews-v1-1"), &id("reviews")).await;
    for (node, expected) in [
        ("shop/reviews-v2-1", Code::PermissionDenied),
        ("shop/reviews-v1-1", Code::Ok),
    ] {
        let answer = subscribe(mesh, Some(reviews.clone()), node).await;
        let code = answer.map_or_else(|status| status.code(), |()| Code::Ok);
        assert_eq!(code, expected, "{node}");
    }
    subscribe(mesh, me(), "shop/frontend-1").await.unwrap();
    report_end(mesh, identity, "shop/frontend-1").await.unwrap();
}

/// Reports the end of a pod; returns when the first answer or the refusal is there.
async fn report_end(mesh: &Fixture, me: Identity, node: &str) -> Result<(), Status> {
    let mut client = tonic::client::Grpc::new(channel(mesh, mesh.ads, Some(me)).await?);
    let ready = client.ready().await;
    ready.map_err(|error| Status::unknown(error.to_string()))?;
    let report = EndReport {
        node: node.to_owned(),
        ended_ago_ms: Some(u64::MAX),
        ..EndReport::default()
    };
    let reports = futures::stream::iter([report]).chain(futures::stream::pending());
    let codec = ProstCodec::<EndReport, WithdrawalReport>::default();
    let path = PathAndQuery::from_static(METHOD);
    let answers = client.streaming(Request::new(reports), path, codec).await?;
    answers.into_inner().message().await.map(drop)
}

fn id(account: &str) -> SpiffeId {
    id_in("shop", account)
}

pub fn id_in(namespace: &str, account: &str) -> SpiffeId {
    SpiffeId::new("cluster.local".parse().unwrap(), namespace, account).unwrap()
}

/// A certificate by a pod's token.
pub async fn certificate(mesh: &Fixture, token: &str, id: &SpiffeId) -> Identity {
    let (key, issued) = issue(mesh, Some(token), id).await.unwrap();
    let chain: String = issued
        .certificate_chain
        .iter()
        .map(|der| pem::encode(&pem::Pem::new("CERTIFICATE", der.clone())))
        .collect();
    Identity::from_pem(&chain, key.private_key_pem())
}

pub async fn channel(
    mesh: &Fixture,
    to: SocketAddr,
    me: Option<Identity>,
) -> Result<Channel, Status> {
    let mut tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(mesh.trust_bundle()))
        .domain_name("localhost");
    if let Some(me) = me {
        tls = tls.identity(me);
    }
    let endpoint = Endpoint::from_shared(format!("https://{to}"))
        .unwrap()
        .timeout(PATIENCE)
        .connect_timeout(PATIENCE);
    endpoint
        .tls_config(tls)
        .unwrap()
        .connect()
        .await
        .map_err(|error| Status::unknown(error.to_string()))
}

type Refused = (WorkloadKey, Status);

async fn issue(
    mesh: &Fixture,
    token: Option<&str>,
    id: &SpiffeId,
) -> Result<(WorkloadKey, IssueResponse), Refused> {
    let key = WorkloadKey::generate().unwrap();
    let mut request = Request::new(IssueRequest {
        csr: key.csr(id).unwrap(),
        lifetime_seconds: 0,
    });
    if let Some(token) = token {
        set_bearer(request.metadata_mut(), token).unwrap();
    }
    let mut client = IdentityClient::new(channel(mesh, mesh.ca, None).await.unwrap());
    match client.issue(request).await {
        Ok(response) => Ok((key, response.into_inner())),
        Err(status) => Err((key, status)),
    }
}

/// Asks for all clusters; returns when the first response or the refusal is there.
async fn subscribe(mesh: &Fixture, me: Option<Identity>, node: &str) -> Result<(), Status> {
    let mut client = AggregatedDiscoveryServiceClient::new(channel(mesh, mesh.ads, me).await?);
    let request = DeltaDiscoveryRequest {
        node: Some(Node {
            id: node.to_owned(),
            ..Node::default()
        }),
        type_url: "type.googleapis.com/envoy.config.cluster.v3.Cluster".to_owned(),
        ..DeltaDiscoveryRequest::default()
    };
    let requests =
        futures::StreamExt::chain(futures::stream::iter([request]), futures::stream::pending());
    let first = async {
        let mut responses = client
            .delta_aggregated_resources(requests)
            .await?
            .into_inner();
        responses
            .message()
            .await?
            .map(drop)
            .ok_or_else(|| Status::unknown("the stream ended"))
    };
    tokio::time::timeout(PATIENCE, first)
        .await
        .map_err(|_| Status::deadline_exceeded("no answer"))?
}
