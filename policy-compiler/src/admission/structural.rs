//! The structural schema: a closed subset of OpenAPI that Kubernetes defines.

use heddle_crds::pattern_in_words;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use regex::Regex;
use serde_json::{Map, Value};

use super::Violation;
use super::compiled::CompiledTexts;

static PATTERNS: CompiledTexts<Regex> = CompiledTexts::new();

/// Removes the nulls of fields, and of entries of maps, that are not nullable. The API server does so before it fills in defaults and
/// validates.
pub(super) fn remove_nulls(schema: &JSONSchemaProps, value: &mut Value) {
    match value {
        Value::Object(fields) => fields.retain(|name, value| {
            let Some(field) = field(schema, name) else {
                return true;
            };
            remove_nulls(field, value);
            !value.is_null() || field.nullable == Some(true)
        }),
        Value::Array(items) => {
            if let Some(JSONSchemaPropsOrArray::Schema(of_item)) = &schema.items {
                items
                    .iter_mut()
                    .for_each(|item| remove_nulls(of_item, item));
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Returns the schema of a field of an object, or of an entry of a map.
fn field<'a>(schema: &'a JSONSchemaProps, name: &str) -> Option<&'a JSONSchemaProps> {
    let properties = schema.properties.as_ref();
    let others = match &schema.additional_properties {
        Some(JSONSchemaPropsOrBool::Schema(others)) => Some(&**others),
        Some(JSONSchemaPropsOrBool::Bool(_)) | None => None,
    };
    properties
        .and_then(|properties| properties.get(name))
        .or(others)
}

/// Checks a value without nulls that are not nullable, and fills in its defaults.
pub(super) fn check(
    schema: &JSONSchemaProps,
    value: &mut Value,
    path: &str,
    found: &mut Vec<Violation>,
) {
    if value.is_null() && schema.nullable == Some(true) {
        return;
    }
    if let Some((is, wanted)) = wrong_type(schema, value) {
        return fail(
            path,
            (format!("{is} is not {wanted}"), format!("write {wanted}")),
            found,
        );
    }
    if let Some(values) = &schema.enum_
        && !values.iter().any(|allowed| allowed.0 == *value)
    {
        let all: Vec<String> = values.iter().map(|allowed| allowed.0.to_string()).collect();
        fail(
            path,
            (
                format!("{value} is not a value of this field"),
                format!("use one of {}", all.join(", ")),
            ),
            found,
        );
    }
    match value {
        Value::String(text) => string(schema, text, path, found),
        Value::Number(number) => bounds(schema, number.as_f64().unwrap_or_default(), path, found),
        Value::Array(items) => array(schema, items, path, found),
        Value::Object(fields) => object(schema, fields, path, found),
        Value::Null | Value::Bool(_) => {}
    }
}

/// Adds a violation: reason and fix.
fn fail(
    path: &str,
    (reason, fix): (impl Into<String>, impl Into<String>),
    found: &mut Vec<Violation>,
) {
    if found.len() < super::MAX_VIOLATIONS {
        found.push(Violation::new(path, reason, fix));
    }
}

/// Returns the type of a value, and the other one that it must have.
fn wrong_type<'a>(schema: &'a JSONSchemaProps, value: &Value) -> Option<(&'static str, &'a str)> {
    let is = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.as_f64().is_some_and(|n| n.fract() == 0.0) => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    if schema.x_kubernetes_int_or_string == Some(true) {
        let either = matches!(is, "integer" | "string");
        return (!either).then_some((is, "integer or string"));
    }
    let wanted = schema.type_.as_deref()?;
    let fits = is == wanted || (wanted == "number" && is == "integer");
    (!fits).then_some((is, wanted))
}

/// Checks how many things a value has.
fn count(
    count: usize,
    (least, most): (Option<i64>, Option<i64>),
    (path, things): (&str, &str),
    found: &mut Vec<Violation>,
) {
    let count = i64::try_from(count).unwrap_or(i64::MAX);
    if let Some(most) = most.filter(|most| count > *most) {
        let reason = format!("{count} {things} are too many");
        fail(path, (reason, format!("use at most {most}")), found);
    }
    if let Some(least) = least.filter(|least| count < *least) {
        let reason = format!("{count} {things} are too few");
        fail(path, (reason, format!("use at least {least}")), found);
    }
}

fn string(schema: &JSONSchemaProps, text: &str, path: &str, found: &mut Vec<Violation>) {
    let bounds = (schema.min_length, schema.max_length);
    count(text.chars().count(), bounds, (path, "characters"), found);
    if let Some(pattern) = &schema.pattern
        && let Some(compiled) = PATTERNS.get(pattern, Regex::new)
        && !compiled.is_match(text)
    {
        let shown: String = text.chars().take(100).collect();
        let fix = match pattern_in_words(pattern) {
            Some(words) => format!("write {words}"),
            None => "correct it".to_owned(),
        };
        let reason = format!("{shown:?} does not match {pattern}");
        fail(path, (reason, fix), found);
    }
}

fn bounds(schema: &JSONSchemaProps, number: f64, path: &str, found: &mut Vec<Violation>) {
    if let Some(least) = schema.minimum.filter(|least| number < *least) {
        fail(
            path,
            (
                format!("{number} is too small"),
                format!("use at least {least}"),
            ),
            found,
        );
    }
    if let Some(most) = schema.maximum.filter(|most| number > *most) {
        fail(
            path,
            (
                format!("{number} is too large"),
                format!("use at most {most}"),
            ),
            found,
        );
    }
}

fn array(schema: &JSONSchemaProps, items: &mut [Value], path: &str, found: &mut Vec<Violation>) {
    let bounds = (schema.min_items, schema.max_items);
    count(items.len(), bounds, (path, "items"), found);
    // A list that is too long costs no more than the longest that is allowed.
    let most = schema.max_items.and_then(|most| usize::try_from(most).ok());
    let bounded = items.len().min(most.unwrap_or(usize::MAX));
    let (items, _) = items.split_at_mut(bounded);
    if let Some(JSONSchemaPropsOrArray::Schema(of_item)) = &schema.items {
        for (index, item) in items.iter_mut().enumerate() {
            check(of_item, item, &format!("{path}[{index}]"), found);
        }
    }
    let keys: Option<&[String]> = match schema.x_kubernetes_list_type.as_deref() {
        Some("set") => Some(&[]),
        Some("map") => schema.x_kubernetes_list_map_keys.as_deref(),
        Some(_) | None => None,
    };
    let Some(keys) = keys else { return };
    let mut seen: Vec<Vec<&Value>> = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let of_item: Vec<&Value> = if keys.is_empty() {
            vec![item]
        } else {
            keys.iter().filter_map(|key| item.get(key)).collect()
        };
        if seen.contains(&of_item) {
            fail(
                &format!("{path}[{index}]"),
                ("the item is there twice", "remove one"),
                found,
            );
        }
        seen.push(of_item);
    }
}

fn object(
    schema: &JSONSchemaProps,
    fields: &mut Map<String, Value>,
    path: &str,
    found: &mut Vec<Violation>,
) {
    for (name, field) in schema.properties.iter().flatten() {
        if let (Some(default), false) = (&field.default, fields.contains_key(name)) {
            fields.insert(name.clone(), default.0.clone());
        }
    }
    let bounds = (schema.min_properties, schema.max_properties);
    count(fields.len(), bounds, (path, "entries"), found);
    for name in schema.required.iter().flatten() {
        if !fields.contains_key(name) {
            fail(
                &format!("{path}.{name}"),
                ("the field is required", "add it"),
                found,
            );
        }
    }
    let open = schema.x_kubernetes_preserve_unknown_fields == Some(true)
        || schema.additional_properties == Some(JSONSchemaPropsOrBool::Bool(true));
    for (name, value) in fields.iter_mut() {
        let at = format!("{path}.{name}");
        match field(schema, name) {
            Some(field) => check(field, value, &at, found),
            None if open => {}
            None => fail(
                &at,
                ("the API has no such field", "correct or remove it"),
                found,
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::schemas;
    use super::*;
    use serde_json::json;

    /// Finds the schemas of all maps.
    fn collect<'a>(schema: &'a JSONSchemaProps, maps: &mut Vec<&'a JSONSchemaProps>) {
        maps.extend(
            matches!(
                schema.additional_properties,
                Some(JSONSchemaPropsOrBool::Schema(_))
            )
            .then_some(schema),
        );
        let items = match &schema.items {
            Some(JSONSchemaPropsOrArray::Schema(items)) => Some(&**items),
            Some(JSONSchemaPropsOrArray::Schemas(_)) | None => None,
        };
        let fields = schema.properties.iter().flatten().map(|(_, field)| field);
        fields.chain(items).for_each(|schema| collect(schema, maps));
    }

    #[test]
    fn a_null_entry_of_any_map_is_an_entry_left_out() {
        let mut maps = Vec::new();
        schemas()
            .values()
            .for_each(|schema| collect(schema, &mut maps));
        assert!(maps.len() > 3, "{}", maps.len());
        for map in maps {
            let mut value = json!({"a": null, "b": "c"});
            remove_nulls(map, &mut value);
            assert_eq!(value, json!({"b": "c"}));
        }
    }

    #[test]
    fn nulls_are_judged_before_entries_are_counted_and_defaults_filled_in() {
        let schema: JSONSchemaProps = serde_json::from_value(json!({
            "type": "object", "minProperties": 1, "properties": {
                "kept": {"type": "string", "nullable": true},
                "gone": {"type": "string"},
                "list": {"type": "array", "items": {"type": "object", "properties": {"gone": {"type": "string"}}}},
            },
        }))
        .unwrap();
        for (mut value, pruned, violations) in [
            (json!({"gone": null}), json!({}), 1),
            (
                json!({"kept": null, "gone": null}),
                json!({"kept": null}),
                0,
            ),
            (json!({"list": [{"gone": null}]}), json!({"list": [{}]}), 0),
            (json!({"list": [null]}), json!({"list": [null]}), 1),
            (json!({"unknown": null}), json!({"unknown": null}), 1),
        ] {
            remove_nulls(&schema, &mut value);
            assert_eq!(value, pruned);
            let mut found = Vec::new();
            check(&schema, &mut value, "spec", &mut found);
            assert_eq!(found.len(), violations, "{value}: {found:?}");
        }
        let with_default = json!({"type": "object", "minProperties": 1, "properties": {"a": {"type": "string", "default": "b"}}});
        let schema: JSONSchemaProps = serde_json::from_value(with_default).unwrap();
        let (mut value, mut found) = (json!({"a": null}), Vec::new());
        remove_nulls(&schema, &mut value);
        check(&schema, &mut value, "spec", &mut found);
        assert_eq!((value, found), (json!({"a": "b"}), Vec::new()));
    }
}
