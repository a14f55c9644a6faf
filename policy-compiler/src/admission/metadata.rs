//! The metadata of an object: its name, the fields that the API server reads, and the syntax of labels.

use serde_json::{Map, Value};

use super::Violation;
use crate::world::{
    MAX_LABEL, MAX_NAME, is_dns_label, is_label_key, is_label_value, is_namespace_name, too_large,
};

/// The fields of `ObjectMeta`.
const FIELDS: [&str; 15] = [
    "annotations",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "labels",
    "managedFields",
    "name",
    "namespace",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// Returns the violations of the name, or of the prefix that the API server completes by letters and digits.
pub(super) fn name(object: &Value) -> Vec<Violation> {
    let text = |field: &str| object.pointer(field).and_then(Value::as_str);
    let subdomain = |name: &str| name.len() <= MAX_NAME && name.split('.').all(is_dns_label);
    let name = text("/metadata/name").filter(|name| !name.is_empty());
    let prefix = text("/metadata/generateName").filter(|prefix| !prefix.is_empty());
    match (name, prefix) {
        (Some(name), _) if !subdomain(name) => vec![violation(
            "metadata.name",
            (
                format!("{name:?} is not a name"),
                format!("use lower-case letters, digits, - and ., at most {MAX_NAME} characters"),
            ),
        )],
        (None, Some(prefix)) if !subdomain(&format!("{prefix}x")) => vec![violation(
            "metadata.generateName",
            (
                format!("{prefix:?} is not the start of a name"),
                "use lower-case letters, digits, - and .".to_owned(),
            ),
        )],
        (Some(_) | None, _) => Vec::new(),
    }
}

/// Returns the other violations of the metadata.
pub(super) fn violations(object: &Value) -> Vec<Violation> {
    let Some(Value::Object(metadata)) = object.get("metadata") else {
        return Vec::new();
    };
    let unknown = metadata.keys().filter(|f| !FIELDS.contains(&f.as_str()));
    let mut found: Vec<Violation> = unknown.map(|field| unknown_field(field)).collect();
    if let Some(Value::String(namespace)) = metadata.get("namespace")
        && !namespace.is_empty()
        && !is_namespace_name(namespace)
    {
        let reason = (
            format!("{namespace:?} is not the name of a namespace"),
            format!("use lower-case letters, digits and -, at most {MAX_LABEL} characters"),
        );
        found.push(violation("metadata.namespace", reason));
    }
    found.extend(entries(metadata, "labels").flat_map(|(key, value)| label(key, value)));
    let annotations = entries(metadata, "annotations");
    let annotations = annotations.filter(|(key, _)| !is_label_key(&key.to_lowercase()));
    found.extend(annotations.map(|(key, _)| key_violation("annotations", key)));
    let annotations = entries(metadata, "annotations");
    let annotations = annotations.filter_map(|(key, value)| Some((key, value.as_str()?)));
    if let Some((reason, fix)) = too_large(annotations) {
        found.push(Violation::new("metadata.annotations", reason, fix));
    }
    found
}

fn violation(field: &str, (reason, fix): (String, String)) -> Violation {
    Violation::new(field, reason, fix)
}

fn unknown_field(field: &str) -> Violation {
    let near = FIELDS
        .into_iter()
        .find(|known| strsim::normalized_levenshtein(known, field) >= 0.7);
    let fix = near.map_or_else(
        || "correct or remove it".to_owned(),
        |near| format!("did you mean {near}?"),
    );
    let at = format!("metadata.{field}");
    violation(&at, (format!("unknown field {field:?}"), fix))
}

fn entries<'a>(
    metadata: &'a Map<String, Value>,
    field: &str,
) -> impl Iterator<Item = (&'a String, &'a Value)> {
    let entries = metadata.get(field).and_then(Value::as_object);
    entries.into_iter().flatten()
}

fn label(key: &str, value: &Value) -> Vec<Violation> {
    let mut found = Vec::new();
    if !is_label_key(key) {
        found.push(key_violation("labels", key));
    }
    if let Some(value) = value.as_str().filter(|value| !is_label_value(value)) {
        let reason = (
            format!("{value:?} is not a value of a label"),
            format!(
                "use at most {MAX_LABEL} letters, digits, -, _ and ., with a letter or digit at both ends"
            ),
        );
        found.push(violation(&format!("metadata.labels.{key}"), reason));
    }
    found
}

fn key_violation(field: &str, key: &str) -> Violation {
    let reason = (
        format!("{key:?} is not a key"),
        format!(
            "use a name of at most {MAX_LABEL} letters, digits, -, _ and ., after a DNS name and / if there is one"
        ),
    );
    violation(&format!("metadata.{field}"), reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn metadata_that_the_api_server_refuses_is_told() {
        let long = "a".repeat(64);
        for (metadata, field) in [
            (
                json!({"name": "a", "annotations": {"Example.com/A_b": "x y"}}),
                None,
            ),
            (
                json!({"name": "a", "labels": {"app": "", "a.b/c_d": "E.f"}}),
                None,
            ),
            (json!({"generateName": "a-"}), None),
            (json!({"generateName": "A-"}), Some("metadata.generateName")),
            (json!({"name": "a_b"}), Some("metadata.name")),
            (
                json!({"name": "a", "annotation": {}}),
                Some("metadata.annotation"),
            ),
            (
                json!({"name": "a", "clusterName": "x"}),
                Some("metadata.clusterName"),
            ),
            (
                json!({"name": "a", "namespace": "Shop"}),
                Some("metadata.namespace"),
            ),
            (
                json!({"name": "a", "namespace": "a.b"}),
                Some("metadata.namespace"),
            ),
            (
                json!({"name": "a", "labels": {"app": "a b"}}),
                Some("metadata.labels.app"),
            ),
            (
                json!({"name": "a", "labels": {"app": long}}),
                Some("metadata.labels.app"),
            ),
            (
                json!({"name": "a", "labels": {"a/b/c": "x"}}),
                Some("metadata.labels"),
            ),
            (
                json!({"name": "a", "labels": {"-a": "x"}}),
                Some("metadata.labels"),
            ),
            (
                json!({"name": "a", "annotations": {"a b": "x"}}),
                Some("metadata.annotations"),
            ),
        ] {
            let object = json!({"metadata": metadata});
            let mut found = name(&object);
            found.extend(violations(&object));
            let fields: Vec<&str> = found.iter().map(|v| v.field.as_str()).collect();
            assert_eq!(fields, field.into_iter().collect::<Vec<_>>(), "{object}");
        }
        let of = |bytes: usize| json!({"metadata": {"annotations": {"a": "x".repeat(bytes / 2 - 1), "b": "x".repeat(bytes - bytes / 2 - 1)}}});
        assert!(violations(&of(256 << 10)).is_empty());
        let large = violations(&of((256 << 10) + 1));
        assert!(
            large[0]
                .reason
                .starts_with("the annotations have 262145 bytes")
        );
        let near = violations(&json!({"metadata": {"annotation": {}}}));
        assert!(near[0].fix.ends_with("did you mean annotations?"));
    }
}
