//! Text in: multi-document YAML or JSON, as `kubectl apply -f` takes it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use heddle_crds::Kind;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::documents::documents;
use super::recognize::{Recognized, recognize};
use super::{KubeObject, Unreadable, convert, mirrored, workload};
use crate::admission;
use crate::finding::{Finding, ObjectKind, ObjectRef};

/// The place of an object in a source text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The name of the source: a path, or `-` for standard input.
    pub source: Arc<str>,
    /// The line at which the document starts, counted from 1. `None` for an object that did not come as text.
    pub line: Option<usize>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}", self.source),
            None => f.write_str(&self.source),
        }
    }
}

/// One object of a source text.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// The name of the object. An object with `generateName` has that prefix as its name.
    pub reference: ObjectRef,
    /// The kind as the text has it, for example `Deployment` for a workload.
    pub kind: Arc<str>,
    /// Whether the API server completes the name, so that two objects of this name are different ones.
    pub generated: bool,
    /// The place in the source.
    pub place: Place,
    /// The object.
    pub object: KubeObject,
}

/// The content of a source text.
#[derive(Clone, Debug, Default)]
pub struct Manifests {
    /// The objects that the compiler reads, in the order of the text.
    pub objects: Vec<Manifest>,
    /// Problems of the text.
    pub findings: Vec<Finding>,
    /// How many objects of each other kind are in the text.
    pub skipped: BTreeMap<String, usize>,
}

impl Manifests {
    fn add(
        &mut self,
        place: &Place,
        head: &Head,
        reference: ObjectRef,
        object: Option<KubeObject>,
    ) {
        self.objects.extend(object.map(|object| Manifest {
            reference,
            kind: head.kind.as_str().into(),
            generated: head.generated,
            place: place.clone(),
            object,
        }));
    }

    /// Returns the objects alone, and the problems of the text.
    #[must_use]
    pub fn into_objects(self) -> (Vec<KubeObject>, Vec<Finding>) {
        let objects = self.objects.into_iter().map(|manifest| manifest.object);
        (objects.collect(), self.findings)
    }
}

/// Reads all documents of a text. A document that is not YAML is a finding of its own and does not hide the others.
#[must_use]
pub fn parse_yaml(source_name: &str, text: &str) -> Manifests {
    let mut found = Manifests::default();
    for document in documents(text) {
        let place = Place {
            source: source_name.into(),
            line: Some(document.line),
        };
        match convert::value(&document.text) {
            Ok(value) => parse_value(&place, value, &mut found),
            Err(message) => found.findings.push(about(&place, "NotYaml", message)),
        }
    }
    found
}

/// Reads one JSON value: an object, or a `List` of objects.
#[must_use]
pub fn parse_json(source_name: &str, value: Value) -> (Vec<KubeObject>, Vec<Finding>) {
    let place = Place {
        source: source_name.into(),
        line: None,
    };
    let mut found = Manifests::default();
    parse_value(&place, value, &mut found);
    found.into_objects()
}

/// Returns a warning for each object that stands more than once. The latter one counts, as with `kubectl apply`.
#[must_use]
pub fn duplicates<'a>(manifests: impl IntoIterator<Item = &'a Manifest>) -> Vec<Finding> {
    let mut first: BTreeMap<&ObjectRef, &Manifest> = BTreeMap::new();
    let mut findings = Vec::new();
    for manifest in manifests.into_iter().filter(|m| !m.generated) {
        let Some(earlier) = first.insert(&manifest.reference, manifest) else {
            continue;
        };
        let (a, b) = (&earlier.place, &manifest.place);
        let (message, fix) = if earlier.kind == manifest.kind {
            let message = format!("the object is in {a} and in {b}; the latter counts");
            (message, "remove one")
        } else {
            let message = format!(
                "{} ({a}) and {} ({b}) have the same name; only the latter is looked at",
                earlier.kind, manifest.kind
            );
            (message, "give one another name")
        };
        findings.push(Finding::warning(&manifest.reference, "", "Duplicate", message).fix(fix));
    }
    findings
}

fn about(place: &Place, code: &'static str, message: impl Into<String>) -> Finding {
    let source = ObjectRef::cluster(ObjectKind::Document, &place.source);
    let field = place.line.map(|line| format!("document at line {line}"));
    Finding::error(&source, field.unwrap_or_default(), code, message)
}

/// The type and the name of an object.
struct Head {
    api_version: String,
    kind: String,
    namespace: String,
    name: String,
    generated: bool,
}

fn head(value: &Value) -> Head {
    let text = |pointer: &str| {
        let text = value.pointer(pointer).and_then(Value::as_str);
        text.unwrap_or_default().to_owned()
    };
    let (name, prefix) = (text("/metadata/name"), text("/metadata/generateName"));
    let generated = name.is_empty() && !prefix.is_empty();
    Head {
        api_version: text("/apiVersion"),
        kind: text("/kind"),
        namespace: text("/metadata/namespace"),
        name: if generated {
            prefix.trim_end_matches('-').to_owned()
        } else {
            name
        },
        generated,
    }
}

fn parse_value(place: &Place, mut value: Value, found: &mut Manifests) {
    let head = head(&value);
    if head.kind.is_empty() || head.api_version.is_empty() {
        if !value.is_null() {
            let message = "apiVersion or kind is missing";
            found.findings.push(about(place, "NotAnObject", message));
        }
        return;
    }
    if let Some(item_kind) = head.kind.strip_suffix("List")
        && let Some(Value::Array(items)) = value.get_mut("items").map(Value::take)
    {
        for mut item in items {
            // The items of a typed list, such as a ServiceList, have no type of their own.
            if let Value::Object(fields) = &mut item
                && !item_kind.is_empty()
            {
                fields.entry("kind").or_insert_with(|| item_kind.into());
                let api_version = || head.api_version.as_str().into();
                fields.entry("apiVersion").or_insert_with(api_version);
            }
            parse_value(place, item, found);
        }
        return;
    }
    match recognize(&head.api_version, &head.kind, &value) {
        Recognized::Read(kind) => take(place, kind, &head, value, found),
        Recognized::Refused {
            meant,
            code,
            message,
            fix,
        } => {
            let finding = match meant {
                Some(kind) => not_served(place, kind, &head, value, code, message, found),
                None => about(place, code, format!("{}: {message}", named(&head))),
            };
            found.findings.push(finding.fix(fix));
        }
        Recognized::Foreign { message, fix } => {
            let source = ObjectRef::cluster(ObjectKind::Document, &place.source);
            let message = format!("{}: {message}", named(&head));
            let finding = Finding::warning(&source, "apiVersion", "UnknownGroup", message);
            found.findings.push(finding.fix(fix));
        }
        Recognized::Template => {
            found.findings.push(template_not_read(place, &head));
            *found.skipped.entry(head.kind).or_default() += 1;
        }
        Recognized::Other if (&*head.api_version, &*head.kind) == ("v1", "Endpoints") => {
            let slices = mirrored::slices(&value).into_iter();
            slices.for_each(|slice| parse_value(place, slice, found));
        }
        Recognized::Other => *found.skipped.entry(head.kind).or_default() += 1,
    }
}

/// Reports an object whose version nobody serves. One of ours stays in the world: what a newer version wrote must not open what it closes.
fn not_served(
    place: &Place,
    kind: ObjectKind,
    head: &Head,
    value: Value,
    code: &'static str,
    message: String,
    found: &mut Manifests,
) -> Finding {
    let object = reference(kind, head);
    let unread = Unread {
        path: "apiVersion".to_owned(),
        reason: message.clone(),
    };
    let kept = unreadable(&object, &unread, value);
    let finding = Finding::error(&object, "apiVersion", code, message);
    found.add(place, head, object, kept);
    finding
}

fn template_not_read(place: &Place, head: &Head) -> Finding {
    let source = ObjectRef::cluster(ObjectKind::Document, &place.source);
    let message = format!(
        "{}: its pod templates are not looked at, for their place is not known",
        named(head)
    );
    Finding::info(&source, "", "TemplateNotRead", message)
}

/// The object as people write it: `AuthPolicy shop/cart`.
fn named(head: &Head) -> String {
    let slash = if head.namespace.is_empty() { "" } else { "/" };
    format!("{} {}{slash}{}", head.kind, head.namespace, head.name)
}

fn reference(kind: ObjectKind, head: &Head) -> ObjectRef {
    let namespace = match kind {
        ObjectKind::Mesh | ObjectKind::Namespace | ObjectKind::Document => "",
        ObjectKind::Service
        | ObjectKind::EndpointSlice
        | ObjectKind::Pod
        | ObjectKind::Workload
        | ObjectKind::TrafficSplit
        | ObjectKind::AuthPolicy => match head.namespace.as_str() {
            "" => "default",
            namespace => namespace,
        },
    };
    let name = match head.name.as_str() {
        "" => "?",
        name => name,
    };
    ObjectRef::new(kind, namespace, name)
}

/// The fields for which alone an API server's `Mesh` does not fit: its definition is newer than this version, and ignoring them opens
/// nothing. In a file, where no definition was asked, they are mistakes.
fn newer_fields(reference: &ObjectRef, value: &Value) -> Vec<Finding> {
    let stored = value.pointer("/metadata/uid").is_some();
    if reference.kind != ObjectKind::Mesh || !stored {
        return Vec::new();
    }
    let mut known = value.clone();
    let unknown = known
        .get_mut("spec")
        .map(|spec| heddle_crds::Kind::Mesh.remove_unknown(spec))
        .unwrap_or_default();
    if typed::<heddle_crds::Mesh>(&known).is_err() {
        return Vec::new();
    }
    let message = "this version does not know the field, and ignores it: the definition in the cluster is newer";
    let finding = |path: String| {
        let code = heddle_crds::reason::UNKNOWN_FIELD;
        Finding::warning(reference, format!("spec.{path}"), code, message)
            .fix("run the control plane of the definition's version")
    };
    unknown.into_iter().map(finding).collect()
}

/// Reads one object of a kind that counts.
fn take(place: &Place, kind: ObjectKind, head: &Head, mut value: Value, found: &mut Manifests) {
    let reference = reference(kind, head);
    if head.generated
        && let Some(Value::Object(metadata)) = value.get_mut("metadata")
    {
        metadata.insert("name".to_owned(), head.name.as_str().into());
    }
    // No API server has validated an object that comes as text.
    let refused = match place.line {
        Some(_) => refused(&reference, &value, &mut found.findings),
        None => None,
    };
    let read = match refused {
        Some(unread) => Ok((unreadable(&reference, &unread, value), Vec::new())),
        None => read(&reference, &head.kind, value),
    };
    let (object, findings) = match read {
        Ok((object, findings)) => (object, findings),
        Err((unread, value)) => {
            let mut findings = newer_fields(&reference, &value);
            if findings.is_empty() {
                let (path, reason) = (unread.path.clone(), unread.reason.clone());
                findings.push(Finding::error(&reference, path, "Invalid", reason));
            }
            (unreadable(&reference, &unread, value), findings)
        }
    };
    found.findings.extend(findings);
    found.add(place, head, reference, object);
}

/// Reports the reasons for which the API server refuses an object of ours, and returns the first.
fn refused(reference: &ObjectRef, value: &Value, findings: &mut Vec<Finding>) -> Option<Unread> {
    let kind = Kind::by_name(reference.kind.as_str())?;
    let violations = admission::violations(kind, value);
    findings.extend(violations.iter().map(|v| {
        let (field, reason) = (v.field.as_str(), v.reason.as_str());
        Finding::error(reference, field, "Invalid", reason)
    }));
    let first = violations.into_iter().next()?;
    Some(Unread {
        path: first.field,
        reason: first.reason,
    })
}

/// Why a value does not fit its type.
pub(super) struct Unread {
    /// The path of the field, without a leading dot; empty for the value as a whole.
    pub(super) path: String,
    /// The text of the reader.
    pub(super) reason: String,
}

pub(super) fn typed<T: DeserializeOwned>(value: &Value) -> Result<T, Unread> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        Unread {
            path: if path == "." { String::new() } else { path },
            reason: error.into_inner().to_string(),
        }
    })
}

fn shared<T: DeserializeOwned>(value: &Value) -> Result<Arc<T>, Unread> {
    typed(value).map(Arc::new)
}

/// An object, if the value holds one that counts, with its findings.
pub(super) type Read = (Option<KubeObject>, Vec<Finding>);

fn read(object: &ObjectRef, kind: &str, value: Value) -> Result<Read, (Unread, Value)> {
    let plain = |read: Result<KubeObject, Unread>, value: Value| match read {
        Ok(read) => Ok((Some(read), Vec::new())),
        Err(unread) => Err((unread, value)),
    };
    match object.kind {
        ObjectKind::Document => Ok((None, Vec::new())),
        ObjectKind::Namespace => plain(shared(&value).map(KubeObject::Namespace), value),
        ObjectKind::Service => plain(shared(&value).map(KubeObject::Service), value),
        ObjectKind::EndpointSlice => plain(shared(&value).map(KubeObject::EndpointSlice), value),
        ObjectKind::Mesh => plain(shared(&value).map(KubeObject::Mesh), value),
        ObjectKind::TrafficSplit => plain(shared(&value).map(KubeObject::TrafficSplit), value),
        ObjectKind::AuthPolicy => plain(shared(&value).map(KubeObject::AuthPolicy), value),
        ObjectKind::Pod => workload::pod(object, value),
        ObjectKind::Workload => workload::template(object, kind, value),
    }
}

/// Our own kinds stay in the world even when they cannot be read; others are as if absent.
fn unreadable(object: &ObjectRef, unread: &Unread, value: Value) -> Option<KubeObject> {
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
                object: object.clone(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_of_ours_in_another_version_stays_as_an_unreadable_one() {
        let text = "{apiVersion: heddle.dev/v2, kind: AuthPolicy, metadata: {name: a, namespace: shop}, spec: {}}";
        let read = parse_yaml("all.yaml", text);
        assert_eq!(read.findings.len(), 1, "{:?}", read.findings);
        assert_eq!(read.objects.len(), 1);
        let manifest = &read.objects[0];
        assert_eq!(manifest.reference.to_string(), "AuthPolicy shop/a");
        assert!(matches!(manifest.object, KubeObject::Unreadable(_)));
    }

    #[test]
    fn workloads_of_two_kinds_with_one_name_are_reported_but_generated_names_are_not() {
        let template = "{template: {spec: {containers: [{name: app}]}}}";
        let text = format!(
            "--- {{apiVersion: apps/v1, kind: Deployment, metadata: {{name: nightly}}, spec: {template}}}
--- {{apiVersion: batch/v1, kind: CronJob, metadata: {{name: nightly}}, spec: {{jobTemplate: {{spec: {template}}}}}}}
--- {{apiVersion: batch/v1, kind: Job, metadata: {{generateName: migrate-}}, spec: {template}}}
--- {{apiVersion: batch/v1, kind: Job, metadata: {{generateName: migrate-}}, spec: {template}}}"
        );
        let read = parse_yaml("all.yaml", &text);
        assert!(read.findings.is_empty(), "{:?}", read.findings);
        let found: Vec<String> = duplicates(&read.objects)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            found,
            [
                "Workload default/nightly: Deployment (all.yaml:1) and CronJob (all.yaml:2) have the same name; only the latter is looked at; give one another name"
            ]
        );
    }
}
