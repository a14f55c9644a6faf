//! The fields of the spec of a kind of another project, held against the lists of those that are supported and those that are not.

use std::collections::BTreeSet;

use kube::CustomResourceExt;
use serde_json::Value;

/// The paths of the fields of a schema that are not objects.
fn fields(schema: &Value, path: &str, found: &mut BTreeSet<String>) {
    let properties = schema.get("properties").and_then(Value::as_object);
    if let Some(items) = schema.get("items") {
        return fields(items, &format!("{path}[]"), found);
    }
    let Some(properties) = properties else {
        found.insert(path.to_owned());
        return;
    };
    let dot = if path.is_empty() { "" } else { "." };
    for (name, property) in properties {
        fields(property, &format!("{path}{dot}{name}"), found);
    }
}

/// The paths of the fields of the spec that a definition has, below `spec`.
pub fn of(definition: &Value) -> BTreeSet<String> {
    let schema = "/spec/versions/0/schema/openAPIV3Schema/properties/spec";
    let mut found = BTreeSet::new();
    fields(definition.pointer(schema).unwrap(), "", &mut found);
    found
}

/// Checks that every field of the spec of a kind is in one of two lists of the beginnings of fields, and that each entry has a field.
pub fn check<K: CustomResourceExt>(supported: &[&str], unsupported: &[&str]) {
    let found = of(&serde_json::to_value(K::crd()).unwrap());
    let in_list = |list: &[&str], field: &str| list.iter().any(|begin| field.starts_with(begin));
    for field in &found {
        // The answers of a backend and of a rule are changed by the same fields as requests.
        let field = field.replace("responseHeaderModifier", "requestHeaderModifier");
        assert_ne!(
            in_list(supported, &field),
            in_list(unsupported, &field),
            "{field}"
        );
    }
    for listed in supported.iter().chain(unsupported) {
        let there = found.iter().any(|field| field.starts_with(listed));
        assert!(there, "{listed} is not a field");
    }
}
