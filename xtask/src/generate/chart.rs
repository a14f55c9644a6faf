//! `config/helm/`: the chart for Helm, made of the manifests of `config/default`, so that both install the same.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Files;
use super::yaml::{HEADER, to_yaml};
use crate::repo::Repo;

const CHART: &str = "config/helm";
/// The folder that people apply.
const DEFAULT: &str = "config/default";
/// The container of the control plane.
const CONTAINER: &str = "/spec/template/spec/containers/0";

/// The fields of a kustomization that `config/default` uses.
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
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Labels {
    pairs: Map<String, Value>,
}

/// A value of the chart that stands for a field of the Deployment. Its default is that of the manifest.
struct ChartValue {
    /// The path among the values.
    path: &'static [&'static str],
    /// The field, below the container or the pod.
    field: &'static str,
    /// The template in its place.
    template: &'static str,
    help: &'static str,
    schema: fn() -> Value,
}

/// The values with a default in the manifests.
const VALUES: [ChartValue; 6] = [
    ChartValue {
        path: &["replicas"],
        field: "/spec/replicas",
        template: "{{ .Values.replicas }}",
        help: "Replicas of the control plane. Two or more: a sidecar must find one at every moment.",
        schema: || json!({"type": "integer", "minimum": 1, "maximum": 100}),
    },
    ChartValue {
        path: &["images", "operator"],
        field: "/spec/template/spec/containers/0/image",
        template: "{{ .Values.images.operator | quote }}",
        help: "The image of the control plane.",
        schema: image,
    },
    ChartValue {
        path: &["images", "pullPolicy"],
        field: "/spec/template/spec/containers/0/imagePullPolicy",
        template: "{{ .Values.images.pullPolicy }}",
        help: "When the image of the control plane is pulled.",
        schema: || json!({"type": "string", "enum": ["Always", "IfNotPresent", "Never"]}),
    },
    ChartValue {
        path: &["images", "sidecar"],
        field: "/env/HEDDLE_SIDECAR_IMAGE",
        template: "{{ .Values.images.sidecar | quote }}",
        help: "The image that pods get as their sidecar.",
        schema: image,
    },
    ChartValue {
        path: &["resources"],
        field: "/spec/template/spec/containers/0/resources",
        template: "{{ toJson .Values.resources }}",
        help: "The resources of the control plane. Maps are merged: null below requests or limits removes a default.",
        schema: resources,
    },
    ChartValue {
        path: &["priorityClassName"],
        field: "/spec/template/spec/priorityClassName",
        template: "{{ .Values.priorityClassName | quote }}",
        help: "The priority of the control plane.",
        schema: || json!({"type": "string", "minLength": 1, "maxLength": 253}),
    },
];

/// The placeholder of the fields that are only there where a value is set.
const OPTIONAL: &str = "zzOptional";
/// The fields in its place, with an indent of the pod's fields.
const OPTIONAL_FIELDS: &str = "      {{- with .Values.nodeSelector }}
      nodeSelector: {{ toJson . }}
      {{- end }}
      {{- with .Values.tolerations }}
      tolerations: {{ toJson . }}
      {{- end }}
";

fn image() -> Value {
    json!({"type": "string", "minLength": 1, "pattern": "^[^\\s]+$"})
}

fn resources() -> Value {
    let quantities = json!({
        "type": ["object", "null"],
        "additionalProperties": {"type": ["string", "number", "null"]},
    });
    json!({
        "type": "object", "additionalProperties": false,
        "properties": {"requests": quantities, "limits": quantities},
    })
}

/// The files of the chart. `generated` are the manifests of this run.
///
/// # Errors
/// A manifest cannot be read, is not YAML, lacks a field that the chart sets, or has the file name of another one.
pub fn files(repo: &Repo, generated: &Files) -> Result<Files> {
    let read = |name: &str| match generated.get(name) {
        Some(text) => Ok(text.clone()),
        None => fs::read_to_string(repo.path(name)).with_context(|| format!("cannot read {name}")),
    };
    let mut files = Files::new();
    let mut defaults = json!({"createNamespace": true, "nodeSelector": {}, "tolerations": []});
    for (name, mut documents) in manifests(&read, DEFAULT)? {
        let text = documents
            .iter_mut()
            .map(|object| template(object, &mut defaults));
        let text = text.collect::<Result<Vec<String>>>()?.join("---\n");
        let (_, file) = name
            .rsplit_once('/')
            .context("a manifest without a folder")?;
        let folder = match name.starts_with("config/crd/") {
            true => "crds",
            false => "templates",
        };
        let text = match file {
            "namespace.yaml" => {
                format!("{{{{- if .Values.createNamespace }}}}\n{text}{{{{- end }}}}\n")
            }
            _ => text,
        };
        let file = format!("{CHART}/{folder}/{file}");
        ensure!(
            files
                .insert(file.clone(), format!("{HEADER}{text}"))
                .is_none(),
            "{file}: two manifests have the name"
        );
    }
    files.insert(format!("{CHART}/Chart.yaml"), chart());
    files.insert(format!("{CHART}/values.yaml"), values(&defaults)?);
    let schema = serde_json::to_string_pretty(&schema())?;
    files.insert(format!("{CHART}/values.schema.json"), format!("{schema}\n"));
    Ok(files)
}

/// The manifests of a kustomization, with its labels.
fn manifests(
    read: &impl Fn(&str) -> Result<String>,
    folder: &str,
) -> Result<Vec<(String, Vec<Value>)>> {
    let path = format!("{folder}/kustomization.yaml");
    let kustomization: Kustomization =
        serde_saphyr::from_str(&read(&path)?).with_context(|| path.clone())?;
    let mut found = Vec::new();
    for resource in &kustomization.resources {
        match resource.strip_prefix("../") {
            Some(other) => found.extend(manifests(read, &format!("config/{other}"))?),
            None => {
                let path = format!("{folder}/{resource}");
                let documents = serde_saphyr::from_multiple(&read(&path)?);
                found.push((path.clone(), documents.with_context(|| path)?));
            }
        }
    }
    for object in found.iter_mut().flat_map(|(_, documents)| documents) {
        let metadata = object.get_mut("metadata").and_then(Value::as_object_mut);
        let metadata = metadata.context("an object without metadata")?;
        let labels = metadata.entry("labels").or_insert_with(|| json!({}));
        let labels = labels.as_object_mut().context("labels are not a map")?;
        for pairs in &kustomization.labels {
            labels.extend(pairs.pairs.clone());
        }
    }
    Ok(found)
}

/// The text of an object, with templates in the place of the fields that values stand for.
///
/// Helm deletes objects that an upgrade no longer renders. The Secret with the root of the mesh goes with its namespace,
/// so Helm must keep that.
fn template(object: &mut Value, defaults: &mut Value) -> Result<String> {
    let is_control_plane = object.get("kind").is_some_and(|kind| kind == "Deployment");
    if is_control_plane {
        for value in &VALUES {
            let field = field(object, value.field)?;
            let default = std::mem::replace(field, placeholder(value).into());
            set(defaults, value.path, default);
        }
        let pod = object
            .pointer_mut("/spec/template/spec")
            .and_then(Value::as_object_mut);
        let pod = pod.context("a Deployment without a pod")?;
        pod.insert(OPTIONAL.to_owned(), true.into());
    }
    if object.get("kind").is_some_and(|kind| kind == "Namespace") {
        let keep = ["metadata", "annotations", "helm.sh/resource-policy"];
        set(object, &keep, "keep".into());
    }
    let mut text = to_yaml(object)?;
    let is_crd = object
        .get("kind")
        .is_some_and(|kind| kind == "CustomResourceDefinition");
    ensure!(
        is_crd || !text.contains("{{"),
        "a manifest looks like a template of Helm"
    );
    if is_control_plane {
        for value in &VALUES {
            let placeholder = placeholder(value);
            ensure!(
                text.matches(&placeholder).count() == 1,
                "{placeholder} is not there once"
            );
            text = text.replace(&placeholder, value.template);
        }
        let optional = format!("      {OPTIONAL}: true\n");
        ensure!(
            text.matches(&optional).count() == 1,
            "no place for the optional fields"
        );
        text = text.replace(&optional, OPTIONAL_FIELDS);
    }
    Ok(text)
}

/// A text that YAML writes without quotes.
fn placeholder(value: &ChartValue) -> String {
    format!("value-{}-end", value.path.join("-"))
}

/// A field by its pointer; `/env/NAME` is the value of an environment variable.
fn field<'a>(object: &'a mut Value, pointer: &str) -> Result<&'a mut Value> {
    let found = match pointer.strip_prefix("/env/") {
        None => object.pointer_mut(pointer),
        Some(name) => {
            let variables = object.pointer_mut(&format!("{CONTAINER}/env"));
            let variables = variables.and_then(Value::as_array_mut);
            let mut variables = variables.into_iter().flatten();
            let variable = variables.find(|of| of.get("name").is_some_and(|of| of == name));
            variable.and_then(|of| of.get_mut("value"))
        }
    };
    found.with_context(|| format!("the Deployment of {DEFAULT} has no {pointer}"))
}

fn set(values: &mut Value, path: &[&str], value: Value) {
    let Some((first, rest)) = path.split_first() else {
        *values = value;
        return;
    };
    if let Some(fields) = values.as_object_mut() {
        set(
            fields.entry(*first).or_insert_with(|| json!({})),
            rest,
            value,
        );
    }
}

fn chart() -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!(
        "{HEADER}apiVersion: v2\nname: heddle\ndescription: The control plane of Heddle, a service mesh with stock Envoy sidecars.\n\
         type: application\nversion: {version}\nappVersion: {version:?}\nkubeVersion: \">=1.30.0-0\"\n"
    )
}

/// The values with their help as comments.
fn values(defaults: &Value) -> Result<String> {
    let mut text = HEADER.to_owned();
    let Some(fields) = defaults.as_object() else {
        bail!("the values are not a map");
    };
    for (name, value) in fields {
        for help in helps(name) {
            text.push_str(&format!("# {help}\n"));
        }
        text.push_str(&to_yaml(&json!({name: value}))?);
    }
    Ok(text)
}

/// The help of a value and of those below it.
fn helps(name: &str) -> Vec<String> {
    let own = OTHERS.iter().filter(|(other, ..)| *other == name);
    let own = own.map(|(_, help, _)| (*help).to_owned());
    let of = VALUES
        .iter()
        .filter(|value| value.path.first() == Some(&name));
    let of = of.map(|value| match value.path {
        [_, below] => format!("{below}: {}", value.help),
        _ => value.help.to_owned(),
    });
    own.chain(of).collect()
}

/// A value that stands for no field of a manifest: name, help, schema.
type Other = (&'static str, &'static str, fn() -> Value);

const OTHERS: [Other; 3] = [
    (
        "createNamespace",
        "Create the namespace heddle-system; for the first installation. False: it is there, for example by --create-namespace.",
        || json!({"type": "boolean"}),
    ),
    (
        "nodeSelector",
        "Labels of the nodes for the control plane.",
        || json!({"type": "object", "additionalProperties": {"type": "string"}}),
    ),
    (
        "tolerations",
        "Tolerations of the control plane.",
        || json!({"type": "array", "items": {"type": "object"}}),
    ),
];

fn schema() -> Value {
    let (mut properties, mut groups) = (json!({}), json!({}));
    let mut add = |path: &[&str], help: &str, mut schema: Value| {
        set(&mut schema, &["description"], help.into());
        let all = match path {
            [_, _] => &mut groups,
            _ => &mut properties,
        };
        set(all, path, schema);
    };
    for value in &VALUES {
        add(value.path, value.help, (value.schema)());
    }
    for (name, help, schema) in OTHERS {
        add(&[name], help, schema());
    }
    for (name, below) in groups.as_object().into_iter().flatten() {
        set(&mut properties, &[name], closed(below));
    }
    let mut schema = closed(&properties);
    set(
        &mut schema,
        &["$schema"],
        "https://json-schema.org/draft-07/schema#".into(),
    );
    set(&mut schema, &["title"], "Values of the chart heddle".into());
    schema
}

/// The schema of an object with all of these properties and no others. A value that is null has no default for Helm:
/// without `required` the template would print nothing in its place.
fn closed(properties: &Value) -> Value {
    let names = properties.as_object().into_iter().flat_map(Map::keys);
    json!({
        "type": "object",
        "additionalProperties": false,
        "required": names.collect::<BTreeSet<_>>(),
        "properties": properties,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_has_a_default_a_type_and_a_place() {
        let repo = Repo::find().unwrap();
        let files = files(&repo, &Files::new()).unwrap();
        let values: Value = serde_saphyr::from_str(&files["config/helm/values.yaml"]).unwrap();
        let schema: Value = serde_json::from_str(&files["config/helm/values.schema.json"]).unwrap();
        assert_eq!(values["replicas"], 2);
        assert_eq!(values["images"]["operator"], "heddle.dev/heddle:dev");
        assert_eq!(
            schema["properties"]["images"]["properties"]["sidecar"]["type"],
            "string"
        );
        let names = |of: &Value| of.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&values), names(&schema["properties"]));
        let deployment = &files["config/helm/templates/deployment.yaml"];
        for value in &VALUES {
            assert_eq!(
                deployment.matches(value.template).count(),
                1,
                "{deployment}"
            );
        }
        assert!(files.contains_key("config/helm/crds/heddle.dev_meshes.yaml"));
    }
}
