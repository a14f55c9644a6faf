//! Reads one document into a JSON value in the way of `kubectl`: YAML 1.1 scalars, then the rules of Go's JSON and of the API server.

use serde_json::{Map, Number, Value};

/// Maps of strings in which Go reads `null` as the empty string.
const STRING_MAPS: [&str; 5] = [
    "annotations",
    "labels",
    "matchLabels",
    "nodeSelector",
    "selector",
];

/// Reads a document.
///
/// # Errors
/// The text of the parser, if the document is not YAML. A key that stands twice in one mapping is an error too: one of the two would be lost.
pub(super) fn value(text: &str) -> Result<Value, String> {
    // YAML 1.1 octal numbers, as in `defaultMode: 0755`.
    let options = serde_saphyr::options! { legacy_octal_numbers: true, with_snippet: false };
    let mut value = serde_saphyr::from_str_with_options::<Value>(text, options)
        .map_err(|error| error.to_string().trim().to_owned())?;
    normalize(&mut value);
    Ok(value)
}

/// Makes integers of floats without a fraction, and treats `null` as the API server does: absent, or empty in a map of strings.
pub(super) fn normalize(value: &mut Value) {
    match value {
        Value::Number(number) => {
            if let Some(integer) = integer(number) {
                *number = integer;
            }
        }
        Value::Array(items) => items.iter_mut().for_each(normalize),
        Value::Object(fields) => {
            for key in STRING_MAPS {
                if let Some(Value::Object(pairs)) = fields.get_mut(key) {
                    fill(pairs);
                }
            }
            fields.retain(|_, field| !field.is_null());
            fields.values_mut().for_each(normalize);
        }
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

fn fill(pairs: &mut Map<String, Value>) {
    // A label selector has these two fields beside pairs of strings in the same place.
    let fields = ["matchLabels", "matchExpressions"];
    let pairs = pairs.iter_mut();
    for (_, pair) in pairs.filter(|(key, pair)| pair.is_null() && !fields.contains(&key.as_str())) {
        *pair = Value::String(String::new());
    }
}

/// Returns the integer that Go's JSON encoder writes for a float: `30.0` and `3e1` are 30.
fn integer(number: &Number) -> Option<Number> {
    if number.is_i64() || number.is_u64() {
        return None;
    }
    let float = number.as_f64()?;
    // Below 2^53 every integer has one float, so that the text of the float is the text of the integer.
    (float.fract() == 0.0 && float.abs() < 9_007_199_254_740_992.0)
        .then(|| format!("{float:.0}").parse::<i64>().ok())
        .flatten()
        .map(Number::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn scalars_are_read_as_kubectl_reads_them() {
        for (text, expected) in [
            ("0755", json!(493)),
            ("0o755", json!(493)),
            ("0x1F", json!(31)),
            ("30.0", json!(30)),
            ("1e3", json!(1000)),
            ("-2.0", json!(-2)),
            ("1.5", json!(1.5)),
            ("08", json!(8)),
            ("0", json!(0)),
            ("'0755'", json!("0755")),
            ("yes", json!(true)),
            ("Off", json!(false)),
            ("1.10.0", json!("1.10.0")),
            ("1_000", json!(1000)),
        ] {
            assert_eq!(value(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn null_is_an_absent_field_or_an_empty_string() {
        assert_eq!(
            value("metadata: {annotations: {a: , b: ~}, labels: {c: null}, name: x, uid: }\nspec: {selector: {d: }, ports: }").unwrap(),
            json!({"metadata": {"annotations": {"a": "", "b": ""}, "labels": {"c": ""}, "name": "x"}, "spec": {"selector": {"d": ""}}})
        );
    }

    #[test]
    fn a_key_that_stands_twice_is_an_error() {
        for text in ["{a: 1, a: 2}", "spec: {rules: [], rules: [1]}"] {
            assert!(value(text).is_err(), "{text}");
        }
    }

    #[test]
    fn anchors_and_merge_keys_are_resolved() {
        assert_eq!(
            value("x: &base {a: 1}\ny: {<<: *base, b: 2}").unwrap(),
            json!({"x": {"a": 1}, "y": {"a": 1, "b": 2}})
        );
    }
}
