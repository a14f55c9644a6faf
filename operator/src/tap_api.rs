//! The API of taps: `POST /api/v1/tap` (docs/tap.md).

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use heddle_xds_types::tap::{PATH, TapRequest};

use crate::serving::MeshSource;
use crate::tap::TapRefusal;

/// The largest request, in bytes.
pub const MAX_BODY: usize = 16 << 10;
/// A request waits so long for rows.
const WAIT: Duration = Duration::from_secs(1);
/// And for further ones after the first.
const TOGETHER: Duration = Duration::from_millis(100);

/// The API for callers that may do all, behind a socket of their own.
pub fn router(mesh: Arc<MeshSource>) -> Router {
    let handler = |State(mesh): State<Arc<MeshSource>>, Json(request): Json<TapRequest>| async move {
        answer(&mesh, &request).await
    };
    Router::new()
        .route(PATH, post(handler))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(mesh)
}

/// Answers the owner of a tap, once there are rows or after a while.
pub async fn answer(mesh: &MeshSource, request: &TapRequest) -> Response {
    let mut asked = mesh.tap(request);
    if let Ok(first) = &asked
        && first.answer.rows.is_empty()
        && !request.end
    {
        let news = Arc::clone(&first.news);
        if tokio::time::timeout(WAIT, news.notified()).await.is_ok() {
            // Rows come together: those of other sidecars, too.
            tokio::time::sleep(TOGETHER).await;
        }
        asked = mesh.tap(request);
    }
    match asked {
        Ok(mut asked) => {
            mesh.tapped_sidecars(&mut asked);
            Json(asked.answer).into_response()
        }
        Err(refusal) => {
            let status = match refusal {
                TapRefusal::Invalid(_) => StatusCode::BAD_REQUEST,
                TapRefusal::TooMany(_) => StatusCode::TOO_MANY_REQUESTS,
            };
            (status, format!("{refusal}\n")).into_response()
        }
    }
}
