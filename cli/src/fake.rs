//! For tests: an API server that holds objects by their path.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use kube::Client;
use serde_json::{Value, json};

/// The objects. A list is an object at the path of its kind.
#[derive(Clone, Default)]
pub struct Server {
    objects: Arc<Mutex<BTreeMap<String, Value>>>,
}

impl Server {
    pub fn with<const N: usize>(objects: [(&str, Value); N]) -> Self {
        let server = Self::default();
        for (path, object) in objects {
            server.set(path, object);
        }
        server
    }

    /// A client of the server.
    pub fn client(&self) -> Client {
        let router = Router::new().fallback(answer).with_state(self.clone());
        Client::new(router, "default")
    }

    pub fn get(&self, path: &str) -> Option<Value> {
        self.all().get(path).cloned()
    }

    pub fn set(&self, path: &str, object: Value) {
        self.all().insert(path.to_owned(), object);
    }

    /// The paths of all objects.
    pub fn paths(&self) -> Vec<String> {
        self.all().keys().cloned().collect()
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<String, Value>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A list of pods.
pub fn pods(items: &[Value]) -> Value {
    json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})
}

async fn answer(State(server): State<Server>, request: Request) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let kind = request.headers().get(header::CONTENT_TYPE);
    let is_json_patch = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/json-"));
    let body = axum::body::to_bytes(request.into_body(), usize::MAX).await;
    let sent: Value = serde_json::from_slice(&body.unwrap_or_default()).unwrap_or_default();
    let mut objects = server.all();
    if method == Method::POST {
        let name = sent.pointer("/metadata/name").and_then(Value::as_str);
        objects.insert(format!("{path}/{}", name.unwrap_or_default()), sent.clone());
        return Json(sent).into_response();
    }
    let Some(object) = objects.get_mut(&path) else {
        let status =
            json!({"kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound"});
        return (StatusCode::NOT_FOUND, Json(status)).into_response();
    };
    if method == Method::PATCH && is_json_patch {
        let patch: json_patch::Patch = serde_json::from_value(sent).unwrap();
        json_patch::patch(object, &patch).unwrap();
    } else if method == Method::PATCH {
        json_patch::merge(object, &sent);
    }
    let object = object.clone();
    if method == Method::DELETE {
        objects.remove(&path);
    }
    Json(object).into_response()
}
