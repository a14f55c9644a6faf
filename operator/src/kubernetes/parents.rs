//! Writes the own entries of `status.parents` or `status.ancestors`, an atomic list that controllers share: a forced apply would remove the entries of the others.

use heddle_crds::StatusEntries;
use kube::api::{Api, DynamicObject, PostParams};
use serde_json::Value;

use super::{CallError, call};
use crate::status::{WrittenParent, replace_own_parents};

/// The attempts of one write; the writer of statuses tries again later.
const TRIES: usize = 5;

/// Puts our entries into the status of an object. An object with another uid is another object and is left alone.
///
/// # Errors
/// When the API server refuses the write, also if others change the object again and again.
pub(super) async fn write(
    api: &Api<DynamicObject>,
    name: &str,
    uid: &str,
    own: &[WrittenParent],
    of: &StatusEntries,
) -> Result<(), CallError> {
    let params = PostParams {
        field_manager: Some("heddle-operator".to_owned()),
        ..PostParams::default()
    };
    let mut tries = 0;
    loop {
        let mut object = call(api.get(name)).await?;
        if object.metadata.uid.as_deref() != Some(uid) {
            return Ok(());
        }
        let mut status = object.data.get("status").cloned().unwrap_or_default();
        if !replace_own_parents(&mut status, own, of) {
            return Ok(());
        }
        match &mut object.data {
            Value::Object(fields) => _ = fields.insert("status".to_owned(), status),
            _ => return Ok(()),
        }
        // It has the resource version that was read: a write in between is a conflict.
        match call(api.replace_status(name, &params, &object)).await {
            Err(error) if error.code() == Some(409) && tries < TRIES => tries += 1,
            result => return result.map(|_| ()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use heddle_policy_compiler::ParentRef;
    use http::{Method, Request, Response};
    use kube::Client;
    use kube::api::{ApiResource, GroupVersionKind};
    use kube::client::Body;
    use serde_json::json;

    use super::*;
    use crate::status::CONTROLLER;

    /// An API server with one route. Each of the first `conflicts` writes comes after a write by another controller.
    struct Server {
        object: Value,
        conflicts: usize,
        writes: usize,
    }

    impl Server {
        fn answer(&mut self, method: &Method, body: &[u8]) -> (u16, Value) {
            if method == Method::GET {
                return (200, self.object.clone());
            }
            self.writes += 1;
            if self.conflicts > 0 {
                self.conflicts -= 1;
                let version = format!("after-{}", self.writes);
                self.object["metadata"]["resourceVersion"] = version.clone().into();
                let entries = self.object["status"]["parents"].as_array_mut().unwrap();
                entries.push(json!({"parentRef": {"name": version}, "controllerName": "other"}));
            }
            let written: Value = serde_json::from_slice(body).unwrap();
            let version = |of: &Value| of["metadata"]["resourceVersion"].clone();
            if version(&written) != version(&self.object) {
                let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 409, "message": "conflict", "reason": "Conflict"});
                return (409, status);
            }
            self.object = written;
            (200, self.object.clone())
        }
    }

    fn api(server: &Arc<Mutex<Server>>) -> Api<DynamicObject> {
        let server = Arc::clone(server);
        let answer = move |request: Request<Body>| {
            let server = Arc::clone(&server);
            async move {
                let method = request.method().clone();
                let body = request.into_body().collect_bytes().await.unwrap();
                let (code, answer) = server.lock().unwrap().answer(&method, &body);
                let response = Response::builder().status(code);
                let body = Body::from(answer.to_string().into_bytes());
                Ok::<_, std::io::Error>(response.body(body).unwrap())
            }
        };
        let gvk = GroupVersionKind::gvk("example.com", "v1", "Route");
        let client = Client::new(tower::service_fn(answer), "shop");
        Api::namespaced_with(client, "shop", &ApiResource::from_gvk(&gvk))
    }

    fn server(conflicts: usize) -> Arc<Mutex<Server>> {
        let object = json!({
            "apiVersion": "example.com/v1", "kind": "Route",
            "metadata": {"name": "reviews", "namespace": "shop", "uid": "u", "resourceVersion": "1"},
            "spec": {"any": 1},
            "status": {"parents": [{"parentRef": {"name": "gateway"}, "controllerName": "other"}]},
        });
        Arc::new(Mutex::new(Server {
            object,
            conflicts,
            writes: 0,
        }))
    }

    fn own() -> [WrittenParent; 1] {
        [WrittenParent {
            parent_ref: ParentRef {
                name: "reviews".to_owned(),
                ..ParentRef::default()
            },
            controller_name: CONTROLLER.to_owned(),
            conditions: Vec::new(),
        }]
    }

    /// Writes the entries of the route with this uid.
    async fn write_to(
        server: &Arc<Mutex<Server>>,
        uid: &str,
        own: &[WrittenParent],
    ) -> Result<(), CallError> {
        write(&api(server), "reviews", uid, own, &StatusEntries::PARENTS).await
    }

    #[tokio::test]
    async fn entries_that_others_write_in_between_survive() {
        let server = server(2);
        write_to(&server, "u", &own()).await.unwrap();
        let server = server.lock().unwrap();
        let entries = server.object["status"]["parents"].as_array().unwrap();
        let names: Vec<&Value> = entries.iter().map(|e| &e["parentRef"]["name"]).collect();
        assert_eq!(names, ["gateway", "after-1", "after-2", "reviews"]);
        assert_eq!(server.object["spec"], json!({"any": 1}));
        assert_eq!(server.writes, 3);
    }

    #[tokio::test]
    async fn a_conflict_is_retried_a_bounded_number_of_times() {
        let server = server(100);
        let error = write_to(&server, "u", &own()).await.unwrap_err();
        assert_eq!(error.code(), Some(409));
        assert_eq!(server.lock().unwrap().writes, TRIES + 1);
    }

    #[tokio::test]
    async fn equal_entries_and_another_object_are_not_written() {
        let server = server(0);
        write_to(&server, "u", &own()).await.unwrap();
        write_to(&server, "u", &own()).await.unwrap();
        write_to(&server, "another", &[]).await.unwrap();
        assert_eq!(server.lock().unwrap().writes, 1);
    }
}
