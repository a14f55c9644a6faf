//! Changes of a derived CRD, after which an API server accepts it without a warning.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSON, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};

/// Where the objects of a kind live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// One name space for the whole cluster.
    Cluster,
    /// In a namespace.
    Namespaced,
}

/// The treatment of a null in an optional field of a spec that has no default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nulls {
    /// The API server takes it for a field left out: templates that render a missing value mean that.
    Pruned,
    /// It stays and the type refuses it: left out, the field would mean "any", and a template with a missing value
    /// must not open access that its author meant to close.
    Refused,
}

/// The choices of a kind that its type does not express.
pub(crate) trait Definition {
    /// The treatment of nulls in a spec.
    const NULLS: Nulls;
}

/// Adapts a derived definition to the API server and to the readers of its documentation.
///
/// - Formats: Rust's unsigned integers become `uint16` and the like, at which an API server warns; `minimum` and
///   `maximum` stand beside them, so the signed formats say the same.
/// - `nullable` in the spec: see [`Nulls`]. The derive's own follows the Rust type, not the meaning.
/// - Defaults within lists: said in the description, not filled in by the API server, see [`say_defaults_of_items`].
/// - A default for a spec that may be empty: see [`default_where_all_fields_have_one`].
/// - Descriptions: rustdoc's links and line breaks are for rustdoc.
pub(crate) fn polished(
    mut crd: CustomResourceDefinition,
    nulls: Nulls,
) -> CustomResourceDefinition {
    for version in &mut crd.spec.versions {
        if let Some(schema) = version
            .schema
            .as_mut()
            .and_then(|validation| validation.open_api_v3_schema.as_mut())
        {
            walk(schema, &mut polish);
            if let Some(spec) = schema
                .properties
                .as_mut()
                .and_then(|properties| properties.get_mut("spec"))
            {
                walk(spec, &mut |schema| judge_nulls(schema, nulls));
                walk(spec, &mut say_defaults_of_items);
                default_where_all_fields_have_one(spec);
            }
        }
    }
    crd
}

fn walk(schema: &mut JSONSchemaProps, visit: &mut impl FnMut(&mut JSONSchemaProps)) {
    visit(schema);
    for property in schema
        .properties
        .iter_mut()
        .flat_map(|properties| properties.values_mut())
    {
        walk(property, visit);
    }
    match &mut schema.items {
        Some(JSONSchemaPropsOrArray::Schema(items)) => walk(items, visit),
        Some(JSONSchemaPropsOrArray::Schemas(all)) => {
            all.iter_mut().for_each(|items| walk(items, visit))
        }
        None => {}
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        walk(values, visit);
    }
}

/// A list is replaced as a whole: were its items' defaults filled in by the API server, a manifest that leaves them out would differ from the
/// live object for ever, to tools that compare what each manager owns. The types have the same defaults, so nothing else changes.
fn say_defaults_of_items(schema: &mut JSONSchemaProps) {
    let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items else {
        return;
    };
    walk(items, &mut |item| {
        for field in item.properties.iter_mut().flat_map(|p| p.values_mut()) {
            if let Some(default) = field.default.take() {
                let text = field.description.get_or_insert_default();
                text.push_str(&format!(" Default: {}.", default.0));
            }
        }
    });
}

/// Server-side apply makes a null of a spec of which its manager owns no field, as of `spec: {}` in the second apply. The API server drops a
/// null only where it has a default to put there.
fn default_where_all_fields_have_one(spec: &mut JSONSchemaProps) {
    let mut fields = spec.properties.iter().flat_map(|fields| fields.values());
    if fields.all(|field| field.default.is_some()) {
        spec.default = Some(JSON(serde_json::json!({})));
    }
}

fn judge_nulls(schema: &mut JSONSchemaProps, nulls: Nulls) {
    let required = schema.required.clone().unwrap_or_default();
    for (name, field) in schema.properties.iter_mut().flatten() {
        let open = field.default.is_none() && !required.contains(name);
        field.nullable = match nulls {
            Nulls::Refused if open => Some(true),
            Nulls::Refused | Nulls::Pruned => None,
        };
    }
}

fn polish(schema: &mut JSONSchemaProps) {
    schema.format = match schema.format.take().as_deref() {
        Some("uint8" | "uint16" | "uint32") => Some("int32".to_owned()),
        Some("uint64" | "uint") => Some("int64".to_owned()),
        other => other.map(str::to_owned),
    };
    schema.description = schema.description.take().map(|text| {
        text.replace("[`", "`")
            .replace("`]", "`")
            .replace('\n', " ")
    });
}
