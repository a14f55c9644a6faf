//! Plain health on 15021; metrics and proxy states on 15014, over TLS and by the caller's rights.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use heddle_acceptor::Link;
use tokio::sync::watch;

use super::authorize::{Access, Authorizer};
use super::statuses::Shown;
use crate::issuing::source_of;
use crate::metrics::Metrics;

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

/// Answers those who may ask.
pub(super) struct Admin {
    pub(super) metrics: Arc<Metrics>,
    pub(super) shown: Arc<Shown>,
    pub(super) authorizer: Authorizer,
}

pub(super) fn admin(admin: Arc<Admin>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/debug/proxies", get(proxies))
        .layer(from_fn_with_state(Arc::clone(&admin), authorize))
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
    axum::Json(admin.shown.states()).into_response()
}
