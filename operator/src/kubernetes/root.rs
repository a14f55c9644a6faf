//! The root in the Secret `heddle-ca`: created by whichever replica is first, read by all, and restored by a running one. Its fingerprint is in the
//! ConfigMap `heddle-root` too, so that a deleted Secret is told from a mesh that has no root yet.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use heddle_identity::{Ca, Created, Kept, OpenError, Opened, RootPem, RootStore, TrustDomain};
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::{ConfigMap, ObjectReference, Pod, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::runtime::events::{Event, EventType, Recorder};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::events::{recorder, shortened};
use super::strangers::Strangers;
use super::{CallError, NAMESPACE, call};
use crate::metrics::Metrics;
use crate::tasks::{Ended, chain};

const NAME: &str = "heddle-ca";
const CERTIFICATES: &str = "ca.crt";
const KEY: &str = "ca.key";
/// The ConfigMap that remembers the root.
const MEMORY: &str = "heddle-root";
const FINGERPRINT: &str = "fingerprint";
const WEBHOOK: &str = "heddle-injector";
/// Between two looks at the Secret.
const PERIOD: Duration = Duration::from_secs(10);
/// Between attempts to open the root.
const RETRY: Duration = Duration::from_secs(2);
/// A root that stays lost is logged again after so many attempts.
const REPEAT: u32 = 30;

/// Why the root cannot be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The API server.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The content of the Secret.
    #[error("Secret {NAMESPACE}/{NAME}: `{0}` is missing or is not text")]
    Content(&'static str),
}

#[derive(Clone)]
pub(super) struct SecretRoot {
    secrets: Api<Secret>,
    memory: Api<ConfigMap>,
    webhooks: Api<MutatingWebhookConfiguration>,
    pods: Api<Pod>,
    recorder: Recorder,
}

impl SecretRoot {
    pub(super) fn new(client: &Client, pod: &str) -> Self {
        Self {
            secrets: Api::namespaced(client.clone(), NAMESPACE),
            memory: Api::namespaced(client.clone(), NAMESPACE),
            webhooks: Api::all(client.clone()),
            pods: Api::all(client.clone()),
            recorder: recorder(client.clone(), pod),
        }
    }

    /// Opens the root as soon as the API server gives it. While the mesh's root is lost, no certificate is issued, and each attempt waits for its
    /// restoration; a stored root that is unusable ends the start.
    pub(super) async fn open(
        self,
        trust_domain: &TrustDomain,
        metrics: &Metrics,
    ) -> Result<RootKeeper, OpenError<SecretError>> {
        let mut attempt = 0;
        loop {
            match heddle_identity::open(&self, trust_domain, SystemTime::now()).await {
                Err(OpenError::Store(SecretError::Call(error))) => {
                    tracing::error!(
                        error = chain(&error),
                        "reading or storing the root failed; trying again"
                    );
                }
                Err(error @ (OpenError::Lost { .. } | OpenError::Replaced { .. })) => {
                    metrics.root_lost.set(1);
                    if attempt % REPEAT == 0 {
                        self.lost(&error.to_string()).await;
                    }
                    attempt += 1;
                }
                result => {
                    metrics.root_lost.set(0);
                    let (opened, store) = (result?, self);
                    metrics.root_ends(opened.ca.not_after());
                    return Ok(RootKeeper { store, opened });
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Reports a lost root in the log and as an Event of the Secret.
    async fn lost(&self, what: &str) {
        let fix = "restore it with `heddle ca restore FILE`; without a backup `heddle ca reset` makes a new one, and every pod of \
                   the mesh must be restarted";
        tracing::error!("no certificate can be issued: {what}; {fix}");
        self.publish("RootLost", format!("{what}; {fix}")).await;
    }

    /// Reports running pods with a sidecar that trusts another root than this new one, in the log and as an Event of the Secret. A failure
    /// is logged: `heddle check` reports these pods, too.
    async fn report_strangers(&self, root: &str) {
        match Strangers::list(&self.pods, root).await {
            Ok(strangers) => {
                let Some(warning) = strangers.warning(root) else {
                    return;
                };
                tracing::warn!("{warning}");
                self.publish("PodsTrustOtherRoot", warning).await;
            }
            Err(error) => tracing::warn!(
                error = chain(&error),
                "listing the pods of the mesh failed; the root certificate is new, and pods of an earlier mesh must be restarted: \
                 `heddle check` names them"
            ),
        }
    }

    /// Publishes a warning as an Event of the Secret.
    async fn publish(&self, reason: &str, note: String) {
        let event = Event {
            type_: EventType::Warning,
            reason: reason.to_owned(),
            note: Some(shortened(note)),
            action: "Issue".to_owned(),
            secondary: None,
        };
        let reference = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Secret".to_owned()),
            name: Some(NAME.to_owned()),
            namespace: Some(NAMESPACE.to_owned()),
            ..ObjectReference::default()
        };
        if let Err(error) = call(self.recorder.publish(&event, &reference)).await {
            tracing::warn!(error = chain(&error), "publishing an Event failed");
        }
    }
}

/// The root in use, and its Secret.
pub(super) struct RootKeeper {
    store: SecretRoot,
    opened: Opened,
}

impl RootKeeper {
    /// The CA of the root.
    pub(super) fn ca(&self) -> Arc<Ca> {
        Arc::clone(&self.opened.ca)
    }

    /// Restores the Secret of a running replica whenever it is gone, and reports pods of an earlier mesh if the root is new.
    pub(super) async fn run(self, metrics: Arc<Metrics>, stop: CancellationToken) -> Ended {
        let report = async {
            if self.opened.new {
                let root = self.opened.ca.fingerprint();
                stop.run_until_cancelled(self.store.report_strangers(root))
                    .await;
            }
        };
        // At the same time, because neither waits for a list of all pods.
        let (ended, ()) = tokio::join!(self.keep(&metrics, &stop), report);
        ended
    }

    async fn keep(&self, metrics: &Metrics, stop: &CancellationToken) -> Ended {
        let Self { store, opened } = self;
        let mut before = Kept::There;
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(PERIOD) => {}
            }
            let kept = match heddle_identity::keep(store, opened, SystemTime::now()).await {
                Ok(kept) => kept,
                Err(OpenError::Store(error @ SecretError::Content(_))) => {
                    Kept::Broken(error.to_string())
                }
                Err(error) => {
                    tracing::error!(
                        error = chain(&error),
                        "checking the root failed; trying again"
                    );
                    continue;
                }
            };
            metrics.root_lost.set(i64::from(matches!(
                kept,
                Kept::Replaced(_) | Kept::Broken(_)
            )));
            match &kept {
                Kept::There => {}
                Kept::Restored => tracing::warn!(
                    root = opened.ca.fingerprint(),
                    "Secret {NAMESPACE}/{NAME} was gone; restored it from memory"
                ),
                Kept::Replaced(found) if kept != before => {
                    let message = format!(
                        "Secret {NAMESPACE}/{NAME} holds another root (SHA-256 {found}) than the one in use (SHA-256 {})",
                        opened.ca.fingerprint()
                    );
                    store.lost(&message).await;
                }
                Kept::Broken(why) if kept != before => {
                    let message = format!("Secret {NAMESPACE}/{NAME} is not usable: {why}");
                    store.lost(&message).await;
                }
                Kept::Replaced(_) | Kept::Broken(_) => {}
            }
            before = kept;
        }
    }
}

impl RootStore for SecretRoot {
    type Error = SecretError;

    async fn load(&self) -> Result<Option<RootPem>, SecretError> {
        // `get`, not `list`: the right to read is for this one name.
        let secret = match call(self.secrets.get_opt(NAME)).await? {
            Some(secret) => secret,
            None => return Ok(None),
        };
        let data = secret.data.unwrap_or_default();
        let text = |key: &'static str| {
            let bytes = data.get(key).ok_or(SecretError::Content(key))?;
            String::from_utf8(bytes.0.clone()).map_err(|_| SecretError::Content(key))
        };
        Ok(Some(RootPem {
            certificates: text(CERTIFICATES)?,
            private_key: text(KEY)?,
        }))
    }

    async fn create(&self, root: &RootPem) -> Result<Created, SecretError> {
        let bytes = |text: &String| ByteString(text.clone().into_bytes());
        let data = [
            (CERTIFICATES.to_owned(), bytes(&root.certificates)),
            (KEY.to_owned(), bytes(&root.private_key)),
        ];
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(NAME.to_owned()),
                ..ObjectMeta::default()
            },
            data: Some(data.into()),
            ..Secret::default()
        };
        match call(self.secrets.create(&PostParams::default(), &secret)).await {
            Ok(_) => Ok(Created::Yes),
            Err(error) if error.code() == Some(409) => Ok(Created::AlreadyThere),
            Err(error) => Err(error.into()),
        }
    }

    /// The ConfigMap, or where that is gone too the CA bundle of the webhook, which the mesh's root signed.
    async fn remembered(&self) -> Result<Option<String>, SecretError> {
        let memory = call(self.memory.get_opt(MEMORY)).await?;
        let data = memory.and_then(|memory| memory.data).unwrap_or_default();
        if let Some(fingerprint) = data.get(FINGERPRINT) {
            return Ok(Some(fingerprint.clone()));
        }
        let webhook = call(self.webhooks.get_opt(WEBHOOK)).await?;
        let bundles = webhook
            .and_then(|webhook| webhook.webhooks)
            .unwrap_or_default();
        let mut bundles = bundles
            .iter()
            .filter_map(|webhook| webhook.client_config.ca_bundle.as_ref());
        Ok(bundles.find_map(|bundle| heddle_identity::fingerprint_of(&bundle.0)))
    }

    async fn remember(&self, ca: &Ca) -> Result<(), SecretError> {
        let body = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": MEMORY, "namespace": NAMESPACE},
            "data": {FINGERPRINT: ca.fingerprint(), CERTIFICATES: ca.trust_bundle()},
        });
        let params = PatchParams::apply("heddle-operator-root").force();
        call(self.memory.patch(MEMORY, &params, &Patch::Apply(body))).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    use axum::extract::{Request, State};
    use axum::http::{Method, StatusCode};
    use axum::response::{IntoResponse, Json, Response};
    use serde_json::Value;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);
    const PODS: &str = "/api/v1/pods";
    const MEMORY_PATH: &str = "/api/v1/namespaces/heddle-system/configmaps/heddle-root";

    /// An API server: its objects by path, and the reasons of its Events with their notes.
    #[derive(Clone, Default)]
    struct Server {
        objects: Arc<Mutex<BTreeMap<String, Value>>>,
        events: Arc<Mutex<Vec<(String, String)>>>,
        /// The number of times that the list of pods was asked for.
        lists: Arc<Mutex<usize>>,
    }

    impl Server {
        fn with(objects: &[(&str, Value)]) -> Self {
            let server = Self::default();
            let objects = objects.iter().cloned();
            let objects = objects.map(|(path, object)| (path.to_owned(), object));
            server.objects.lock().unwrap().extend(objects);
            server
        }

        fn store(&self) -> SecretRoot {
            let router = axum::Router::new()
                .fallback(answer)
                .with_state(self.clone());
            SecretRoot::new(&Client::new(router, "default"), "operator-1")
        }

        async fn open(&self) -> RootKeeper {
            let store = self.store();
            let (domain, metrics) = ("a".parse().unwrap(), Metrics::default());
            let opening = store.open(&domain, &metrics);
            let opened = tokio::time::timeout(PATIENCE, opening).await;
            let opened = opened.expect("the API server answers");
            opened.map_err(|error| error.to_string()).unwrap()
        }

        /// Runs the keeper until a condition holds.
        async fn run(&self, root: RootKeeper, until: impl Fn(&Self) -> bool) {
            let stop = CancellationToken::new();
            let task = tokio::spawn(root.run(Arc::default(), stop.clone()));
            let waiting = async {
                while !until(self) {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(PATIENCE, waiting).await.unwrap();
            stop.cancel();
            let ended = tokio::time::timeout(PATIENCE, task).await;
            ended.unwrap().unwrap().unwrap();
        }
    }

    async fn answer(State(server): State<Server>, request: Request) -> Response {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let body = axum::body::to_bytes(request.into_body(), usize::MAX).await;
        let object: Value = serde_json::from_slice(&body.unwrap()).unwrap_or_default();
        if path.ends_with("/events") {
            let text = |key: &str| object[key].as_str().unwrap().to_owned();
            let event = (text("reason"), text("note"));
            server.events.lock().unwrap().push(event);
            return Json(object).into_response();
        }
        let mut objects = server.objects.lock().unwrap();
        *server.lists.lock().unwrap() += usize::from(path == PODS);
        if method == Method::GET {
            let status =
                json!({"kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound"});
            return match objects.get(&path) {
                Some(object) => Json(object).into_response(),
                None => (StatusCode::NOT_FOUND, Json(status)).into_response(),
            };
        }
        let name = object["metadata"]["name"].as_str().unwrap();
        let place = match method == Method::POST {
            true => format!("{path}/{name}"),
            false => path,
        };
        objects.insert(place, object.clone());
        Json(object).into_response()
    }

    /// A list of pods of an earlier mesh, with the longest names that Kubernetes takes.
    fn earlier_pods(count: usize) -> Value {
        let (old, _) = Ca::create(&"a".parse().unwrap(), SystemTime::now()).unwrap();
        let env = json!([{"name": "HEDDLE_TRUST_BUNDLE", "value": old.trust_bundle()}]);
        let pod = json!({
            "metadata": {"namespace": "n".repeat(63), "name": "p".repeat(253)},
            "spec": {"containers": [{"name": "heddle-proxy", "env": env}]},
        });
        json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": vec![pod; count]})
    }

    #[tokio::test]
    async fn a_new_root_is_reported_once_where_pods_trust_another_one() {
        let server = Server::with(&[(PODS, earlier_pods(12))]);
        let root = server.open().await;
        let reported = |server: &Server| !server.events.lock().unwrap().is_empty();
        server.run(root, reported).await;
        let events = server.events.lock().unwrap().clone();
        let [(reason, note)] = &events[..] else {
            panic!("{events:?}");
        };
        assert_eq!(reason, "PodsTrustOtherRoot");
        assert!(
            note.contains("12 pods") && note.contains("rollout restart"),
            "{note}"
        );
        assert!(note.len() <= 1024, "the API takes no longer note");

        // The next start finds the root that the mesh remembers.
        assert!(!server.open().await.opened.new);
    }

    #[tokio::test]
    async fn a_lost_root_is_in_the_metric_and_an_event() {
        let server = Server::default();
        server.open().await;
        let is_secret = |path: &str| path.contains("/secrets/");
        server
            .objects
            .lock()
            .unwrap()
            .retain(|path, _| !is_secret(path));
        let (domain, metrics) = ("a".parse().unwrap(), Metrics::default());
        let reported = async {
            while server.events.lock().unwrap().is_empty() {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            _ = server.store().open(&domain, &metrics) => panic!("a root was made"),
            reported = tokio::time::timeout(PATIENCE, reported) => reported.unwrap(),
        }
        assert_eq!(metrics.root_lost.get(), 1);
        let events = server.events.lock().unwrap().clone();
        let [(reason, note)] = &events[..] else {
            panic!("{events:?}");
        };
        assert_eq!(reason, "RootLost");
        assert!(note.contains("heddle ca restore FILE"), "{note}");
        let objects = server.objects.lock().unwrap();
        assert!(
            !objects.keys().any(|path| is_secret(path)),
            "a root was made"
        );
    }

    #[tokio::test]
    async fn a_failed_list_of_pods_is_no_event_and_stops_nothing() {
        let server = Server::default();
        let root = server.open().await;
        assert!(root.opened.new);
        let remembered = server.objects.lock().unwrap()[MEMORY_PATH].clone();
        let fingerprint = root.ca().fingerprint().to_owned();
        assert_eq!(remembered["data"][FINGERPRINT], *fingerprint);
        root.store.report_strangers(&fingerprint).await;
        assert_eq!(*server.lists.lock().unwrap(), 1);
        assert_eq!(*server.events.lock().unwrap(), []);
        server
            .run(root, |server| *server.lists.lock().unwrap() == 2)
            .await;
    }
}
