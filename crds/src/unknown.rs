//! Fields that the definition of a kind does not have: those of a newer version, or misspelt ones.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use serde_json::Value;

use crate::Kind;

impl Kind {
    /// Removes the fields of a `spec` that this version does not know. Returns their paths, for example `scope.retries`.
    pub fn remove_unknown(self, spec: &mut Value) -> Vec<String> {
        let mut removed = Vec::new();
        let versions = self.crd().spec.versions;
        let schema = versions
            .iter()
            .find_map(|version| version.schema.as_ref()?.open_api_v3_schema.as_ref())
            .and_then(|schema| schema.properties.as_ref()?.get("spec"));
        if let Some(schema) = schema {
            remove(spec, schema, "", &mut removed);
        }
        removed
    }
}

fn remove(value: &mut Value, schema: &JSONSchemaProps, path: &str, removed: &mut Vec<String>) {
    match (value, &schema.items) {
        (Value::Object(fields), _) => {
            let Some(known) = &schema.properties else {
                // A map: its keys are the user's.
                if let Some(JSONSchemaPropsOrBool::Schema(values)) = &schema.additional_properties {
                    for (key, value) in fields {
                        remove(value, values, &join(path, key), removed);
                    }
                }
                return;
            };
            fields.retain(|key, value| match known.get(key) {
                Some(schema) => {
                    remove(value, schema, &join(path, key), removed);
                    true
                }
                None => {
                    removed.push(join(path, key));
                    false
                }
            });
        }
        (Value::Array(items), Some(JSONSchemaPropsOrArray::Schema(schema))) => {
            for (index, item) in items.iter_mut().enumerate() {
                remove(item, schema, &format!("{path}[{index}]"), removed);
            }
        }
        (
            Value::Array(_) | Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_),
            _,
        ) => {}
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn unknown_fields_are_removed_and_keys_of_maps_are_kept() {
        let mut mesh = json!({"mode": "Strict", "retries": {"max": 2}, "proxy": {"zone": "a", "concurrency": 4},
            "telemetry": {"metricsReaders": [{"namespace": "m", "serviceAccount": "p", "port": 1}]}});
        assert_eq!(
            Kind::Mesh.remove_unknown(&mut mesh),
            ["proxy.zone", "retries", "telemetry.metricsReaders[0].port"]
        );
        assert_eq!(
            mesh,
            json!({"mode": "Strict", "proxy": {"concurrency": 4},
                "telemetry": {"metricsReaders": [{"namespace": "m", "serviceAccount": "p"}]}})
        );
        let mut policy = json!({"selector": {"matchLabels": {"any.thing/at-all": "x"}}});
        assert!(Kind::AuthPolicy.remove_unknown(&mut policy).is_empty());
    }
}
