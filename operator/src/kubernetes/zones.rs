//! The zones of nodes: the label `topology.kubernetes.io/zone`.

use std::sync::Arc;
use std::time::Duration;

use heddle_acceptor::LogLimit;
use k8s_openapi::api::core::v1::Node;
use kube::Client;
use kube::api::Api;

use super::recent::Recent;
use crate::tasks::chain;

const LABEL: &str = "topology.kubernetes.io/zone";
/// The zone of a node does not change; the label of a new one may come a moment after it.
const KEPT_FOR: Duration = Duration::from_secs(60);
/// For this time after a failure the node is not asked for again: each pod that starts would wait for it.
const FAILED_FOR: Duration = Duration::from_secs(10);
/// Kubernetes is made for clusters of 5,000 nodes.
const MAX_KEPT: usize = 5_000;
/// A pod that starts waits no longer.
const PATIENCE: Duration = Duration::from_secs(2);

pub(super) struct Zones {
    nodes: Api<Node>,
    known: Recent<Arc<str>, Option<Arc<str>>>,
    failed: Recent<Arc<str>, ()>,
    lines: LogLimit,
}

impl Zones {
    pub(super) fn new(client: &Client) -> Self {
        Self {
            nodes: Api::all(client.clone()),
            known: Recent::new(KEPT_FOR, MAX_KEPT),
            failed: Recent::new(FAILED_FOR, MAX_KEPT),
            lines: LogLimit::default(),
        }
    }

    /// The zone of a node. None where the API server does not tell: a certificate does not wait for it.
    pub(super) async fn of(&self, node: &Arc<str>) -> Option<Arc<str>> {
        if let Some(known) = self.known.get(node) {
            return known;
        }
        if self.failed.get(node).is_some() {
            return None;
        }
        let asked = tokio::time::timeout(PATIENCE, self.nodes.get_metadata(node)).await;
        match asked {
            Ok(Ok(found)) => {
                let zone = found.metadata.labels.unwrap_or_default().remove(LABEL);
                let zone: Option<Arc<str>> = zone.map(Into::into);
                self.known.insert(Arc::clone(node), zone.clone());
                zone
            }
            Ok(Err(error)) => self.unknown(node, &chain(&error)),
            Err(_) => self.unknown(node, "the API server did not answer within 2 s"),
        }
    }

    fn unknown(&self, node: &Arc<str>, error: &str) -> Option<Arc<str>> {
        self.failed.insert(Arc::clone(node), ());
        if let Some(suppressed) = self.lines.allow() {
            tracing::warn!(
                %node,
                error,
                suppressed,
                "the zone of a node is not known: its new sidecars prefer none"
            );
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use kube::client::Body;
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn a_node_is_asked_for_once_also_after_an_error() {
        let calls = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&calls);
        let answer = move |request: http::Request<Body>| {
            counted.fetch_add(1, Ordering::SeqCst);
            let name = request.uri().path().rsplit('/').next().unwrap_or_default();
            let labels = match name {
                "far" => json!({LABEL: "zone-a"}),
                _ => json!({}),
            };
            let node = json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
                "metadata": {"name": name, "labels": labels}});
            let status = if name == "gone" { 404 } else { 200 };
            let body = Body::from(node.to_string().into_bytes());
            let response = http::Response::builder().status(status).body(body);
            async { response }
        };
        let zones = Zones::new(&Client::new(tower::service_fn(answer), "default"));
        for _ in 0..3 {
            assert_eq!(zones.of(&"far".into()).await, Some("zone-a".into()));
            assert_eq!(zones.of(&"bare".into()).await, None);
        }
        assert_eq!(calls.load(Ordering::SeqCst), 2);
        assert_eq!(zones.of(&"gone".into()).await, None);
        assert_eq!(zones.of(&"gone".into()).await, None);
        assert_eq!(calls.load(Ordering::SeqCst), 3);
    }
}
