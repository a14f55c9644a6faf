//! The annotation by which `kubectl apply` finds the fields to remove. Without it, `kubectl apply -k config/default` after
//! `heddle install` warns about every object.

use anyhow::{Context, Result};
use kube::Api;
use kube::api::{DynamicObject, Patch, PatchParams};
use serde_json::{Value, json};

use crate::cluster;

const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// kubectl's own name for this: a server-side apply keeps the annotation up to date under it.
const FIELD_MANAGER: &str = "kubectl-last-applied";

/// Writes the annotation to an object that was applied, unless its content is the same already.
///
/// # Errors
/// The object has no name or cannot be written as JSON, or the API server does not answer, or refuses the annotation.
pub(super) async fn keep(
    api: &Api<DynamicObject>,
    applied: &DynamicObject,
    live: &DynamicObject,
) -> Result<()> {
    let applied_value = serde_json::to_value(applied)?;
    let annotations = live.metadata.annotations.as_ref();
    let present = annotations.and_then(|annotations| annotations.get(ANNOTATION));
    if present.is_some_and(|text| same(text, &applied_value)) {
        return Ok(());
    }
    let name = live.metadata.name.as_deref();
    let name = name.context("an applied object has no name")?;
    let text = serde_json::to_string(&applied_value)? + "\n";
    let patch = json!({ "metadata": { "annotations": { ANNOTATION: text } } });
    let params = PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let what = format!("annotate {}", cluster::describe(applied));
    cluster::call(&what, api.patch(name, &params, &Patch::Merge(&patch))).await?;
    Ok(())
}

/// Whether an annotation has the content of an object. kubectl writes empty annotations too.
fn same(text: &str, applied: &Value) -> bool {
    let Ok(mut written) = serde_json::from_str::<Value>(text) else {
        return false;
    };
    if let Some(Value::Object(metadata)) = written.get_mut("metadata") {
        metadata.retain(|_, value| value.as_object().is_none_or(|map| !map.is_empty()));
    }
    written == *applied
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_compared_without_order_and_empty_annotations() {
        let applied =
            json!({"kind": "Service", "metadata": {"name": "a", "labels": {"x": "y", "z": "1"}}});
        let by_kubectl = r#"{"kind":"Service","metadata":{"annotations":{},"labels":{"z":"1","x":"y"},"name":"a"}}"#;
        assert!(same(by_kubectl, &applied));
        assert!(!same(&by_kubectl.replace("\"1\"", "\"2\""), &applied));
        assert!(!same("not JSON", &applied));
    }
}
