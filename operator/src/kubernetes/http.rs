//! Plain health on 15021; metrics, proxy states and traffic on 15014, over TLS and by the caller's rights.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{StatusCode, Uri, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use heddle_acceptor::Link;
use tokio::sync::watch;

use super::authorize::{Access, Authorizer};
use super::statuses::Shown;
use crate::certificates::Certificates;
use crate::edges::{DEFAULT_WINDOW, EdgeStore, LONGEST_WINDOW};
use crate::issuing::source_of;
use crate::metrics::Metrics;
use crate::withdrawals::Withdrawals;

const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);

/// Tells nothing but whether the process lives, and whether it serves.
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
    pub(super) authorizer: Authorizer,
}

pub(super) fn admin(admin: Arc<Admin>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/debug/proxies", get(proxies))
        .route("/api/v1/edges", get(edges))
        .route("/api/v1/receipts", get(receipts))
        // Not for other paths: each would be a question of its own to the API server.
        .route_layer(from_fn_with_state(Arc::clone(&admin), authorize))
        .with_state(admin)
}

async fn authorize(State(admin): State<Arc<Admin>>, request: Request, next: Next) -> Response {
    let header = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    let Some(token) = header
        .and_then(|value| value.strip_prefix("Bearer "))
        .map(str::trim)
        .filter(|token| token.len() < 16 * 1024)
    else {
        return (
            StatusCode::UNAUTHORIZED,
            "a Kubernetes token is needed: Authorization: Bearer <token>\n",
        )
            .into_response();
    };
    let link = request.extensions().get::<Arc<Link>>();
    let source = source_of(link.map(|link| &**link));
    let path = request.uri().path().to_owned();
    let answer = async {
        match admin.authorizer.judge(token, source, &path).await {
            Access::Granted => None,
            Access::Unknown => Some((
                StatusCode::UNAUTHORIZED,
                "the API server does not know this token\n".to_owned(),
            )),
            Access::Forbidden => Some((
                StatusCode::FORBIDDEN,
                format!("the right to `get` the nonResourceURL {path} is missing\n"),
            )),
            Access::Unavailable => Some((
                StatusCode::SERVICE_UNAVAILABLE,
                "the API server does not answer, or you ask too often: try again\n".to_owned(),
            )),
        }
    };
    match tokio::time::timeout(REQUEST_TIMEOUT, answer).await {
        Ok(None) => next.run(request).await,
        Ok(Some(refusal)) => refusal.into_response(),
        Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

async fn metrics(State(admin): State<Arc<Admin>>) -> Response {
    match admin.metrics.text() {
        Ok(text) => {
            let kind = [(
                header::CONTENT_TYPE,
                "application/openmetrics-text; version=1.0.0; charset=utf-8",
            )];
            (kind, Body::from(text)).into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn proxies(State(admin): State<Arc<Admin>>) -> Response {
    axum::Json(admin.shown.states(&admin.certificates)).into_response()
}

/// The traffic of edges, over `?window=SECONDS` (docs/live-graph.md).
async fn edges(State(admin): State<Arc<Admin>>, uri: Uri) -> Response {
    match window(uri.query()) {
        Some(window) => axum::Json(admin.edges.report(window)).into_response(),
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
    axum::Json(admin.withdrawals.report()).into_response()
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
    use std::sync::atomic::{AtomicUsize, Ordering};

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
        let router = admin(Arc::new(Admin {
            metrics: Arc::default(),
            shown: Arc::default(),
            certificates: Arc::default(),
            edges: Arc::new(EdgeStore::new(Arc::default())),
            withdrawals: Arc::default(),
            authorizer: Authorizer::new(&client),
        }));
        for (path, expected, asked) in [
            ("/x1", StatusCode::NOT_FOUND, false),
            ("/metrics/", StatusCode::NOT_FOUND, false),
            ("/%6detrics", StatusCode::NOT_FOUND, false),
            ("/metrics", StatusCode::SERVICE_UNAVAILABLE, true),
            ("/debug/proxies?x=1", StatusCode::SERVICE_UNAVAILABLE, true),
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
