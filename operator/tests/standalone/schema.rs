//! Holds answers of the API against `docs/openapi.json`.

use std::path::Path;

use serde_json::Value;

/// The keywords that describe and bind nothing.
const WORDS: [&str; 5] = ["description", "title", "default", "format", "deprecated"];

/// Panics unless the text is a value of the schema of this name; `[]` behind the name: a list of them.
pub fn holds(name: &str, text: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/openapi.json");
    let document = std::fs::read_to_string(file).unwrap();
    let document: Value = serde_json::from_str(&document).unwrap();
    let value: Value = serde_json::from_str(text).unwrap();
    let schema = |name: &str| serde_json::json!({"$ref": format!("#/components/schemas/{name}")});
    let schema = match name.strip_suffix("[]") {
        Some(item) => serde_json::json!({"type": "array", "items": schema(item)}),
        None => schema(name),
    };
    if let Err(error) = fits(&document, &schema, &value) {
        panic!("not a {name} by docs/openapi.json: {error}\n{text}");
    }
}

/// Like [`holds`], for a file.
pub fn file_holds(name: &str, path: &Path) {
    holds(name, &std::fs::read_to_string(path).unwrap());
}

/// Whether a value fits a schema. A field that the schema does not name is an error, for the document is to name all.
fn fits(document: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    let Some(schema) = schema.as_object() else {
        return Err(format!("{schema} is not an object"));
    };
    for (keyword, says) in schema {
        let holds = match &**keyword {
            word if WORDS.contains(&word) => true,
            "$ref" => {
                let place = says.as_str().unwrap().trim_start_matches('#');
                let schema = document.pointer(place).ok_or_else(|| place.to_owned())?;
                return fits(document, schema, value);
            }
            "type" => {
                let one = [says.clone()];
                let types = says.as_array().map_or(&one[..], |all| all);
                types.iter().any(|of| is_of(of.as_str().unwrap(), value))
            }
            "enum" => says.as_array().unwrap().contains(value),
            "const" => says == value,
            "minimum" => value.as_f64().is_none_or(|of| of >= says.as_f64().unwrap()),
            "maximum" => value.as_f64().is_none_or(|of| of <= says.as_f64().unwrap()),
            "minItems" => value
                .as_array()
                .is_none_or(|of| of.len() as u64 >= says.as_u64().unwrap()),
            "maxItems" => value
                .as_array()
                .is_none_or(|of| of.len() as u64 <= says.as_u64().unwrap()),
            "anyOf" => {
                let mut all = says.as_array().unwrap().iter();
                all.any(|of| fits(document, of, value).is_ok())
            }
            "oneOf" => {
                let all = says.as_array().unwrap().iter();
                all.filter(|of| fits(document, of, value).is_ok()).count() == 1
            }
            "items" => {
                for item in value.as_array().into_iter().flatten() {
                    fits(document, says, item)?;
                }
                true
            }
            "required" => {
                let mut all = says.as_array().unwrap().iter();
                all.all(|name| value.get(name.as_str().unwrap()).is_some())
            }
            "properties" => {
                for (name, of) in value.as_object().into_iter().flatten() {
                    let schema = says
                        .get(name)
                        .ok_or_else(|| format!("{name} is not named"))?;
                    fits(document, schema, of).map_err(|error| format!("{name}: {error}"))?;
                }
                true
            }
            "additionalProperties" => *says == false || says.is_object(),
            other => return Err(format!("this test does not know the keyword {other}")),
        };
        if !holds {
            return Err(format!("{value} is not as {keyword}: {says}"));
        }
    }
    Ok(())
}

fn is_of(kind: &str, value: &Value) -> bool {
    match kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("{other} is not a type"),
    }
}
