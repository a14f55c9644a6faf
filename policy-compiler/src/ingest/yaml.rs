//! Text in: multi-document YAML or JSON, as `kubectl apply -f` takes it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use heddle_crds::Kind;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::documents::documents;
use super::recognize::{Recognized, recognize};
use super::unread::{Read, Unread, typed};
use super::{DeclaredObject, KubeObject, convert, list, mirrored, nameless, workload};
use crate::admission;
use crate::finding::{Finding, ObjectRef, Unfixed};
use crate::kind::{InputKind, ObjectKind, Role};

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
    /// The name of the object. An object with `generateName` has a name of its own that no object on a cluster can have.
    pub reference: ObjectRef,
    /// The kind as the text has it, for example `Deployment` for a workload.
    pub kind: Arc<str>,
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
    /// How many objects with `generateName` the text has, as far as it is read.
    pub generated: usize,
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
            Err(message) => {
                let fix = "correct the document; the others are read";
                found
                    .findings
                    .push(about(&place, "NotYaml", message).fix(fix));
            }
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
    for manifest in manifests {
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

fn about(place: &Place, code: &'static str, message: impl Into<String>) -> Unfixed {
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

fn head(place: &Place, value: &Value, generated: &mut usize) -> Head {
    let text = |pointer: &str| {
        let text = value.pointer(pointer).and_then(Value::as_str);
        text.unwrap_or_default().to_owned()
    };
    let (mut name, prefix) = (text("/metadata/name"), text("/metadata/generateName"));
    let completed = name.is_empty() && !prefix.is_empty();
    if completed {
        *generated += 1;
        name = generated_name(&prefix, place, *generated);
    }
    Head {
        api_version: text("/apiVersion"),
        kind: text("/kind"),
        namespace: text("/metadata/namespace"),
        name,
        generated: completed,
    }
}

/// Returns the name of the nth object with `generateName` of a source. The API server makes each such object another one, so that its name
/// must be no other's: no name of Kubernetes has an underscore, and two sources differ in their hash.
fn generated_name(prefix: &str, place: &Place, nth: usize) -> String {
    let digest = Sha256::digest(place.source.as_bytes());
    let source: String = digest.iter().take(4).map(|b| format!("{b:02x}")).collect();
    format!("{prefix}_{nth}-{source}")
}

fn parse_value(place: &Place, mut value: Value, found: &mut Manifests) {
    let head = head(place, &value, &mut found.generated);
    if head.kind.is_empty() || head.api_version.is_empty() {
        let finding = (!value.is_null()).then(|| not_an_object(place));
        found.findings.extend(finding);
        return;
    }
    match list::of(&head.api_version, &head.kind, &mut value) {
        Some(Ok(items)) => return take_items(place, items, found),
        Some(Err((message, fix))) => {
            let finding = about(place, "NotAList", message).fix(fix);
            return found.findings.push(finding);
        }
        None => {}
    }
    let recognized = recognize(&head.api_version, &head.kind, &value);
    normalize(place, &recognized, &mut value);
    complete_name(&head, &recognized, &mut value);
    match recognized {
        Recognized::Read(kind) => take(place, kind, &head, value, found),
        Recognized::Refused {
            meant,
            code,
            message,
            fix,
        } => {
            let finding = match meant {
                Some(kind) => not_served(place, kind, &head, value, (code, message, fix), found),
                None => about(place, code, format!("{}: {message}", named(&head))).fix(fix),
            };
            found.findings.push(finding);
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

fn take_items(place: &Place, items: Vec<Value>, found: &mut Manifests) {
    for (index, item) in items.into_iter().enumerate() {
        if item.is_null() {
            let message = format!("items[{index}] is null, and not an object");
            let finding =
                about(place, "NotAnObject", message).fix("write the object, or remove the item");
            found.findings.push(finding);
        }
        parse_value(place, item, found);
    }
}

/// Treats nulls and empty strings as the API server does. An object that comes from one needs it no more.
fn normalize(place: &Place, recognized: &Recognized, value: &mut Value) {
    let kind = match recognized {
        Recognized::Read(kind) => Some(*kind),
        Recognized::Refused { meant, .. } => *meant,
        Recognized::Foreign { .. } | Recognized::Template | Recognized::Other => None,
    };
    if place.line.is_none() {
        return;
    }
    let Some(kind) = kind.filter(|kind| kind.is_declared()) else {
        return convert::as_type_of_go(value);
    };
    if let Some(metadata) = value.get_mut("metadata") {
        convert::as_type_of_go(metadata);
    }
    match Kind::by_name(kind.as_str()) {
        Some(own) => admission::remove_nulls(own, value),
        None => convert::remove_nulls(value),
    }
}

/// Writes the name of an object with `generateName` into it. One of our kinds is validated as it stands in the text.
fn complete_name(head: &Head, recognized: &Recognized, value: &mut Value) {
    let declared = matches!(recognized, Recognized::Read(kind) if kind.is_declared());
    if head.generated
        && !declared
        && let Some(Value::Object(metadata)) = value.get_mut("metadata")
    {
        metadata.insert("name".to_owned(), head.name.as_str().into());
    }
}

/// Reports an object with a version that is not served. One of our own kinds stays in the world: an object of a newer version must not
/// open the ports that it closes.
fn not_served(
    place: &Place,
    kind: ObjectKind,
    head: &Head,
    value: Value,
    (code, message, fix): (&'static str, String, String),
    found: &mut Manifests,
) -> Finding {
    let object = reference(kind, head);
    let unread = Unread {
        path: "apiVersion".to_owned(),
        reason: message.clone(),
        fix: fix.clone(),
    };
    let kept = kind
        .is_declared()
        .then(|| declared(&object, value, Some(unread), &mut found.findings));
    let finding = Finding::error(&object, "apiVersion", code, message).fix(fix);
    found.add(place, head, object, kept);
    finding
}

fn not_an_object(place: &Place) -> Finding {
    about(place, "NotAnObject", "apiVersion or kind is missing")
        .fix("add both, or remove the document")
}

fn template_not_read(place: &Place, head: &Head) -> Finding {
    let source = ObjectRef::cluster(ObjectKind::Document, &place.source);
    let message = format!(
        "{}: its pod templates are not looked at, for their place is not known",
        named(head)
    );
    Finding::info(&source, "", "TemplateNotRead", message)
        .fix("add a workload of Kubernetes with the template, or ask the cluster")
}

/// The object as people write it: `AuthPolicy shop/cart`.
fn named(head: &Head) -> String {
    let slash = if head.namespace.is_empty() { "" } else { "/" };
    format!("{} {}{slash}{}", head.kind, head.namespace, head.name)
}

fn reference(kind: ObjectKind, head: &Head) -> ObjectRef {
    let namespace = kind.namespace_of(Some(&head.namespace));
    let name = match head.name.as_str() {
        "" => "?",
        name => name,
    };
    ObjectRef::new(kind, namespace, name)
}

/// Reads one object of a kind that counts.
fn take(place: &Place, kind: ObjectKind, head: &Head, value: Value, found: &mut Manifests) {
    let reference = reference(kind, head);
    let (object, findings) = match kind.role() {
        Role::Settings | Role::Policy => own(place, &reference, head, value),
        Role::Input(input) => match read(input, &reference, &head.kind, value) {
            Ok(read) => read,
            Err(Unread { path, reason, fix }) => {
                let finding = Finding::error(&reference, path, "Invalid", reason);
                (None, vec![finding.fix(fix)])
            }
        },
    };
    found.findings.extend(findings);
    found.add(place, head, reference, object);
}

/// Takes an object of a declared kind. No API server has validated one that comes as text.
fn own(place: &Place, reference: &ObjectRef, head: &Head, value: Value) -> Read {
    let mut findings = Vec::new();
    if head.name.is_empty() {
        findings.push(nameless(reference));
        return (None, findings);
    }
    let refused = match place.line {
        Some(_) => refused(reference, &value, &mut findings),
        None => None,
    };
    let object = declared(reference, value, refused, &mut findings);
    (Some(object), findings)
}

fn declared(
    reference: &ObjectRef,
    value: Value,
    refused: Option<Unread>,
    findings: &mut Vec<Finding>,
) -> KubeObject {
    let object = DeclaredObject::new(reference, value, refused, findings);
    KubeObject::Declared(Arc::new(object))
}

/// Reports the reasons for which the API server refuses an object of ours, and returns the first.
fn refused(reference: &ObjectRef, value: &Value, findings: &mut Vec<Finding>) -> Option<Unread> {
    let kind = Kind::by_name(reference.kind.as_str())?;
    let violations = admission::violations(kind, value);
    findings.extend(violations.iter().map(|v| {
        let (field, reason) = (v.field.as_str(), v.reason.as_str());
        Finding::error(reference, field, "Invalid", reason).fix(&*v.fix)
    }));
    let first = violations.into_iter().next()?;
    Some(Unread {
        path: first.field,
        reason: first.reason,
        fix: first.fix,
    })
}

fn shared<T: DeserializeOwned>(value: &Value) -> Result<Arc<T>, Unread> {
    typed(value).map(Arc::new)
}

/// Reads an object through its type.
fn read(input: InputKind, object: &ObjectRef, kind: &str, value: Value) -> Result<Read, Unread> {
    let plain = |object: KubeObject| (Some(object), Vec::new());
    match input {
        InputKind::Document => Ok((None, Vec::new())),
        InputKind::Namespace => Ok(plain(KubeObject::Namespace(shared(&value)?))),
        InputKind::Service => Ok(plain(KubeObject::Service(shared(&value)?))),
        InputKind::EndpointSlice => Ok(plain(KubeObject::EndpointSlice(shared(&value)?))),
        InputKind::Pod => workload::pod(object, value),
        InputKind::Workload => workload::template(object, kind, value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::World;

    #[test]
    fn an_object_of_ours_in_another_version_stays_as_an_unreadable_one() {
        let text = "{apiVersion: heddle.dev/v2, kind: AuthPolicy, metadata: {name: a, namespace: shop}, spec: {}}";
        let read = parse_yaml("all.yaml", text);
        assert_eq!(read.findings.len(), 1, "{:?}", read.findings);
        assert_eq!(read.objects.len(), 1);
        let manifest = &read.objects[0];
        assert_eq!(manifest.reference.to_string(), "AuthPolicy shop/a");
        assert!(
            matches!(&manifest.object, KubeObject::Declared(object) if object.refused.is_some())
        );
    }

    fn reported_twice(read: &Manifests) -> Vec<String> {
        let found = duplicates(&read.objects);
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn workloads_of_two_kinds_with_one_name_are_reported_but_generated_names_are_not() {
        let template = "{template: {spec: {containers: [{name: app}]}}}";
        let text = format!(
            "--- {{apiVersion: apps/v1, kind: Deployment, metadata: {{name: nightly}}, spec: {template}}}
--- {{apiVersion: batch/v1, kind: CronJob, metadata: {{name: nightly}}, spec: {{jobTemplate: {{spec: {template}}}}}}}
--- {{apiVersion: apps/v1, kind: Deployment, metadata: {{name: migrate}}, spec: {template}}}
--- {{apiVersion: batch/v1, kind: Job, metadata: {{generateName: migrate-}}, spec: {template}}}
--- {{apiVersion: batch/v1, kind: Job, metadata: {{generateName: migrate-}}, spec: {template}}}"
        );
        let read = parse_yaml("all.yaml", &text);
        assert!(read.findings.is_empty(), "{:?}", read.findings);
        assert_eq!(
            reported_twice(&read),
            [
                "Workload default/nightly: Deployment (all.yaml:1) and CronJob (all.yaml:2) have the same name; only the latter is looked at; give one another name"
            ]
        );
        let mut world = World::builder();
        for object in read.into_objects().0 {
            world.apply(object);
        }
        assert_eq!(world.world().pods.len(), 4, "both jobs beside migrate");
    }

    #[test]
    fn every_object_with_a_generated_name_is_one_of_its_own() {
        let objects = |metadata: &str| {
            format!(
                "--- {{apiVersion: v1, kind: Service, metadata: {metadata}, spec: {{}}}}
--- {{apiVersion: heddle.dev/v1alpha1, kind: AuthPolicy, metadata: {metadata}, spec: {{}}}}
--- {{apiVersion: heddle.dev/v1alpha1, kind: Mesh, metadata: {metadata}, spec: {{}}}}
"
            )
        };
        let named = objects("{name: default}");
        let generated = objects("{generateName: default-}");
        let text = format!("{named}{generated}{generated}");
        let read = parse_yaml("a.yaml", &text);
        assert_eq!(reported_twice(&read), [""; 0]);
        let again = parse_yaml("a.yaml", &text);
        let elsewhere = parse_yaml("b.yaml", &generated);
        let names = |read: &Manifests| -> Vec<ObjectRef> {
            let all = read.objects.iter().map(|m| m.reference.clone());
            all.collect()
        };
        assert_eq!(names(&read), names(&again));
        let mut all = names(&read);
        all.extend(names(&elsewhere));
        let distinct: std::collections::BTreeSet<&ObjectRef> = all.iter().collect();
        assert_eq!(distinct.len(), 12);
        let defaults = all.iter().filter(|object| &*object.name == "default");
        assert_eq!(defaults.count(), 3, "{all:?}");
    }
}
