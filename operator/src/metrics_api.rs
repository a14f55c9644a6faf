//! The answer to a scrape of the control plane.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::metrics::Metrics;

/// Returns `/metrics` for callers that may read all, behind a socket of their own.
pub fn router(metrics: Arc<Metrics>) -> Router {
    let handler = |State(metrics): State<Arc<Metrics>>| async move { answer(&metrics) };
    Router::new()
        .route("/metrics", get(handler))
        .with_state(metrics)
}

/// Returns all metrics as Prometheus reads them.
pub fn answer(metrics: &Metrics) -> Response {
    match metrics.text() {
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
