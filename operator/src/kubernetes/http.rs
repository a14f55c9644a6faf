//! Plain health on 15021; metrics, proxy states, traffic and taps on 15014, over TLS and by the caller's rights.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, FromRequest, Request, State};
use axum::http::{StatusCode, Uri, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use heddle_acceptor::Link;
use heddle_policy_compiler::world::is_namespace_name;
use heddle_xds_types::api::Endpoint;
use heddle_xds_types::tap::TapRequest;
use tokio::sync::watch;

use super::authorize::{Access, Authorizer, Right};
use crate::certificates::Certificates;
use crate::edges::{DEFAULT_WINDOW, EdgeStore, LONGEST_WINDOW};
use crate::issuing::source_of;
use crate::metrics::Metrics;
use crate::metrics_api;
use crate::serving::MeshSource;
use crate::status::Shown;
use crate::tap_api::{self, MAX_BODY};
use crate::withdrawals::Withdrawals;

const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);

/// Answers only whether the process lives, and whether it serves.
pub(super) fn health(ready: watch::Receiver<bool>) -> Router {
    let readiness = move || async move {
        if *ready.borrow() {
            (StatusCode::OK, "ok\n")
        } else {
            (StatusCode::SERVICE_UNAVAILABLE, "not yet\n")
        }
    };
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readiness))
}

/// Answers authorized callers.
pub(super) struct Admin {
    pub(super) metrics: Arc<Metrics>,
    pub(super) shown: Arc<Shown>,
    pub(super) edges: Arc<EdgeStore>,
    pub(super) certificates: Arc<Certificates>,
    pub(super) withdrawals: Arc<Withdrawals>,
    pub(super) mesh: Arc<MeshSource>,
    pub(super) authorizer: Authorizer,
}

pub(super) fn admin(admin: Arc<Admin>) -> Router {
    let (mut reads, mut taps) = (Router::new(), Router::new());
    for endpoint in Endpoint::ALL {
        let handler = match endpoint {
            Endpoint::Proxies => get(proxies),
            Endpoint::Edges => get(edges),
            Endpoint::Receipts => get(receipts),
            Endpoint::Metrics => get(metrics),
            Endpoint::Tap => {
                taps = taps.route(endpoint.path(), post(tap));
                continue;
            }
        };
        if let Some(earlier) = endpoint.earlier_path() {
            reads = reads.route(earlier, handler.clone());
        }
        reads = reads.route(endpoint.path(), handler);
    }
    reads
        // Not for other paths: each would be a question of its own to the API server.
        .route_layer(from_fn_with_state(Arc::clone(&admin), authorize))
        .merge(taps.layer(DefaultBodyLimit::max(MAX_BODY)))
        .with_state(admin)
}

async fn authorize(State(admin): State<Arc<Admin>>, request: Request, next: Next) -> Response {
    let Some(right) = Endpoint::right_of(request.uri().path()) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let caller = match Caller::of(&request) {
        Ok(caller) => caller,
        Err(answer) => return *answer,
    };
    match refusal(&admin, &caller, &Right::Path(right.to_owned())).await {
        None => next.run(request).await,
        Some(refusal) => refusal,
    }
}

/// A caller, by its token and its address.
struct Caller {
    token: String,
    source: IpAddr,
}

impl Caller {
    /// Reads the headers of a request; the error is the answer to one without a token.
    fn of(request: &Request) -> Result<Self, Box<Response>> {
        let header = request
            .headers()
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok());
        let Some(token) = header
            .and_then(|value| value.strip_prefix("Bearer "))
            .map(str::trim)
            .filter(|token| token.len() < 16 * 1024)
        else {
            let text = "a Kubernetes token is needed: Authorization: Bearer <token>\n";
            return Err(Box::new((StatusCode::UNAUTHORIZED, text).into_response()));
        };
        let link = request.extensions().get::<Arc<Link>>();
        Ok(Self {
            token: token.to_owned(),
            source: source_of(link.map(|link| &**link)),
        })
    }
}

/// The answer to a caller that has not got the right.
async fn refusal(admin: &Admin, caller: &Caller, right: &Right) -> Option<Response> {
    let judged = admin.authorizer.judge(&caller.token, caller.source, right);
    let answer = async {
        match judged.await {
            Access::Granted => None,
            Access::Unknown => Some((
                StatusCode::UNAUTHORIZED,
                "the API server does not know this token\n".to_owned(),
            )),
            Access::Forbidden => Some((
                StatusCode::FORBIDDEN,
                format!("the right {right} is missing\n"),
            )),
            Access::Unavailable => Some((
                StatusCode::SERVICE_UNAVAILABLE,
                "the API server does not answer, or you ask too often: try again\n".to_owned(),
            )),
        }
    };
    match tokio::time::timeout(REQUEST_TIMEOUT, answer).await {
        Ok(refusal) => refusal.map(IntoResponse::into_response),
        Err(_) => Some(StatusCode::SERVICE_UNAVAILABLE.into_response()),
    }
}

/// A tap (docs/tap.md). The right depends on the namespace in the body, and every request is judged.
async fn tap(State(admin): State<Arc<Admin>>, request: Request) -> Response {
    let caller = match Caller::of(&request) {
        Ok(caller) => caller,
        Err(answer) => return *answer,
    };
    let Json(asked) = match Json::<TapRequest>::from_request(request, &()).await {
        Ok(asked) => asked,
        Err(error) => return error.into_response(),
    };
    // Each other text would be a question of its own to the API server.
    if !is_namespace_name(&asked.namespace) {
        return (
            StatusCode::BAD_REQUEST,
            "that is not the name of a namespace\n",
        )
            .into_response();
    }
    match refusal(&admin, &caller, &Right::Tap(asked.namespace.clone())).await {
        None => tap_api::answer(&admin.mesh, &asked).await,
        Some(refusal) => refusal,
    }
}

async fn metrics(State(admin): State<Arc<Admin>>) -> Response {
    metrics_api::answer(&admin.metrics)
}

async fn proxies(State(admin): State<Arc<Admin>>) -> Response {
    Json(admin.shown.states(&admin.certificates)).into_response()
}

/// The traffic of edges, over `?window=SECONDS` (docs/live-graph.md).
async fn edges(State(admin): State<Arc<Admin>>, uri: Uri) -> Response {
    match window(uri.query()) {
        Some(window) => Json(admin.edges.report(window)).into_response(),
        None => {
            let text = format!(
                "the query is not window=SECONDS; use a number from 5 to {LONGEST_WINDOW}\n"
            );
            (StatusCode::BAD_REQUEST, text).into_response()
        }
    }
}

/// The ends of pods in the last quarter of an hour (docs/rollouts.md).
async fn receipts(State(admin): State<Arc<Admin>>) -> Response {
    Json(admin.withdrawals.report()).into_response()
}

fn window(query: Option<&str>) -> Option<u64> {
    let Some(query) = query.filter(|query| !query.is_empty()) else {
        return Some(DEFAULT_WINDOW);
    };
    let seconds = query.strip_prefix("window=")?.parse().ok()?;
    (5..=LONGEST_WINDOW).contains(&seconds).then_some(seconds)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::body::Body;
    use kube::Client;
    use tower::ServiceExt;

    use super::*;

    #[tokio::test]
    async fn only_known_paths_are_asked_about() {
        let calls = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&calls);
        let answer = move |_: axum::http::Request<kube::client::Body>| {
            counted.fetch_add(1, Ordering::SeqCst);
            async {
                Err::<axum::http::Response<kube::client::Body>, _>(std::io::Error::other("away"))
            }
        };
        let client = Client::new(tower::service_fn(answer), "heddle-system");
        let router = router(&client);
        for (path, expected, asked) in [
            ("/x1", StatusCode::NOT_FOUND, false),
            ("/metrics/", StatusCode::NOT_FOUND, false),
            ("/%6detrics", StatusCode::NOT_FOUND, false),
            ("/metrics", StatusCode::SERVICE_UNAVAILABLE, true),
            ("/debug/proxies?x=1", StatusCode::SERVICE_UNAVAILABLE, true),
            ("/api/v1/proxies", StatusCode::SERVICE_UNAVAILABLE, true),
            (
                "/api/v1/edges?window=30",
                StatusCode::SERVICE_UNAVAILABLE,
                true,
            ),
            ("/api/v2/edges", StatusCode::NOT_FOUND, false),
            ("/api/v1/receipts", StatusCode::SERVICE_UNAVAILABLE, true),
        ] {
            let before = calls.load(Ordering::SeqCst);
            let request = Request::get(path).header(header::AUTHORIZATION, "Bearer valid");
            let request = request.body(Body::empty()).unwrap();
            let response = router.clone().oneshot(request).await.unwrap();
            assert_eq!(response.status(), expected, "{path}");
            assert_eq!(calls.load(Ordering::SeqCst) > before, asked, "{path}");
        }
    }

    fn mesh() -> Arc<MeshSource> {
        let domain = "cluster.local".parse().unwrap();
        let interval = Duration::from_secs(60);
        let mesh = MeshSource::new(domain, Arc::default(), interval, Arc::default());
        Arc::new(mesh)
    }

    /// The methods of each path in the document of the API.
    fn documented() -> BTreeMap<String, Vec<String>> {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi.json");
        let text = std::fs::read_to_string(file).unwrap();
        let document: serde_json::Value = serde_json::from_str(&text).unwrap();
        let paths = document["paths"].as_object().unwrap().iter();
        let methods =
            |item: &serde_json::Value| item.as_object().unwrap().keys().cloned().collect();
        paths
            .map(|(path, item)| (path.clone(), methods(item)))
            .collect()
    }

    #[tokio::test]
    async fn the_document_has_exactly_the_routes_of_the_api() {
        let client = Client::new(tower::service_fn(reviewed), "heddle-system");
        let router = router(&client);
        let documented = documented();
        assert_eq!(documented.len(), 6, "{documented:?}");
        for (path, methods) in &documented {
            for method in ["get", "post", "put", "delete"] {
                let name = method.to_uppercase();
                let request = Request::builder().method(&*name).uri(path);
                let request = request.header(header::AUTHORIZATION, "Bearer valid");
                let request = request.body(Body::empty()).unwrap();
                let status = router.clone().oneshot(request).await.unwrap().status();
                assert_ne!(status, StatusCode::NOT_FOUND, "{method} {path}");
                let answered = status != StatusCode::METHOD_NOT_ALLOWED;
                assert_eq!(
                    answered,
                    methods.contains(&method.to_owned()),
                    "{method} {path}"
                );
            }
        }
        let earlier = Endpoint::ALL.iter().filter_map(|of| of.earlier_path());
        let served = Endpoint::ALL.iter().map(|of| of.path()).chain(earlier);
        let mut served: Vec<String> = served.map(ToOwned::to_owned).collect();
        served.sort();
        assert_eq!(served, documented.into_keys().collect::<Vec<_>>());
    }

    fn router(client: &Client) -> Router {
        admin(Arc::new(Admin {
            metrics: Arc::default(),
            shown: Arc::default(),
            certificates: Arc::default(),
            edges: Arc::new(EdgeStore::new(Arc::default())),
            withdrawals: Arc::default(),
            mesh: mesh(),
            authorizer: Authorizer::new(client),
        }))
    }

    /// An API server that accepts one token, and gives it every path and one right to tap.
    async fn reviewed(
        request: axum::http::Request<kube::client::Body>,
    ) -> Result<axum::http::Response<kube::client::Body>, std::io::Error> {
        use serde_json::{Value, json};
        let path = request.uri().path().to_owned();
        let body = request.into_body().collect_bytes().await;
        let mut object: Value = serde_json::from_slice(&body.unwrap()).unwrap();
        object["status"] = if path.ends_with("/tokenreviews") {
            let known = object["spec"]["token"] == "valid";
            json!({"authenticated": known, "user": {"username": "eve"}})
        } else {
            let spec = &object["spec"];
            let right = json!({"group": "heddle.dev", "resource": "taps", "verb": "create", "namespace": "shop"});
            let allowed =
                !spec["nonResourceAttributes"].is_null() || spec["resourceAttributes"] == right;
            assert_eq!(spec["user"], "eve");
            json!({"allowed": allowed})
        };
        let body = kube::client::Body::from(serde_json::to_vec(&object).unwrap());
        Ok(axum::http::Response::builder()
            .status(201)
            .body(body)
            .unwrap())
    }

    #[tokio::test]
    async fn a_tap_takes_the_right_in_its_namespace() {
        let client = Client::new(tower::service_fn(reviewed), "heddle-system");
        let router = router(&client);
        let tap = |namespace: &str| serde_json::json!({"id": "0123456789abcdef0123456789abcdef", "namespace": namespace, "perSecond": 1, "seconds": 1, "end": true});
        let (shop, bank) = (tap("shop").to_string(), tap("bank").to_string());
        let large = format!("{{\"id\": \"{}\"}}", "0".repeat(MAX_BODY));
        for (token, body, expected) in [
            (Some("Bearer valid"), &*shop, StatusCode::OK),
            // The right to read all paths is not the right to tap.
            (Some("Bearer valid"), &*bank, StatusCode::FORBIDDEN),
            (Some("Bearer other"), &*shop, StatusCode::UNAUTHORIZED),
            (None, &*shop, StatusCode::UNAUTHORIZED),
            (Some("Bearer valid"), "{}", StatusCode::UNPROCESSABLE_ENTITY),
            (Some("Bearer valid"), &*large, StatusCode::PAYLOAD_TOO_LARGE),
        ] {
            let mut request = Request::post(Endpoint::Tap.path())
                .header(header::CONTENT_TYPE, "application/json");
            if let Some(token) = token {
                request = request.header(header::AUTHORIZATION, token);
            }
            let request = request.body(Body::from(body.to_owned())).unwrap();
            let response = router.clone().oneshot(request).await.unwrap();
            let status = response.status();
            let text = axum::body::to_bytes(response.into_body(), 1 << 20).await;
            let text = String::from_utf8_lossy(&text.unwrap()).into_owned();
            assert_eq!(status, expected, "{token:?} {body}: {text}");
            if status == StatusCode::FORBIDDEN {
                let right = "the right to `create` taps.heddle.dev in namespace bank is missing\n";
                assert_eq!(text, right);
            }
        }
    }

    #[test]
    fn a_window_is_a_number_of_seconds_within_the_quarter_of_an_hour() {
        for (query, expected) in [
            (None, Some(60)),
            (Some(""), Some(60)),
            (Some("window=5"), Some(5)),
            (Some("window=900"), Some(900)),
            (Some("window=901"), None),
            (Some("window=4"), None),
            (Some("window=x"), None),
            (Some("since=5"), None),
        ] {
            assert_eq!(window(query), expected, "{query:?}");
        }
    }
}
