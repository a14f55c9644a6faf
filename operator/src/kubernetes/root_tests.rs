//! Tests of the root in its Secret.

use std::collections::BTreeMap;
use std::sync::Mutex;

use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Json, Response};
use serde_json::Value;

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);
const PODS: &str = "/api/v1/pods";
const WEBHOOK_PATH: &str =
    "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/heddle-injector";
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

/// The webhook outlives the namespace of the control plane, with its CA bundle; `heddle uninstall` deletes both.
#[tokio::test]
async fn a_mesh_has_a_new_root_after_its_uninstallation_and_none_while_the_webhook_is_left() {
    let server = Server::with(&[(PODS, earlier_pods(1))]);
    let old = server.open().await.ca();
    let bundle = json!(ByteString(old.trust_bundle().as_bytes().to_vec()));
    let webhook = json!({
        "metadata": {"name": WEBHOOK},
        "webhooks": [{"name": "inject.heddle.dev", "clientConfig": {"caBundle": bundle}}],
    });
    {
        let mut objects = server.objects.lock().unwrap();
        objects.insert(WEBHOOK_PATH.to_owned(), webhook);
        objects.retain(|path, _| !path.contains("/namespaces/heddle-system/"));
    }
    let (domain, metrics) = ("a".parse().unwrap(), Metrics::default());
    let lost = async {
        while metrics.root_lost.get() == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        _ = server.store().open(&domain, &metrics) => panic!("a root was made"),
        lost = tokio::time::timeout(PATIENCE, lost) => lost.unwrap(),
    }

    server.objects.lock().unwrap().remove(WEBHOOK_PATH);
    let new = server.open().await;
    assert!(new.opened.new);
    let fingerprint = new.ca().fingerprint().to_owned();
    assert_ne!(fingerprint, old.fingerprint());
    let remembered = server.objects.lock().unwrap()[MEMORY_PATH].clone();
    assert_eq!(remembered["data"][FINGERPRINT], *fingerprint);
    let reported = |server: &Server| {
        let events = server.events.lock().unwrap();
        let mut reasons = events.iter().map(|(reason, _)| reason);
        reasons.any(|reason| reason == "PodsTrustOtherRoot")
    };
    server.run(new, reported).await;
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
