//! Fields of a kind that the definition in a cluster does not have, because it is of an older version.

use serde_json::Value;

use crate::Kind;

impl Kind {
    /// Returns the fields of `spec` and `status` that `installed` does not have, such as `spec.target.namespace`; `[]` stands for the elements of
    /// a list, `.*` for the values of a map. The API server drops these fields from objects. Of a field that is missing, the
    /// fields below it are not named.
    ///
    /// `installed`: the OpenAPI schema of [`crate::VERSION`], as the definition has it in `openAPIV3Schema`.
    #[must_use]
    pub fn missing_from(self, installed: &Value) -> Vec<String> {
        let versions = self.crd().spec.versions;
        let mut schemas = versions
            .iter()
            .filter_map(|version| version.schema.as_ref());
        let own = schemas.find_map(|schema| schema.open_api_v3_schema.as_ref());
        let own = own.and_then(|schema| serde_json::to_value(schema).ok());
        let mut missing = Vec::new();
        for field in ["spec", "status"] {
            let of = |schema: &Value| property(schema, field).cloned();
            match (own.as_ref().and_then(of), of(installed)) {
                (Some(own), Some(installed)) => compare(&own, &installed, field, &mut missing),
                (Some(_), None) => missing.push(field.to_owned()),
                (None, _) => {}
            }
        }
        missing
    }
}

fn property<'a>(schema: &'a Value, name: &str) -> Option<&'a Value> {
    schema.get("properties")?.get(name)
}

fn compare(own: &Value, installed: &Value, path: &str, missing: &mut Vec<String>) {
    if installed.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true)) {
        return;
    }
    let fields = own.get("properties").and_then(Value::as_object);
    for (name, own) in fields.into_iter().flatten() {
        let path = format!("{path}.{name}");
        match property(installed, name) {
            Some(installed) => compare(own, installed, &path, missing),
            None => missing.push(path),
        }
    }
    for (field, mark) in [("items", "[]"), ("additionalProperties", ".*")] {
        if let (Some(own), Some(installed)) = (own.get(field), installed.get(field)) {
            compare(own, installed, &format!("{path}{mark}"), missing);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema(kind: Kind) -> Value {
        let crd = serde_json::to_value(kind.crd()).unwrap();
        crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
    }

    /// The fields of an object schema, by its path in the definition.
    fn fields<'a>(schema: &'a mut Value, at: &str) -> &'a mut serde_json::Map<String, Value> {
        schema.pointer_mut(at).unwrap().as_object_mut().unwrap()
    }

    #[test]
    fn a_definition_of_this_version_misses_nothing() {
        for kind in Kind::ALL {
            assert_eq!(kind.missing_from(&schema(*kind)), [""; 0], "{kind:?}");
        }
    }

    #[test]
    fn a_field_that_is_not_in_the_definition_is_named_by_its_path() {
        let mut older = schema(Kind::TrafficPolicy);
        let target = "/properties/spec/properties/target/properties";
        fields(&mut older, target).remove("namespace").unwrap();
        let missing = Kind::TrafficPolicy.missing_from(&older);
        assert_eq!(missing, ["spec.target.namespace"]);
        // The API server keeps the fields of such an object.
        let target = "/properties/spec/properties/target";
        let keeps = fields(&mut older, target);
        keeps.insert(
            "x-kubernetes-preserve-unknown-fields".to_owned(),
            json!(true),
        );
        assert_eq!(Kind::TrafficPolicy.missing_from(&older), [""; 0]);
        assert_eq!(Kind::Mesh.missing_from(&json!({})), ["spec", "status"]);
    }

    #[test]
    fn fields_of_elements_of_lists_are_compared() {
        let mut older = schema(Kind::TrafficSplit);
        let backends = "/properties/spec/properties/backends/items/properties";
        fields(&mut older, backends).remove("weight").unwrap();
        let missing = Kind::TrafficSplit.missing_from(&older);
        assert_eq!(missing, ["spec.backends[].weight"]);
    }
}
