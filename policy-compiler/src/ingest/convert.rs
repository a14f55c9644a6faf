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

/// Reads a document. Its nulls stay, because their meaning depends on the kind of the object.
///
/// # Errors
/// The text of the parser, if the document is not YAML. A key that stands twice in one mapping is an error too: one of the two would be lost.
pub(super) fn value(text: &str) -> Result<Value, String> {
    // YAML 1.1 octal numbers, as in `defaultMode: 0755`.
    let options = serde_saphyr::options! { legacy_octal_numbers: true, with_snippet: false };
    let mut value = serde_saphyr::from_str_with_options::<Value>(text, options)
        .map_err(|error| error.to_string().trim().to_owned())?;
    integers(&mut value);
    Ok(value)
}

/// Makes integers of floats without a fraction.
fn integers(value: &mut Value) {
    match value {
        Value::Number(number) => {
            if let Some(integer) = integer(number) {
                *number = integer;
            }
        }
        Value::Array(items) => items.iter_mut().for_each(integers),
        Value::Object(fields) => fields.values_mut().for_each(integers),
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

/// Reads a value as the API server reads its own types, which are types of Go: a field that is null or an empty string is a field left
/// out, and gets its default. The few fields that distinguish the empty string are refused with one. In a map of strings, null is the
/// empty string.
pub(super) fn as_type_of_go(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(as_type_of_go),
        Value::Object(fields) => {
            fields.retain(|_, field| !field.is_null() && field != "");
            for (key, field) in fields {
                match field {
                    Value::Object(pairs) if STRING_MAPS.contains(&key.as_str()) => strings(pairs),
                    field => as_type_of_go(field),
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Reads a map of strings, or a label selector, which has the two fields beside pairs of strings in the same place.
fn strings(pairs: &mut Map<String, Value>) {
    let is_field = |key: &str| ["matchLabels", "matchExpressions"].contains(&key);
    pairs.retain(|key, pair| !(pair.is_null() && is_field(key)));
    for (key, pair) in pairs {
        match pair {
            Value::Null => *pair = Value::String(String::new()),
            Value::Object(labels) if key == "matchLabels" => strings(labels),
            pair => as_type_of_go(pair),
        }
    }
}

/// Removes the null fields of a value of which no schema is known: the API server removes a null that is not nullable.
pub(super) fn remove_nulls(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(remove_nulls),
        Value::Object(fields) => {
            fields.retain(|_, field| !field.is_null());
            fields.values_mut().for_each(remove_nulls);
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
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
    fn null_and_the_empty_string_are_fields_left_out_of_a_type_of_go() {
        let mut read = value(
            "metadata: {annotations: {a: , b: ~, c: ''}, labels: {d: null}, name: x, uid: , namespace: ''}\n\
             spec: {selector: {e: , matchLabels: x}, ports: , type: '', args: ['', a],\n\
             affinity: [{selector: {matchLabels: {f: }, matchExpressions: , key: ''}}], tolerations: [{key: ''}]}",
        )
        .unwrap();
        as_type_of_go(&mut read);
        assert_eq!(
            read,
            json!({
                "metadata": {"annotations": {"a": "", "b": "", "c": ""}, "labels": {"d": ""}, "name": "x"},
                "spec": {"selector": {"e": "", "matchLabels": "x"}, "args": ["", "a"],
                    "affinity": [{"selector": {"matchLabels": {"f": ""}, "key": ""}}], "tolerations": [{}]},
            })
        );
    }

    #[test]
    fn null_fields_are_removed_and_null_items_stay() {
        let mut read = value("{labels: {a: , b: ''}, rules: [null, {c: }]}").unwrap();
        remove_nulls(&mut read);
        assert_eq!(read, json!({"labels": {"b": ""}, "rules": [null, {}]}));
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

    /// Every string field of objects that have all fields which are read.
    #[test]
    fn an_empty_string_in_an_object_of_kubernetes_is_read_like_a_field_left_out() {
        let container = json!({
            "name": "app", "image": "x", "restartPolicy": "Always",
            "ports": [{"name": "web", "containerPort": 8080, "protocol": "TCP"}],
            "env": [{"name": "A", "value": "b"}],
            "livenessProbe": {"httpGet": {"path": "/live", "scheme": "HTTPS", "host": "192.0.2.1", "port": "web"}},
            "readinessProbe": {"tcpSocket": {"host": "192.0.2.1", "port": "web"}},
            "startupProbe": {"grpc": {"port": 8080, "service": "a"}},
            "lifecycle": {"preStop": {"httpGet": {"path": "/stop", "port": 8080}}},
        });
        let spec = json!({
            "serviceAccountName": "a", "serviceAccount": "b", "nodeName": "n", "dnsPolicy": "None", "restartPolicy": "Always",
            "os": {"name": "windows"}, "nodeSelector": {"a": "b"},
            "initContainers": [container], "containers": [container],
        });
        let metadata = json!({"name": "a", "namespace": "shop", "labels": {"app": "a"}, "resourceVersion": "7"});
        let of = |api_version: &str, kind: &str| json!({"apiVersion": api_version, "kind": kind, "metadata": metadata});
        let (mut pod, mut deployment) = (of("v1", "Pod"), of("apps/v1", "Deployment"));
        pod["spec"] = spec.clone();
        pod["status"] = json!({"phase": "Running", "podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]});
        deployment["spec"] =
            json!({"template": {"metadata": {"labels": {"app": "a"}}, "spec": spec}});
        let mut service = of("v1", "Service");
        service["spec"] = json!({
            "type": "ClusterIP", "clusterIP": "10.96.0.1", "selector": {"app": "a"}, "sessionAffinity": "ClientIP",
            "internalTrafficPolicy": "Local", "trafficDistribution": "PreferClose",
            "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": "web", "appProtocol": "http"}],
        });
        let mut slice = of("discovery.k8s.io/v1", "EndpointSlice");
        slice["metadata"]["labels"] = json!({"kubernetes.io/service-name": "a"});
        slice["addressType"] = json!("IPv4");
        slice["ports"] =
            json!([{"name": "http", "port": 8080, "protocol": "TCP", "appProtocol": "http"}]);
        slice["endpoints"] = json!([{"addresses": ["10.0.0.1"], "nodeName": "n", "zone": "z",
            "targetRef": {"kind": "Pod", "name": "a", "namespace": "shop"}}]);
        let mut fields = 0;
        for object in [pod, deployment, service, slice] {
            let mut all = Vec::new();
            string_fields(&object, "", &mut all);
            fields += all.len();
            for field in all {
                let (parent, name) = field.rsplit_once('/').unwrap();
                let (mut empty, mut absent) = (object.clone(), object.clone());
                empty.pointer_mut(parent).unwrap()[name] = json!("");
                let fields = absent.pointer_mut(parent).unwrap().as_object_mut();
                fields.unwrap().remove(name);
                assert!(is_read_like(&empty, &absent), "{} {field}", object["kind"]);
            }
        }
        assert!(fields > 60, "{fields}");
    }

    /// The pointers of the strings in fields, those of maps of strings left out.
    fn string_fields(value: &Value, at: &str, found: &mut Vec<String>) {
        for (key, field) in value.as_object().into_iter().flatten() {
            let at = format!("{at}/{key}");
            match field {
                Value::String(_) if key != "apiVersion" && key != "kind" => found.push(at),
                _ if STRING_MAPS.contains(&key.as_str()) => {}
                _ => string_fields(field, &at, found),
            }
        }
        for (index, item) in value.as_array().into_iter().flatten().enumerate() {
            string_fields(item, &format!("{at}/{index}"), found);
        }
    }

    fn is_read_like(one: &Value, other: &Value) -> bool {
        let read = |object: &Value| crate::ingest::parse_yaml("a.yaml", &object.to_string());
        let ((first, findings), (second, others)) =
            (read(one).into_objects(), read(other).into_objects());
        let mut pairs = first.iter().zip(&second);
        findings == others
            && first.len() == second.len()
            && pairs.all(|(one, other)| crate::ingest::WorldBuilder::reads_alike(one, other))
    }
}
