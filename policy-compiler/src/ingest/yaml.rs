//! Text in: multi-document YAML or JSON, as `kubectl apply -f` takes it.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::Value;

use k8s_openapi::api::{apps::v1 as apps, batch::v1 as batch, core::v1 as core};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{KubeObject, Unreadable, WorkloadTemplate};
use crate::finding::{Finding, ObjectKind, ObjectRef};

/// Reads all documents of a text. A document that is no YAML is a finding of its own and does not hide the others.
#[must_use]
pub fn parse_yaml(source_name: &str, text: &str) -> (Vec<KubeObject>, Vec<Finding>) {
    let (mut objects, mut findings) = (Vec::new(), Vec::new());
    for (line, document) in documents(text) {
        if document
            .lines()
            .all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'))
        {
            continue;
        }
        match serde_saphyr::from_str::<Value>(&document) {
            Ok(value) => parse_value(source_name, value, &mut objects, &mut findings),
            Err(error) => {
                let message = error.to_string();
                let source = ObjectRef::cluster(ObjectKind::Document, source_name);
                findings.push(Finding::error(
                    &source,
                    format!("document at line {line}"),
                    "NotYaml",
                    message.trim().to_owned(),
                ));
            }
        }
    }
    (objects, findings)
}

/// Reads one JSON value: an object, or a `List` of objects.
#[must_use]
pub fn parse_json(source_name: &str, value: Value) -> (Vec<KubeObject>, Vec<Finding>) {
    let (mut objects, mut findings) = (Vec::new(), Vec::new());
    parse_value(source_name, value, &mut objects, &mut findings);
    (objects, findings)
}

/// The documents with the line each starts at. `---` at the beginning of a line is always a border in YAML.
fn documents(text: &str) -> Vec<(usize, String)> {
    let mut found = vec![(1, String::new())];
    for (index, line) in text.lines().enumerate() {
        if line == "---" || line.starts_with("--- ") || line.starts_with("---\t") {
            found.push((index + 1, String::new()));
        } else if line.trim_end() == "..." {
            found.push((index + 2, String::new()));
        } else if let Some((_, document)) = found.last_mut() {
            document.push_str(line);
            document.push('\n');
        }
    }
    found
}

fn parse_value(
    source_name: &str,
    mut value: Value,
    objects: &mut Vec<KubeObject>,
    findings: &mut Vec<Finding>,
) {
    let text = |pointer: &str| {
        value
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let (api_version, kind, namespace, name) = (
        text("/apiVersion"),
        text("/kind"),
        text("/metadata/namespace"),
        text("/metadata/name"),
    );
    if kind.is_empty() || api_version.is_empty() {
        if !value.is_null() {
            let source = ObjectRef::cluster(ObjectKind::Document, source_name);
            findings.push(Finding::error(
                &source,
                "",
                "NotAnObject",
                "apiVersion or kind is missing",
            ));
        }
        return;
    }
    if kind.ends_with("List")
        && let Some(Value::Array(items)) = value.get_mut("items").map(Value::take)
    {
        for item in items {
            parse_value(source_name, item, objects, findings);
        }
        return;
    }
    // Everything else of a chart is none of the mesh's business.
    let Some(object_kind) = kind_of(&api_version, &kind) else {
        return;
    };
    let namespace = match object_kind {
        ObjectKind::Mesh | ObjectKind::Namespace => "",
        _ if namespace.is_empty() => "default",
        _ => namespace.as_str(),
    };
    let reference = ObjectRef::new(
        object_kind,
        namespace,
        if name.is_empty() { "?" } else { &name },
    );
    take(reference, &kind, value, objects, findings);
}

/// Reads one object of a kind that counts.
fn take(
    reference: ObjectRef,
    kind: &str,
    value: Value,
    objects: &mut Vec<KubeObject>,
    findings: &mut Vec<Finding>,
) {
    match read(reference.kind, kind, &value) {
        Ok(object) => objects.extend(object),
        Err(unread) => {
            findings.push(Finding::error(
                &reference,
                unread.path.clone(),
                "Invalid",
                unread.reason.clone(),
            ));
            objects.extend(unreadable(reference, &unread, value));
        }
    }
}

fn kind_of(api_version: &str, kind: &str) -> Option<ObjectKind> {
    Some(match (group(api_version), kind) {
        ("", "Namespace") => ObjectKind::Namespace,
        ("", "Service") => ObjectKind::Service,
        ("", "Pod") => ObjectKind::Pod,
        ("discovery.k8s.io", "EndpointSlice") => ObjectKind::EndpointSlice,
        ("apps", "Deployment" | "StatefulSet" | "DaemonSet") | ("batch", "Job" | "CronJob") => {
            ObjectKind::Workload
        }
        ("heddle.dev", "Mesh") => ObjectKind::Mesh,
        ("heddle.dev", "TrafficSplit") => ObjectKind::TrafficSplit,
        ("heddle.dev", "AuthPolicy") => ObjectKind::AuthPolicy,
        _ => return None,
    })
}

fn group(api_version: &str) -> &str {
    api_version.split_once('/').map_or("", |(group, _)| group)
}

/// Why a value does not fit its type.
struct Unread {
    path: String,
    reason: String,
}

fn typed<T: DeserializeOwned>(value: &Value) -> Result<T, Unread> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        Unread {
            path: if path == "." { String::new() } else { path },
            reason: error.into_inner().to_string(),
        }
    })
}

fn read(kind: ObjectKind, name: &str, value: &Value) -> Result<Option<KubeObject>, Unread> {
    Ok(Some(match kind {
        ObjectKind::Document => return Ok(None),
        ObjectKind::Namespace => KubeObject::Namespace(Arc::new(typed(value)?)),
        ObjectKind::Service => KubeObject::Service(Arc::new(typed(value)?)),
        ObjectKind::Pod => KubeObject::Pod(Arc::new(typed(value)?)),
        ObjectKind::EndpointSlice => KubeObject::EndpointSlice(Arc::new(typed(value)?)),
        ObjectKind::Workload => return workload(name, value),
        ObjectKind::Mesh => KubeObject::Mesh(Arc::new(typed(value)?)),
        ObjectKind::TrafficSplit => KubeObject::TrafficSplit(Arc::new(typed(value)?)),
        ObjectKind::AuthPolicy => KubeObject::AuthPolicy(Arc::new(typed(value)?)),
    }))
}

fn workload(kind: &str, value: &Value) -> Result<Option<KubeObject>, Unread> {
    let (metadata, template): (ObjectMeta, Option<core::PodTemplateSpec>) = match kind {
        "Deployment" => {
            typed::<apps::Deployment>(value).map(|o| (o.metadata, o.spec.map(|s| s.template)))?
        }
        "StatefulSet" => {
            typed::<apps::StatefulSet>(value).map(|o| (o.metadata, o.spec.map(|s| s.template)))?
        }
        "DaemonSet" => {
            typed::<apps::DaemonSet>(value).map(|o| (o.metadata, o.spec.map(|s| s.template)))?
        }
        "Job" => typed::<batch::Job>(value).map(|o| (o.metadata, o.spec.map(|s| s.template)))?,
        "CronJob" => typed::<batch::CronJob>(value).map(|o| {
            (
                o.metadata,
                o.spec.and_then(|s| s.job_template.spec).map(|s| s.template),
            )
        })?,
        _ => return Ok(None),
    };
    Ok(template.map(|template| {
        KubeObject::Template(Arc::new(WorkloadTemplate {
            kind: kind.to_owned(),
            metadata,
            template,
        }))
    }))
}

/// Our own kinds stay in the world even when they cannot be read; others are as if absent.
fn unreadable(object: ObjectRef, unread: &Unread, value: Value) -> Option<KubeObject> {
    match object.kind {
        ObjectKind::Mesh | ObjectKind::TrafficSplit | ObjectKind::AuthPolicy => {
            let generation = value
                .pointer("/metadata/generation")
                .and_then(Value::as_i64)
                .unwrap_or_default();
            let reason = if unread.path.is_empty() {
                unread.reason.clone()
            } else {
                format!("{}: {}", unread.path, unread.reason)
            };
            Some(KubeObject::Unreadable(Arc::new(Unreadable {
                object,
                generation,
                reason,
                value,
            })))
        }
        ObjectKind::Document
        | ObjectKind::Namespace
        | ObjectKind::Service
        | ObjectKind::EndpointSlice
        | ObjectKind::Pod
        | ObjectKind::Workload => None,
    }
}
