//! Port 15017: the admission of pods, called by the API server.

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use heddle_acceptor::{LogLimit, clean};
use k8s_openapi::api::core::v1::Pod;
use kube::core::admission::{
    AdmissionRequest, AdmissionResponse, AdmissionReview, SerializePatchError,
};

use crate::inject::{InjectionReview, PodInjection, Sidecar, review};
use crate::metrics::{Metrics, Outcome};
use crate::snapshot::Snapshots;

/// The API server bounds an object at 1.5 MiB; a review holds it once for a create.
const MAX_BYTES: usize = 4 << 20;

/// The longest name in a log line, in characters.
const MAX_NAME: usize = 253;
/// The longest reason in a log line, in characters.
const MAX_REASON: usize = 1000;

/// The inputs of the webhook.
pub(super) struct Injector {
    pub(super) snapshots: Snapshots,
    pub(super) image: String,
    pub(super) trust_bundle: String,
    pub(super) metrics: Arc<Metrics>,
    pub(super) lines: LogLimit,
}

impl Injector {
    pub(super) fn router(self) -> Router {
        Router::new()
            .route("/inject", post(inject))
            .layer(DefaultBodyLimit::max(MAX_BYTES))
            .with_state(Arc::new(self))
    }

    fn sidecar(&self) -> Sidecar {
        let newest = self.snapshots.borrow();
        let mesh = newest.as_ref().map(|snapshot| (*snapshot.mesh).clone());
        Sidecar {
            image: self.image.clone(),
            control_plane: "heddle.heddle-system.svc".to_owned(),
            trust_bundle: self.trust_bundle.clone(),
            mesh: mesh.unwrap_or_default(),
        }
    }

    fn log(&self, namespace: &str, name: &str, reason: &str, what: &str) {
        if let Some(suppressed) = self.lines.allow() {
            let reason = clean(reason, MAX_REASON);
            tracing::warn!(namespace, name, reason, suppressed, "{what}");
        }
    }

    fn answer(&self, request: &AdmissionRequest<Pod>) -> AdmissionResponse {
        let response = AdmissionResponse::from(request);
        let Some(pod) = &request.object else {
            return response;
        };
        let metadata = &pod.metadata;
        // Anybody may send a review, not the API server alone.
        let name = metadata.name.as_ref().or(metadata.generate_name.as_ref());
        let name = clean(name.map_or("", String::as_str), MAX_NAME);
        let namespace = clean(request.namespace.as_deref().unwrap_or_default(), MAX_NAME);
        let InjectionReview {
            injection,
            warnings,
        } = review(pod, &self.sidecar());
        let response = warning(response, warnings);
        let (counted, result) = match injection {
            PodInjection::Inject(patch) => ("injected", patched(response, patch)),
            PodInjection::Leave => ("left", Ok(response)),
            PodInjection::Skip { reason, patch } => {
                self.log(&namespace, &name, &reason, "the pod gets no sidecar");
                let response = warning(response, vec![format!("no sidecar: {reason}")]);
                ("skipped", patched(response, patch))
            }
            PodInjection::Refuse(reason) => {
                self.log(&namespace, &name, &reason, "the pod is refused");
                ("refused", Ok(response.deny(format!("heddle: {reason}"))))
            }
        };
        let outcome = Outcome { reason: counted };
        self.metrics.injections.get_or_create(&outcome).inc();
        result.unwrap_or_else(|error| {
            tracing::error!(%error, namespace, name, "the patch could not be written");
            AdmissionResponse::invalid("heddle: the patch could not be written")
        })
    }
}

fn patched(
    response: AdmissionResponse,
    patch: json_patch::Patch,
) -> Result<AdmissionResponse, SerializePatchError> {
    if patch.0.is_empty() {
        Ok(response)
    } else {
        response.with_patch(patch)
    }
}

fn warning(mut response: AdmissionResponse, warnings: Vec<String>) -> AdmissionResponse {
    if !warnings.is_empty() {
        response.warnings.get_or_insert_default().extend(warnings);
    }
    response
}

async fn inject(
    State(injector): State<Arc<Injector>>,
    Json(review): Json<AdmissionReview<Pod>>,
) -> Response {
    let request: Result<AdmissionRequest<Pod>, _> = review.try_into();
    let request = match request {
        Ok(request) => request,
        Err(error) => return (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    };
    // A pod of megabytes must not hold up the tasks of the other servers.
    let judging = move || injector.answer(&request).into_review();
    match tokio::task::spawn_blocking(judging).await {
        Ok(review) => Json(review).into_response(),
        Err(error) => {
            tracing::error!(%error, "an admission review failed");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
