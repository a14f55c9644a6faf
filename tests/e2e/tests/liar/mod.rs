//! A client of the control plane that is not an Envoy: it has a pod's own certificate, and rejects every resource.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::google::rpc::Status as RpcStatus;
use heddle_e2e::{Kubectl, Namespace};
use heddle_identity::wire::{IdentityClient, IssueRequest, set_bearer};
use heddle_identity::{SpiffeId, WorkloadKey};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tonic::Request;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

/// The text with which it rejects.
pub const TEXT: &str = "I do not like it";
const PATIENCE: Duration = Duration::from_secs(30);
const SYSTEM: [&str; 2] = ["-n", "heddle-system"];

/// A port of the control plane on this machine, as long as it lives.
struct Forward {
    child: Child,
    port: u16,
}

impl Forward {
    fn to(port: u16) -> Result<Self> {
        let target = format!(":{port}");
        let [flag, namespace] = SYSTEM;
        let mut command = Kubectl::cluster().command(&[
            flag,
            namespace,
            "port-forward",
            "deployment/heddle-operator",
            &target,
        ]);
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let output = child.stdout.take().context("kubectl's standard output")?;
        let mut forward = Self { child, port: 0 };
        let mut output = BufReader::new(output);
        let mut line = String::new();
        output.read_line(&mut line)?;
        // It ends when its words cannot be written.
        std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
        // "Forwarding from 127.0.0.1:40001 -> 15010"
        let port = line
            .split("127.0.0.1:")
            .nth(1)
            .and_then(|rest| rest.split(' ').next());
        forward.port = port
            .with_context(|| format!("no port in {line:?}"))?
            .parse()?;
        Ok(forward)
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The liar; it goes away when dropped.
pub struct Liar {
    _forward: Forward,
    _runtime: Runtime,
}

impl Liar {
    /// Takes the place of a pod's own Envoy.
    pub fn join(namespace: &Namespace, pod: &str, account: &str, routes: &[&str]) -> Result<Self> {
        let token = namespace.kubectl.run(&[
            "create",
            "token",
            account,
            "--audience=heddle.dev",
            "--bound-object-kind=Pod",
            &format!("--bound-object-name={pod}"),
        ])?;
        let [flag, system] = SYSTEM;
        let root = Kubectl::cluster().run(&[
            flag,
            system,
            "get",
            "secret",
            "heddle-ca",
            "-o",
            "go-template={{index .data \"ca.crt\" | base64decode}}",
        ])?;
        let id = SpiffeId::new("cluster.local".parse()?, &namespace.name, account)?;
        let (issuing, forward) = (Forward::to(15011)?, Forward::to(15010)?);
        let runtime = Runtime::new()?;
        let node = format!("{}/{pod}", namespace.name);
        runtime.block_on(async {
            let me = certificate(issuing.port, &root, token.trim(), &id).await?;
            let channel = channel(forward.port, &root, Some(me)).await?;
            lie(channel, &node, routes).await
        })?;
        Ok(Self {
            _forward: forward,
            _runtime: runtime,
        })
    }
}

async fn channel(port: u16, root: &str, me: Option<Identity>) -> Result<Channel> {
    let mut tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(root))
        .domain_name("localhost");
    if let Some(me) = me {
        tls = tls.identity(me);
    }
    let endpoint = Endpoint::from_shared(format!("https://127.0.0.1:{port}"))?;
    let endpoint = endpoint.connect_timeout(PATIENCE).tls_config(tls)?;
    endpoint.connect().await.context("the control plane")
}

async fn certificate(port: u16, root: &str, token: &str, id: &SpiffeId) -> Result<Identity> {
    let key = WorkloadKey::generate()?;
    let mut request = Request::new(IssueRequest {
        csr: key.csr(id)?,
        lifetime_seconds: 0,
    });
    request.set_timeout(PATIENCE);
    set_bearer(request.metadata_mut(), token)?;
    let mut client = IdentityClient::new(channel(port, root, None).await?);
    let issued = client.issue(request).await?.into_inner();
    let chain = issued.certificate_chain.into_iter();
    let chain: String = chain
        .map(|der| pem::encode(&pem::Pem::new("CERTIFICATE", der)))
        .collect();
    Ok(Identity::from_pem(&chain, key.private_key_pem()))
}

/// Asks for the kinds that an Envoy asks for, and rejects each response. Returns after the first rejection.
async fn lie(channel: Channel, node: &str, routes: &[&str]) -> Result<()> {
    let (out, requests) = mpsc::channel(64);
    for (kind, names) in [
        ("cluster.v3.Cluster", &["*"][..]),
        ("listener.v3.Listener", &["*"]),
        ("route.v3.RouteConfiguration", routes),
    ] {
        let request = DeltaDiscoveryRequest {
            node: Some(Node {
                id: node.to_owned(),
                ..Node::default()
            }),
            type_url: format!("type.googleapis.com/envoy.config.{kind}"),
            resource_names_subscribe: names.iter().map(|name| (*name).to_owned()).collect(),
            ..DeltaDiscoveryRequest::default()
        };
        out.send(request).await?;
    }
    let requests = futures::stream::unfold(requests, |mut requests| async move {
        Some((requests.recv().await?, requests))
    });
    let mut client = AggregatedDiscoveryServiceClient::new(channel);
    let responses = client.delta_aggregated_resources(requests).await?;
    let mut responses = responses.into_inner();
    let (rejected, mut first) = mpsc::channel(1);
    tokio::spawn(async move {
        while let Ok(Some(response)) = responses.message().await {
            let answer = DeltaDiscoveryRequest {
                type_url: response.type_url,
                response_nonce: response.nonce,
                error_detail: Some(RpcStatus {
                    code: 3,
                    message: TEXT.to_owned(),
                    ..RpcStatus::default()
                }),
                ..DeltaDiscoveryRequest::default()
            };
            if out.send(answer).await.is_err() {
                return;
            }
            let _ = rejected.try_send(());
        }
    });
    let told = tokio::time::timeout(PATIENCE, first.recv()).await?;
    ensure!(told.is_some(), "the stream ended before the first resource");
    Ok(())
}
