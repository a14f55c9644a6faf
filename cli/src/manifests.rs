//! The objects of an installation, out of the embedded `config/` folder.
//!
//! This understands as much of kustomize as `config/default` uses: `resources`, `labels` without selectors, and `images`.
//! Any other key is an error, which a test turns into a failing build before it could become a different installation.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use kube::core::DynamicObject;
use serde::Deserialize;
use serde_json::Value;

/// Path below `config/`, and the text.
const FILES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/config.rs"));

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Kustomization {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    resources: Vec<String>,
    #[serde(default)]
    labels: Vec<Labels>,
    #[serde(default)]
    images: Vec<Image>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Labels {
    pairs: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Image {
    name: String,
    #[serde(default)]
    new_name: Option<String>,
    #[serde(default)]
    new_tag: Option<String>,
}

/// All objects of `config/default`, in the order in which they can be applied.
///
/// # Errors
/// A file of `config/` is not part of this build, is not YAML, or uses a field of kustomize that this command does not support.
pub fn all() -> Result<Vec<DynamicObject>> {
    let values = folder("default")?;
    values
        .into_iter()
        .map(|value| serde_json::from_value(value).context("an object of config/"))
        .collect()
}

/// The Mesh of the samples.
///
/// # Errors
/// The sample is not YAML, or not an object.
pub fn mesh() -> Result<DynamicObject> {
    serde_saphyr::from_str(include_str!("../../config/samples/mesh.yaml"))
        .context("config/samples/mesh.yaml")
}

/// The objects as one YAML text.
///
/// # Errors
/// An object cannot be written as YAML.
pub fn print(objects: &[DynamicObject]) -> Result<String> {
    let documents: Result<Vec<String>, _> = objects.iter().map(serde_saphyr::to_string).collect();
    Ok(documents?.join("---\n"))
}

fn folder(name: &str) -> Result<Vec<Value>> {
    let path = format!("{name}/kustomization.yaml");
    let kustomization: Kustomization = serde_saphyr::from_str(text(&path)?)
        .with_context(|| format!("config/{path} uses more than heddle understands"))?;
    let mut objects = Vec::new();
    for resource in &kustomization.resources {
        match resource.strip_prefix("../") {
            Some(sibling) => objects.extend(folder(sibling)?),
            None => objects.extend(documents(text(&format!("{name}/{resource}"))?)?),
        }
    }
    for object in &mut objects {
        for labels in &kustomization.labels {
            label(object, &labels.pairs)?;
        }
        for image in &kustomization.images {
            replace_image(object, image);
        }
    }
    Ok(objects)
}

fn text(path: &str) -> Result<&'static str> {
    let found = FILES.iter().find(|(name, _)| *name == path);
    found
        .map(|(_, text)| *text)
        .with_context(|| format!("config/{path} is not part of this build"))
}

fn documents(text: &str) -> Result<Vec<Value>> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text)?;
    Ok(documents
        .into_iter()
        .filter(|document| !document.is_null())
        .collect())
}

fn label(object: &mut Value, pairs: &BTreeMap<String, String>) -> Result<()> {
    let Some(Value::Object(metadata)) = object.get_mut("metadata") else {
        bail!("metadata of an object in config/ is not a map; add metadata with a name")
    };
    let labels = metadata
        .entry("labels")
        .or_insert_with(|| Value::Object(serde_json::Map::new()));
    let Value::Object(labels) = labels else {
        bail!("metadata.labels of an object in config/ is not a map; write key: value pairs")
    };
    labels.extend(
        pairs
            .iter()
            .map(|(key, value)| (key.clone(), Value::String(value.clone()))),
    );
    Ok(())
}

fn replace_image(value: &mut Value, image: &Image) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(text)) = map.get_mut("image") {
                *text = with_image(text, image);
            }
            map.values_mut()
                .for_each(|value| replace_image(value, image));
        }
        Value::Array(items) => items
            .iter_mut()
            .for_each(|value| replace_image(value, image)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn with_image(text: &str, image: &Image) -> String {
    // The tag follows the last colon behind the last slash: a registry may have a port.
    let path = text.rfind('/').map_or(0, |slash| slash + 1);
    let colon = text
        .get(path..)
        .and_then(|rest| rest.find(':'))
        .map(|at| path + at);
    let (name, tag) = colon
        .and_then(|at| text.split_at_checked(at))
        .unwrap_or((text, ""));
    if name != image.name {
        return text.to_owned();
    }
    let name = image.new_name.as_deref().unwrap_or(name);
    image
        .new_tag
        .as_ref()
        .map_or_else(|| format!("{name}{tag}"), |new| format!("{name}:{new}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_of_config_default_is_understood() {
        let objects = all().unwrap();
        let kinds: Vec<&str> = objects
            .iter()
            .filter_map(|o| o.types.as_ref())
            .map(|t| t.kind.as_str())
            .collect();
        for kind in [
            "Namespace",
            "CustomResourceDefinition",
            "ClusterRole",
            "Deployment",
            "Service",
            "MutatingWebhookConfiguration",
        ] {
            assert!(kinds.contains(&kind), "{kind} is missing among {kinds:?}");
        }
        assert_eq!(kinds.first(), Some(&"Namespace"));
    }

    #[test]
    fn every_object_carries_the_label_of_the_kustomization() {
        for object in all().unwrap() {
            let labels = object.metadata.labels.unwrap_or_default();
            assert_eq!(
                labels.get("app.kubernetes.io/part-of").map(String::as_str),
                Some("heddle"),
                "{:?}",
                object.metadata.name
            );
        }
    }

    /// `fieldRef` is atomic: the API server completes it, so an apply without `apiVersion` conflicts with the earlier one.
    #[test]
    fn atomic_references_are_complete() {
        fn incomplete(value: &Value) -> usize {
            match value {
                Value::Object(map) => {
                    let open = |name: &str, field: &str| {
                        map.get(name)
                            .is_some_and(|inner| inner.get(field).is_none())
                    };
                    let here =
                        open("fieldRef", "apiVersion") || open("resourceFieldRef", "divisor");
                    usize::from(here) + map.values().map(incomplete).sum::<usize>()
                }
                Value::Array(items) => items.iter().map(incomplete).sum(),
                _ => 0,
            }
        }
        for object in all().unwrap() {
            assert_eq!(incomplete(&object.data), 0, "{:?}", object.metadata.name);
        }
        assert_eq!(incomplete(&serde_json::json!({"a": [{"fieldRef": {}}]})), 1);
    }

    #[test]
    fn the_first_mesh_is_the_only_one_that_counts() {
        assert_eq!(mesh().unwrap().metadata.name.as_deref(), Some("default"));
    }

    #[test]
    fn images_are_replaced_by_name_only() {
        let image = Image {
            name: "host:5000/a".into(),
            new_name: None,
            new_tag: Some("2".into()),
        };
        assert_eq!(with_image("host:5000/a:1", &image), "host:5000/a:2");
        assert_eq!(with_image("host:5000/a", &image), "host:5000/a:2");
        assert_eq!(with_image("host:5000/ab:1", &image), "host:5000/ab:1");
    }
}
