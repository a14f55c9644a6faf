//! Lists of objects, as `kubectl get -o yaml` writes them.

use serde_json::{Map, Value};

use super::recognize::{Recognized, recognize};
use crate::world::is_near;

/// The field of a list with its objects.
const ITEMS: &str = "items";

/// Takes the objects out of a list. `None`: the value is not a list.
///
/// # Errors
/// The reason and the fix, where a kind is a list and the value has no objects: they would be lost without a word.
pub(super) fn of(
    api_version: &str,
    kind: &str,
    value: &mut Value,
) -> Option<Result<Vec<Value>, (String, String)>> {
    let (item_kind, end) = kind.split_at_checked(kind.len().checked_sub("List".len())?)?;
    if !end.eq_ignore_ascii_case("List") {
        return None;
    }
    if let Some(Value::Array(items)) = value.get_mut(ITEMS) {
        let mut items = std::mem::take(items);
        if !item_kind.is_empty() {
            for item in &mut items {
                complete(item, api_version, item_kind);
            }
        }
        return Some(Ok(items));
    }
    // Of another project, a kind may have such a name and be no list.
    let of_read = || {
        matches!(
            recognize(api_version, item_kind, &Value::Null),
            Recognized::Read(_)
        )
    };
    (item_kind.is_empty() || of_read()).then(|| Err(without_items(kind, value)))
}

/// Gives an item of a typed list, such as a `ServiceList`, the type that it does not have itself.
fn complete(item: &mut Value, api_version: &str, kind: &str) {
    if let Value::Object(fields) = item {
        for (field, default) in [("kind", kind), ("apiVersion", api_version)] {
            if fields.get(field).is_none_or(Value::is_null) {
                fields.insert(field.to_owned(), default.into());
            }
        }
    }
}

fn without_items(kind: &str, value: &Value) -> (String, String) {
    let is = match value.get(ITEMS) {
        None => "missing",
        Some(Value::Null) => "null",
        Some(_) => "not a list",
    };
    let none = Map::new();
    let mut fields = value.as_object().unwrap_or(&none).keys();
    let near = |field: &&String| **field != ITEMS && is_near(field, ITEMS);
    let fix = match fields.find(near) {
        Some(field) => format!("rename {field:?} to {ITEMS:?}"),
        None => format!("write the objects of the list into {ITEMS}, or remove the document"),
    };
    (
        format!("{kind}: {ITEMS} is {is}, so the list has no objects"),
        fix,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_list_without_items_is_an_error_that_names_the_field() {
        for (api_version, kind, mut value, expected) in [
            ("v1", "List", json!({}), "missing"),
            ("v1", "List", json!({"items": null}), "null"),
            ("v1", "List", json!({"items": {"a": 1}}), "not a list"),
            ("v1", "list", json!({"item": []}), "rename \"item\""),
            ("v1", "List", json!({"Items": []}), "rename \"Items\""),
            ("v1", "ServiceList", json!({"objects": []}), "missing"),
            (
                "heddle.dev/v1alpha1",
                "AuthPolicyList",
                json!({"itmes": []}),
                "rename \"itmes\"",
            ),
        ] {
            let (message, fix) = of(api_version, kind, &mut value).unwrap().unwrap_err();
            assert!(message.contains("items is"), "{message}");
            assert!(
                format!("{message}; {fix}").contains(expected),
                "{message}; {fix}"
            );
        }
    }

    #[test]
    fn a_kind_with_the_name_of_a_list_needs_no_items() {
        for kind in ["AllowList", "ConfigMapList", "Lis", "é"] {
            assert!(
                of("example.com/v1", kind, &mut json!({})).is_none(),
                "{kind}"
            );
        }
        let items = of("v1", "List", &mut json!({"items": []}));
        assert_eq!(items, Some(Ok(Vec::new())));
    }
}
