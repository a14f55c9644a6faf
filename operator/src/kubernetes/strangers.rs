//! Pods with a sidecar that trusts another root: the pods of an earlier mesh, after its root was lost or `heddle uninstall` removed it.

use heddle_identity::fingerprint_of;
use heddle_policy_compiler::injection::{names, trust_bundle};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};

use super::{CallError, call};

/// Pods in one response of the API server, which the operator holds in memory.
const PAGE: u32 = 200;
/// Responses of one listing: 10,000 pods.
const PAGES: usize = 50;
/// Pods that a message names.
const NAMED: usize = 10;

/// Pods with a sidecar that trusts another root, in the order of their namespaces and names.
#[derive(Debug, Default)]
pub(super) struct Strangers {
    /// The first [`NAMED`] pods.
    named: Vec<String>,
    count: usize,
    /// The mesh has more pods than a listing reads.
    partial: bool,
}

impl Strangers {
    /// Lists the pods with a sidecar that trusts another root than the one with this fingerprint.
    ///
    /// # Errors
    /// When a response of the API server is missing or late.
    pub(super) async fn list(pods: &Api<Pod>, root: &str) -> Result<Self, CallError> {
        let mut strangers = Self::default();
        let mut params = ListParams::default().labels(names::MESHED).limit(PAGE);
        for _ in 0..PAGES {
            let page = call(pods.list(&params)).await?;
            for pod in &page.items {
                strangers.add(pod, root);
            }
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(strangers),
            }
        }
        strangers.partial = true;
        Ok(strangers)
    }

    fn add(&mut self, pod: &Pod, root: &str) {
        let trusted = trust_bundle(pod).and_then(|bundle| fingerprint_of(bundle.as_bytes()));
        if trusted.is_none_or(|trusted| trusted == root) {
            return;
        }
        self.count += 1;
        if self.named.len() < NAMED {
            let text = |part: &Option<String>| part.clone().unwrap_or_default();
            let (namespace, name) = (&pod.metadata.namespace, &pod.metadata.name);
            self.named
                .push(format!("{}/{}", text(namespace), text(name)));
        }
    }

    /// Returns the warning about these pods, with the fix before the names; `None` if there are none.
    pub(super) fn warning(&self, root: &str) -> Option<String> {
        let count = match (self.count, self.partial) {
            (0, _) => return None,
            (1, false) => "1 pod".to_owned(),
            (count, false) => format!("{count} pods"),
            (count, true) => format!("at least {count} pods"),
        };
        let more = match self.count - self.named.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        Some(format!(
            "the root certificate (SHA-256 {root:.16}) is new, and {count} of an earlier mesh trust another root: their sidecars get no \
             configuration, and mutual TLS with them fails; restart them (kubectl -n NAMESPACE rollout restart \
             deployment,statefulset,daemonset): {}{more}",
            self.named.join(", ")
        ))
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use axum::extract::RawQuery;
    use axum::response::Json;
    use axum::routing::get;
    use heddle_identity::Ca;
    use kube::Client;
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, bundle: &str, phase: &str) -> Value {
        let env = json!([{"name": "HEDDLE_TRUST_BUNDLE", "value": bundle}]);
        json!({
            "metadata": {"namespace": "shop", "name": name}, "status": {"phase": phase},
            "spec": {"containers": [{"name": "app"}], "initContainers": [{"name": names::PROXY, "env": env}]},
        })
    }

    fn list(pods: &[Value], next: &str) -> Json<Value> {
        Json(
            json!({"kind": "PodList", "apiVersion": "v1", "metadata": {"continue": next}, "items": pods}),
        )
    }

    fn root() -> Ca {
        Ca::create(&"a".parse().unwrap(), SystemTime::now())
            .unwrap()
            .0
    }

    #[tokio::test]
    async fn running_pods_with_another_root_are_counted_on_every_page() {
        let (old, new) = (root(), root());
        let bundle = old.trust_bundle();
        let first: Vec<Value> = (0..NAMED)
            .map(|n| pod(&n.to_string(), bundle, "Running"))
            .collect();
        let unmeshed = json!({"metadata": {"name": "plain"}, "spec": {"containers": []}});
        let second = [
            pod("old", bundle, "Pending"),
            pod("new", new.trust_bundle(), "Running"),
            pod("job", bundle, "Succeeded"),
            pod("odd", "none", "Running"),
            unmeshed,
        ];
        let answer = async move |RawQuery(query): RawQuery| {
            let query = query.unwrap();
            assert!(query.contains("limit=200"), "{query}");
            assert!(
                query.contains("labelSelector=heddle.dev%2Fmeshed"),
                "{query}"
            );
            match query.contains("continue=next") {
                false => list(&first, "next"),
                true => list(&second, ""),
            }
        };
        let router = axum::Router::new().route("/api/v1/pods", get(answer));
        let pods = Api::all(Client::new(router, "default"));
        let strangers = Strangers::list(&pods, new.fingerprint()).await.unwrap();
        let warning = strangers.warning(new.fingerprint()).unwrap();
        assert!(
            warning.contains("11 pods") && warning.contains("kubectl"),
            "{warning}"
        );
        assert!(
            warning.contains(": shop/0, shop/1") && warning.ends_with(" and 1 more"),
            "{warning}"
        );
    }

    #[tokio::test]
    async fn a_listing_without_an_end_is_cut() {
        let old = root();
        let page = [pod("web", old.trust_bundle(), "Running")];
        let answer = async move || list(&page, "next");
        let router = axum::Router::new().route("/api/v1/pods", get(answer));
        let pods = Api::all(Client::new(router, "default"));
        let strangers = Strangers::list(&pods, "another").await.unwrap();
        let warning = strangers.warning("another").unwrap();
        assert!(warning.contains("at least 50 pods"), "{warning}");
        let none = Strangers::list(&pods, old.fingerprint()).await.unwrap();
        assert_eq!(none.warning(old.fingerprint()), None);
    }
}
