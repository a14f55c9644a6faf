//! A client's rejection counts for that client: hand-made clients with a pod's own certificate, beside real Envoys.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse,
};
use envoy_types::pb::google::rpc::Status as RpcStatus;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tonic::Streaming;

use crate::harness::{Fixture, Status};
use crate::strangers::{certificate, channel, id_in};
use crate::{programmed, split};

const TEXT: &str = "I do not like it";

const PODS: &str = "
apiVersion: v1
kind: Pod
metadata:
  name: evil-1
  namespace: evil
  annotations: {heddle.dev/standalone-app: NET.131, heddle.dev/standalone-upstreams: 'shop/reviews:9080=NET.61:9080'}
spec:
  serviceAccountName: evil
  containers: [{name: app, image: app}]
status: {phase: Running, podIP: NET.31, podIPs: [{ip: NET.31}], conditions: [{type: Ready, status: 'True'}]}
---
apiVersion: v1
kind: Pod
metadata:
  name: batch-1
  namespace: shop
  annotations: {heddle.dev/standalone-app: NET.132, heddle.dev/standalone-upstreams: 'shop/reviews:9080=NET.62:9080'}
spec:
  serviceAccountName: batch
  containers: [{name: app, image: app, ports: [{name: http, containerPort: 8080}]}]
status: {phase: Running, podIP: NET.32, podIPs: [{ip: NET.32}], conditions: [{type: Ready, status: 'True'}]}
---
apiVersion: v1
kind: Pod
metadata:
  name: batch-2
  namespace: shop
  annotations: {heddle.dev/standalone-app: NET.133, heddle.dev/standalone-upstreams: 'shop/reviews:9080=NET.63:9080'}
spec:
  serviceAccountName: batch
  containers: [{name: app, image: app, ports: [{name: http, containerPort: 8080}]}]
status: {phase: Running, podIP: NET.33, podIPs: [{ip: NET.33}], conditions: [{type: Ready, status: 'True'}]}
";

/// A client that acknowledges everything, until it is told to reject every resource of these types. Before each answer it rejects responses
/// that it never got, or has acknowledged.
struct Liar {
    rejects: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Liar {
    async fn join(mesh: &Fixture, pod: &str, account: &str) -> Self {
        let (namespace, name) = pod.split_once('/').unwrap();
        let token = mesh.token_of(namespace, name);
        let me = certificate(mesh, &token, &id_in(namespace, account)).await;
        let mut client =
            AggregatedDiscoveryServiceClient::new(channel(mesh, mesh.ads, Some(me)).await.unwrap());
        let (out, requests) = mpsc::channel(64);
        for (kind, names) in [
            ("cluster.v3.Cluster", &["*"][..]),
            ("listener.v3.Listener", &["*"]),
            (
                "route.v3.RouteConfiguration",
                &["out|shop/reviews|9080", "in|8080", "in|9080", "in|15020"],
            ),
        ] {
            let request = DeltaDiscoveryRequest {
                node: Some(Node {
                    id: pod.to_owned(),
                    ..Node::default()
                }),
                resource_names_subscribe: names.iter().map(|name| (*name).to_owned()).collect(),
                ..request(kind)
            };
            out.send(request).await.unwrap();
        }
        let requests = futures::stream::unfold(requests, |mut requests| async move {
            Some((requests.recv().await?, requests))
        });
        let responses = client.delta_aggregated_resources(requests).await.unwrap();
        let rejects = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn(answer(responses.into_inner(), out, Arc::clone(&rejects)));
        Self { rejects, task }
    }

    fn arm(&self) {
        self.rejects.store(true, Ordering::SeqCst);
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn request(kind: &str) -> DeltaDiscoveryRequest {
    let url = match kind.strip_prefix("type.googleapis.com/") {
        Some(_) => kind.to_owned(),
        None => format!("type.googleapis.com/envoy.config.{kind}"),
    };
    DeltaDiscoveryRequest {
        type_url: url,
        ..DeltaDiscoveryRequest::default()
    }
}

async fn answer(
    mut responses: Streaming<DeltaDiscoveryResponse>,
    out: mpsc::Sender<DeltaDiscoveryRequest>,
    rejects: Arc<AtomicBool>,
) {
    let mut before = "never sent".to_owned();
    while let Ok(Some(response)) = responses.message().await {
        let policy = ["RouteConfiguration", "Listener"];
        let rejected = rejects.load(Ordering::SeqCst)
            && policy.iter().any(|kind| response.type_url.ends_with(kind));
        // As Envoy does: it asks for the endpoints of the clusters that it has.
        let clusters = response.type_url.ends_with("Cluster");
        let names = response.resources.iter().filter(|_| clusters);
        let endpoints = DeltaDiscoveryRequest {
            resource_names_subscribe: names.map(|resource| resource.name.clone()).collect(),
            ..request("endpoint.v3.ClusterLoadAssignment")
        };
        let answer = DeltaDiscoveryRequest {
            response_nonce: response.nonce.clone(),
            error_detail: rejected.then(|| RpcStatus {
                code: 3,
                message: TEXT.to_owned(),
                ..RpcStatus::default()
            }),
            ..request(&response.type_url)
        };
        let forged = DeltaDiscoveryRequest {
            response_nonce: std::mem::replace(&mut before, response.nonce),
            error_detail: Some(RpcStatus {
                code: 3,
                message: TEXT.to_owned(),
                ..RpcStatus::default()
            }),
            ..request(&response.type_url)
        };
        let asks = !endpoints.resource_names_subscribe.is_empty();
        for request in [Some(forged), Some(answer), Some(endpoints).filter(|_| asks)] {
            let Some(request) = request else { continue };
            if out.send(request).await.is_err() {
                return;
            }
        }
    }
}

/// In force and acknowledged by all but the liars. The text of the liars is not in the status.
fn all_but(proxies: &str, generation: i64) -> impl Fn(&Status) -> bool {
    move |status| {
        status.generation == generation
            && status.proxies == proxies
            && status.programmed == ("False".to_owned(), "Pending".to_owned())
            && status.message.contains("own Envoy accepts it")
            && !status.message.contains(TEXT)
    }
}

pub fn decide_for_themselves_only(mesh: &Fixture) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    mesh.apply("liars.yaml", PODS);
    mesh.until_in_sync(&["shop/frontend-1", "shop/reviews-v1-1"]);
    runtime.block_on(async {
        // A pod of another namespace that merely calls the service, and two pods of one identity in the same namespace.
        let liars = [
            Liar::join(mesh, "evil/evil-1", "evil").await,
            Liar::join(mesh, "shop/batch-1", "batch").await,
            Liar::join(mesh, "shop/batch-2", "batch").await,
        ];
        mesh.apply("split.yaml", &split(60, 40));
        mesh.status("TrafficSplit", "reviews", programmed(1));
        // Not a rule for every caller: beside such a rule, Envoy gets no other Allow rule.
        mesh.apply("guard.yaml", &guard("from: {identities: [shop/frontend]}"));
        mesh.status("AuthPolicy", "guard", programmed(1));

        // Acknowledgements by liars do not keep an object in force that Envoy rejects.
        mesh.apply(
            "broken.yaml",
            &guard("to: {headers: [{name: x-tier, regex: '(gold'}]}").replace("guard", "broken"),
        );
        mesh.status("AuthPolicy", "broken", |status| {
            status.programmed.1 == "RejectedByProxy" && status.message.contains("(gold")
        });
        mesh.remove("broken.yaml", "AuthPolicy", "broken");
        liars.iter().for_each(Liar::arm);

        // Neither frozen ...
        mesh.apply("split.yaml", &split(0, 100));
        let status = mesh.status("TrafficSplit", "reviews", all_but("1/4", 2));
        assert_eq!(status.weights, "0/100");
        // ... nor weakened ...
        mesh.apply("guard.yaml", &guard("from: {identities: [shop/somebody]}"));
        let status = mesh.status("AuthPolicy", "guard", all_but("2/4", 2));
        assert!(
            status
                .enforced
                .1
                .contains("2 of 4 proxies reject generation 2"),
            "{status:?}"
        );
        mesh.apply("split.yaml", &split(100, 0));
        mesh.status("TrafficSplit", "reviews", all_but("1/4", 3));
        assert_eq!(mesh.requests(10).of("denied"), 10);
        // ... nor armed: a new policy that allows, which has no last good.
        mesh.remove("guard.yaml", "AuthPolicy", "guard");
        mesh.apply("fresh.yaml", &guard("").replace("guard", "fresh"));
        mesh.status("AuthPolicy", "fresh", all_but("2/4", 1));
        assert_eq!(mesh.requests(10).of("v1"), 10);
        mesh.remove("fresh.yaml", "AuthPolicy", "fresh");
    });
    takes_over_and_gives_back(mesh, &runtime);
}

fn guard(from: &str) -> String {
    format!(
        "
apiVersion: heddle.dev/v1alpha1
kind: AuthPolicy
metadata: {{name: guard, namespace: shop}}
spec: {{rules: [{{action: Allow, {from}}}]}}
"
    )
}

/// A second stream of a pod's identity ends. The pod's own Envoy has an open stream all the time, and counts again.
fn takes_over_and_gives_back(mesh: &Fixture, runtime: &tokio::runtime::Runtime) {
    runtime.block_on(async {
        let second = Liar::join(mesh, "shop/frontend-1", "frontend").await;
        second.arm();
        mesh.apply("split.yaml", &split(10, 90));
        mesh.status("TrafficSplit", "reviews", |status| {
            status.weights == "10/90" && status.message.contains("frontend-1 (rejects it")
        });
        drop(second);
    });
    let status = mesh.status("TrafficSplit", "reviews", |status| {
        status.weights == "10/90" && status.proxies.starts_with("1/")
    });
    assert!(!status.message.contains("frontend-1"), "{status:?}");
    mesh.until_in_sync(&["shop/frontend-1", "shop/reviews-v1-1"]);
}
