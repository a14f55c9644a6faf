//! Definitions of our kinds in the cluster that are older than this control plane: the API server drops the fields that they lack from objects,
//! without an error to every client. An object without such a field can mean another one.

use std::sync::Arc;
use std::time::Duration;

use heddle_crds::{API_VERSION, GROUP, Kind};
use heddle_policy_compiler::{Finding, ObjectKind, ObjectRef};
use kube::Client;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::cache::Cache;
use super::{CallError, call};
use crate::tasks::{Ended, Tasks, chain};

/// The time between two looks: definitions change with upgrades alone, and the answer has all schemas of the group.
const LOOK: Duration = Duration::from_secs(60);
/// So many fields of a kind are named.
const FIELDS: usize = 8;

/// Starts the comparison.
pub(super) fn start(client: &Client, cache: &Arc<Cache>, tasks: &mut Tasks) {
    let (client, cache) = (client.clone(), Arc::clone(cache));
    let keeping = keep(client, cache, LOOK, tasks.stop());
    tasks.spawn("definitions", keeping);
}

/// Keeps a finding for each definition that lacks fields, until told to stop. Every account may read the schemas, so the control plane needs no
/// right to definitions.
async fn keep(client: Client, cache: Arc<Cache>, look: Duration, stop: CancellationToken) -> Ended {
    let mut failing = false;
    loop {
        match schemas(&client).await {
            Ok(schemas) => {
                failing = false;
                cache.set_definitions(findings(&schemas));
            }
            // The watches report kinds that are not installed at all.
            Err(error) if error.code() == Some(404) => cache.set_definitions(Vec::new()),
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    let error = chain(&error);
                    tracing::warn!(
                        error,
                        "the definitions in the cluster were not compared; trying again"
                    );
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(look) => {}
        }
    }
}

async fn schemas(client: &Client) -> Result<Value, CallError> {
    let request = http::Request::get(format!("/openapi/v3/apis/{API_VERSION}"));
    let request = request.body(Vec::new()).map_err(kube::Error::HttpError)?;
    call(client.request(request)).await
}

/// Returns a finding for each kind of which the API server has a definition without all of its fields.
fn findings(document: &Value) -> Vec<Finding> {
    let schemas = document.pointer("/components/schemas");
    let schemas = schemas.and_then(Value::as_object);
    let of = |kind: Kind| {
        let id = json!({"group": GROUP, "version": heddle_crds::VERSION, "kind": kind.name()});
        let is_it = |schema: &&Value| {
            let ids = schema.get("x-kubernetes-group-version-kind");
            ids.and_then(Value::as_array)
                .is_some_and(|ids| ids.contains(&id))
        };
        let mut described = schemas?
            .values()
            .filter(|schema| schema.get("properties").is_some());
        described.find(is_it)
    };
    let kinds = Kind::ALL.iter().copied();
    let missing = kinds.filter_map(|kind| Some((kind, kind.missing_from(of(kind)?))));
    let missing = missing.filter(|(_, fields)| !fields.is_empty());
    missing
        .map(|(kind, fields)| finding(kind, &fields))
        .collect()
}

fn finding(kind: Kind, missing: &[String]) -> Finding {
    let name = format!("{}.{GROUP}", kind.plural());
    let object = ObjectRef::cluster(
        ObjectKind::Document,
        &format!("CustomResourceDefinition {name}"),
    );
    let (first, others) = missing.split_at(missing.len().min(FIELDS));
    let more = match others.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let message = format!(
        "the definition in the cluster is older than the control plane: the API server drops {}{more} from every {}, which then means something else",
        first.join(", "),
        kind.name()
    );
    Finding::error(&object, "", "OlderDefinition", message).fix(
        "apply the definitions of this version (kubectl apply --server-side --force-conflicts -k config/crd; helm upgrade leaves them as they are), then apply the objects with these fields again",
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use axum::http::{StatusCode, Uri};
    use axum::response::IntoResponse;
    use axum::{Json, Router};
    use tokio::sync::watch;

    use super::*;
    use crate::objects::ObjectSource;

    /// The answer of an API server with the definitions of this version.
    fn document() -> Value {
        let schemas = Kind::ALL.iter().map(|kind| {
            let crd = serde_json::to_value(kind.crd()).unwrap();
            let mut schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone();
            schema["x-kubernetes-group-version-kind"] =
                json!([{"group": GROUP, "version": "v1alpha1", "kind": kind.name()}]);
            (format!("dev.heddle.v1alpha1.{}", kind.name()), schema)
        });
        let schemas: serde_json::Map<String, Value> = schemas.collect();
        json!({"openapi": "3.0.0", "components": {"schemas": schemas}})
    }

    const TARGET: &str = "/components/schemas/dev.heddle.v1alpha1.TrafficPolicy/properties/spec/properties/target/properties";

    fn without_target_namespace(mut document: Value) -> Value {
        let target = document.pointer_mut(TARGET).unwrap();
        target.as_object_mut().unwrap().remove("namespace").unwrap();
        document
    }

    #[test]
    fn a_definition_without_a_field_is_a_finding_and_one_that_is_not_there_is_none() {
        assert_eq!(findings(&document()), []);
        assert_eq!(findings(&json!({})), []);
        let [found] = &findings(&without_target_namespace(document()))[..] else {
            panic!("one finding");
        };
        let text = found.to_string();
        for part in [
            "CustomResourceDefinition trafficpolicies.heddle.dev",
            "the API server drops spec.target.namespace from every TrafficPolicy",
            "-k config/crd",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[tokio::test]
    async fn the_finding_stands_until_the_definition_is_replaced() {
        let older = without_target_namespace(document());
        let served = Arc::new(Mutex::new(Some(older)));
        let asked = Arc::new(watch::Sender::new(0_u64));
        let (answered, counted) = (Arc::clone(&served), Arc::clone(&asked));
        let answer = move |uri: Uri| {
            let answer = answered.lock().unwrap().clone();
            counted.send_modify(|count| *count += 1);
            async move {
                assert_eq!(uri.path(), "/openapi/v3/apis/heddle.dev/v1alpha1");
                match answer {
                    Some(document) => Json(document).into_response(),
                    None => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
                }
            }
        };
        let client = Client::new(Router::new().fallback(answer), "default");
        let cache = Arc::new(Cache::new(Arc::default()));
        let stop = CancellationToken::new();
        let mut changes = cache.changes();
        let (kept, look) = (Arc::clone(&cache), Duration::from_millis(1));
        let task = tokio::spawn(keep(client, kept, look, stop.clone()));
        changes.changed().await.unwrap();
        assert_eq!(cache.take().findings.len(), 1);
        // An API server that does not answer changes nothing. The third question comes after the answer to the second.
        *served.lock().unwrap() = None;
        let until = *asked.borrow() + 3;
        let mut asks = asked.subscribe();
        asks.wait_for(|count| *count >= until).await.unwrap();
        assert_eq!(cache.take().findings.len(), 1);
        *served.lock().unwrap() = Some(document());
        changes.changed().await.unwrap();
        assert_eq!(cache.take().findings, []);
        stop.cancel();
        task.await.unwrap().unwrap();
    }
}
