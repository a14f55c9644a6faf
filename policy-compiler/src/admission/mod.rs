//! Validation of Heddle's own kinds as the API server does it: the structural schema of the CRD, its defaults, its CEL rules,
//! and the metadata.
//! For objects that come from files, which no API server has validated.
//!
//! # Deliberately absent
//! Rules about a change (`oldSelf`): a file has no earlier version. `status`: the API server ignores it on create.

mod cel;
mod compiled;
mod metadata;
mod size;
mod structural;

use std::collections::BTreeMap;
use std::sync::OnceLock;

use heddle_crds::Kind;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::JSONSchemaProps;
use serde_json::Value;

/// Violations of one object that are reported; the API server bounds its own answer, too.
const MAX_VIOLATIONS: usize = 20;

/// One reason for which the API server refuses an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The path of the field, for example `spec.rules[0].to.methods[1]`.
    pub field: String,
    /// The reason.
    pub reason: String,
    /// The instruction to fix it.
    pub fix: String,
}

impl Violation {
    fn new(field: impl Into<String>, reason: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            reason: reason.into(),
            fix: fix.into(),
        }
    }
}

/// Returns the reasons for which the API server refuses an object of a kind, at most 20; none if it takes the object.
#[must_use]
pub fn violations(kind: Kind, object: &Value) -> Vec<Violation> {
    let Some(schema) = schemas().get(&kind) else {
        return Vec::new();
    };
    let mut found = metadata::name(object);
    let Some(spec) = of_spec(schema) else {
        return found;
    };
    let value = object.get("spec").filter(|spec| !spec.is_null()).cloned();
    match value.or_else(|| default_spec(kind)) {
        Some(mut value) => {
            structural::remove_nulls(spec, &mut value);
            structural::check(spec, &mut value, "spec", &mut found);
            if found.is_empty() {
                cel::check(spec, &value, "spec", &mut found);
            }
        }
        None if schema
            .required
            .iter()
            .flatten()
            .any(|field| field == "spec") =>
        {
            found.push(Violation::new("spec", "the field is required", "add it"));
        }
        None => {}
    }
    found.extend(top_level(spec, object));
    found.extend(metadata::violations(object));
    found.extend(size::violation(object));
    found.truncate(MAX_VIOLATIONS);
    found
}

/// Removes the nulls of the spec that the API server removes before it validates an object of a kind. A null of a nullable field stays, and
/// the type refuses it.
pub(crate) fn remove_nulls(kind: Kind, object: &mut Value) {
    if let Some(spec) = schemas().get(&kind).and_then(of_spec)
        && let Some(value) = object.get_mut("spec")
    {
        structural::remove_nulls(spec, value);
    }
}

fn of_spec(schema: &JSONSchemaProps) -> Option<&JSONSchemaProps> {
    schema.properties.as_ref()?.get("spec")
}

/// Returns the spec that the API server fills in for an object of a kind without one; none if the kind demands a spec.
#[must_use]
pub(crate) fn default_spec(kind: Kind) -> Option<Value> {
    let spec = of_spec(schemas().get(&kind)?)?;
    spec.default.as_ref().map(|default| default.0.clone())
}

/// Returns the fields beside `spec` that no object has. One that `spec` has is a slip of the indentation.
fn top_level(spec: &JSONSchemaProps, object: &Value) -> Vec<Violation> {
    let known = ["apiVersion", "kind", "metadata", "spec", "status"];
    let fields = object.as_object().into_iter().flat_map(|o| o.keys());
    let unknown = fields.filter(|field| !known.contains(&field.as_str()));
    let violation = |field: &String| {
        let below = spec
            .properties
            .as_ref()
            .is_some_and(|p| p.contains_key(field));
        let fix = match below {
            true => "indent it, so that it is a field of spec",
            false => "correct or remove it",
        };
        Violation::new(field, format!("unknown field {field:?}"), fix)
    };
    unknown.map(violation).collect()
}

/// The schemas of the installed definitions.
fn schemas() -> &'static BTreeMap<Kind, JSONSchemaProps> {
    static SCHEMAS: OnceLock<BTreeMap<Kind, JSONSchemaProps>> = OnceLock::new();
    SCHEMAS.get_or_init(|| {
        let all = Kind::ALL.iter().filter_map(|kind| {
            let version = kind.crd().spec.versions.into_iter().next()?;
            Some((*kind, version.schema?.open_api_v3_schema?))
        });
        all.collect()
    })
}

#[cfg(test)]
mod tests;
