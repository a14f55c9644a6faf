//! Port 15017: the API server asks what becomes of a pod.

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use k8s_openapi::api::core::v1::Pod;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, AdmissionReview};
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::http::serve;
use crate::inject::{Sidecar, Verdict, judge};
use crate::metrics::{Metrics, Outcome};
use crate::picture::Pictures;
use crate::tasks::Ended;

/// The API server bounds an object at 1.5 MiB; a review holds it once for a create.
const MAX_BYTES: usize = 4 << 20;

/// What the webhook needs.
pub(super) struct Injector {
    pub(super) pictures: Pictures,
    pub(super) image: String,
    pub(super) trust_bundle: String,
    pub(super) metrics: Arc<Metrics>,
}

impl Injector {
    pub(super) async fn serve(self, listener: TcpListener, tls: Arc<ServerConfig>, stop: CancellationToken) -> Ended {
        let router = Router::new().route("/inject", post(inject)).layer(DefaultBodyLimit::max(MAX_BYTES)).with_state(Arc::new(self));
        serve(listener, tls, router, stop).await
    }

    fn answer(&self, request: &AdmissionRequest<Pod>) -> AdmissionResponse {
        let response = AdmissionResponse::from(request);
        let Some(pod) = &request.object else { return response };
        let name = pod.metadata.name.as_ref().or(pod.metadata.generate_name.as_ref()).cloned().unwrap_or_default();
        let namespace = request.namespace.as_deref().unwrap_or_default();
        let mesh = self.pictures.borrow().as_ref().map(|picture| picture.mesh.clone()).unwrap_or_default();
        let sidecar = Sidecar {
            image: self.image.clone(),
            control_plane: "heddle.heddle-system.svc".to_owned(),
            trust_bundle: self.trust_bundle.clone(),
            mesh,
        };
        let verdict = judge(pod, &sidecar);
        let count = |reason| _ = self.metrics.injections.get_or_create(&Outcome { reason }).inc();
        let patched = |response: AdmissionResponse, patch: json_patch::Patch| {
            if patch.0.is_empty() { Ok(response) } else { response.with_patch(patch) }
        };
        let result = match verdict {
            Verdict::Inject(injected) => {
                count("injected");
                tracing::debug!(namespace, name, "injected");
                patched(response, injected.patch).map(|response| warning(response, injected.warnings))
            }
            Verdict::Leave => {
                count("left");
                Ok(response)
            }
            Verdict::Skip { reason, patch } => {
                count("skipped");
                tracing::warn!(namespace, name, reason, "the pod gets no sidecar");
                patched(response, patch).map(|response| warning(response, vec![format!("no sidecar: {reason}")]))
            }
            Verdict::Refuse(reason) => {
                count("refused");
                tracing::warn!(namespace, name, reason, "the pod is refused");
                Ok(response.deny(format!("heddle: {reason}")))
            }
        };
        result.unwrap_or_else(|error| {
            tracing::error!(%error, namespace, name, "the patch could not be written");
            AdmissionResponse::invalid("heddle: the patch could not be written")
        })
    }
}

fn warning(mut response: AdmissionResponse, warnings: Vec<String>) -> AdmissionResponse {
    if !warnings.is_empty() {
        response.warnings = Some(warnings);
    }
    response
}

async fn inject(State(injector): State<Arc<Injector>>, Json(review): Json<AdmissionReview<Pod>>) -> Response {
    let request: Result<AdmissionRequest<Pod>, _> = review.try_into();
    match request {
        Ok(request) => Json(injector.answer(&request).into_review()).into_response(),
        Err(error) => (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    }
}
