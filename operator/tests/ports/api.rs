//! As much of an API server as the control plane needs to become ready.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures::StreamExt;
use heddle_policy_compiler::ObjectKind;
use serde_json::{Value, json};

/// The kinds that are watched, as plural, API version and kind: those of the compiler, and those of the control plane itself.
fn kinds() -> impl Iterator<Item = (&'static str, String, &'static str)> {
    let own = [("nodes", "Node"), ("configmaps", "ConfigMap")];
    let own = own.map(|(plural, kind)| (plural, "v1".to_owned(), kind));
    let compiled = ObjectKind::watched();
    compiled
        .map(|(kind, resource)| (resource.plural, resource.api_version(), kind.as_str()))
        .chain(own)
}

/// The server. It ends with the test's process.
pub struct Api {
    pub address: SocketAddr,
    /// TokenReviews that were answered.
    pub reviews: Arc<AtomicUsize>,
}

struct Answers {
    reviews: Arc<AtomicUsize>,
    review_takes: Duration,
}

impl Api {
    /// Starts a server with TokenReviews of this duration.
    pub fn start(review_takes: Duration) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let reviews = Arc::<AtomicUsize>::default();
        let answers = Arc::new(Answers {
            reviews: Arc::clone(&reviews),
            review_takes,
        });
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                let router = Router::new().fallback(answer).with_state(answers);
                axum::serve(listener, router).await.unwrap();
            });
        });
        Self { address, reviews }
    }
}

/// A service account token with these claims. The server accepts the signature `good` alone.
pub fn token(claims: &Value, signature: &str) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let header = part(&json!({"alg": "RS256", "typ": "JWT"}));
    format!("{header}.{}.{signature}", part(claims))
}

/// The claims of a token of the pod `shop/web-1`.
pub fn claims() -> Value {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    json!({
        "aud": ["heddle.dev"], "exp": now + 3600, "nbf": now - 60, "iat": now - 60,
        "sub": "system:serviceaccount:shop:web",
        "kubernetes.io": {"namespace": "shop", "pod": {"name": "web-1", "uid": "u-web"}},
    })
}

fn pod(namespace: &str, name: &str, uid: &str, account: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "uid": uid, "resourceVersion": "5"},
        "spec": {"serviceAccountName": account, "containers": [
            {"name": "app", "image": "x"}, {"name": "heddle-proxy", "image": "x"}]},
        "status": {"phase": "Running", "podIP": "10.1.1.1"},
    })
}

fn objects(plural: &str) -> Vec<Value> {
    match plural {
        "pods" => vec![
            pod("heddle-system", "op-0", "u-op", "heddle-operator"),
            pod("shop", "web-1", "u-web", "web"),
        ],
        "meshes" => vec![json!({
            "apiVersion": "heddle.dev/v1alpha1", "kind": "Mesh",
            "metadata": {"name": "default", "uid": "m", "generation": 1, "resourceVersion": "5"},
            "spec": {"trustDomain": "cluster.local"},
        })],
        _ => Vec::new(),
    }
}

async fn answer(State(answers): State<Arc<Answers>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let (path, query) = (
        head.uri.path().to_owned(),
        head.uri.query().unwrap_or_default(),
    );
    let plural = path.rsplit('/').next().unwrap_or_default();
    let kind = kinds().find(|(known, ..)| *known == plural);
    if head.method == Method::GET {
        return match kind {
            Some((_, version, kind)) if query.contains("watch=true") => {
                watch(plural, &version, kind, query.contains("sendInitialEvents"))
            }
            Some(_) => Json(json!({
                "kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "10"},
                "items": objects(plural),
            }))
            .into_response(),
            None => not_found(),
        };
    }
    let body = axum::body::to_bytes(Body::new(body), 1 << 20)
        .await
        .unwrap();
    let mut object: Value = serde_json::from_slice(&body).unwrap_or_else(|_| json!({}));
    if path.ends_with("/tokenreviews") {
        tokio::time::sleep(answers.review_takes).await;
        answers.reviews.fetch_add(1, Ordering::Relaxed);
        object["status"] = reviewed(object["spec"]["token"].as_str().unwrap());
    } else if path.ends_with("/subjectaccessreviews") {
        object["status"] = json!({"allowed": true});
    } else {
        let metadata = object["metadata"].as_object_mut();
        if metadata.is_none_or(|metadata| !metadata.contains_key("name")) {
            object["metadata"]["name"] = plural.into();
        }
        object["metadata"]["resourceVersion"] = "11".into();
    }
    (StatusCode::CREATED, Json(object)).into_response()
}

fn watch(plural: &str, version: &str, kind: &str, with_initial: bool) -> Response {
    let mut events = Vec::new();
    if with_initial {
        events.extend(objects(plural).into_iter().map(|object| ("ADDED", object)));
        events.push((
            "BOOKMARK",
            json!({"apiVersion": version, "kind": kind, "spec": {}, "metadata": {
                "resourceVersion": "10", "annotations": {"k8s.io/initial-events-end": "true"}}}),
        ));
    }
    let lines = events.into_iter().map(|(event, object)| {
        let line = json!({"type": event, "object": object});
        Ok::<_, std::io::Error>(Bytes::from(format!("{line}\n")))
    });
    let endless = futures::stream::iter(lines).chain(futures::stream::pending());
    Body::from_stream(endless).into_response()
}

fn reviewed(token: &str) -> Value {
    if !token.ends_with(".good") {
        return json!({"authenticated": false, "error": "bad"});
    }
    json!({"authenticated": true, "audiences": ["heddle.dev"], "user": {
        "username": "system:serviceaccount:shop:web", "groups": [], "extra": {
            "authentication.kubernetes.io/pod-name": ["web-1"],
            "authentication.kubernetes.io/pod-uid": ["u-web"],
        },
    }})
}

fn not_found() -> Response {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
        "reason": "NotFound", "code": 404, "message": "not found"});
    (StatusCode::NOT_FOUND, Json(status)).into_response()
}
