//! Validation of Heddle's own kinds as the API server does it: the structural schema of the CRD, its defaults, and its CEL rules.
//! For objects that come from files, which no API server has validated.
//!
//! # Deliberately absent
//! Rules about a change (`oldSelf`): a file has no earlier version. `status`: the API server ignores it on create.

mod cel;
mod structural;

use std::collections::BTreeMap;
use std::sync::OnceLock;

use heddle_crds::Kind;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::JSONSchemaProps;
use serde_json::Value;

/// Violations of one object that are reported; the API server bounds its own answer, too.
const MAX_VIOLATIONS: usize = 20;

/// The longest name of an object of ours: a DNS subdomain.
const MAX_NAME: usize = 253;

/// One reason for which the API server refuses an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The path of the field, for example `spec.rules[0].to.methods[1]`.
    pub field: String,
    /// The reason.
    pub reason: String,
}

/// Returns the reasons for which the API server refuses an object of a kind, at most 20; none if it takes the object.
#[must_use]
pub fn violations(kind: Kind, object: &Value) -> Vec<Violation> {
    let Some(schema) = schemas().get(&kind) else {
        return Vec::new();
    };
    let mut found = name(object);
    let properties = schema.properties.as_ref();
    let Some(spec) = properties.and_then(|properties| properties.get("spec")) else {
        return found;
    };
    match object.get("spec").filter(|spec| !spec.is_null()) {
        Some(value) => {
            let mut value = value.clone();
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
            found.push(Violation {
                field: "spec".to_owned(),
                reason: "the field is required; add it".to_owned(),
            });
        }
        None => {}
    }
    found.truncate(MAX_VIOLATIONS);
    found
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

fn name(object: &Value) -> Vec<Violation> {
    let name = object.pointer("/metadata/name").and_then(Value::as_str);
    let label = |label: &str| {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        !label.is_empty()
            && label.bytes().all(|b| inner(b) || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    match name {
        Some(name) if name.len() > MAX_NAME || !name.split('.').all(label) => vec![Violation {
            field: "metadata.name".to_owned(),
            reason: format!(
                "{name:?} is not a name; use lower-case letters, digits, - and ., at most {MAX_NAME} characters"
            ),
        }],
        Some(_) | None => Vec::new(),
    }
}

#[cfg(test)]
mod tests;
