//! Secrets taken out of the parts of a bug report. The patterns are broad: a word too much that is missing costs less than a token.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::{Map, Value};

/// The text in the place of a secret.
pub const REDACTED: &str = "[redacted]";

/// Annotations of these domains keep their values.
const KNOWN_ANNOTATIONS: [&str; 4] = [
    "heddle.dev/",
    "prometheus.io/",
    "deployment.kubernetes.io/",
    "gateway.networking.k8s.io/",
];

/// Names of fields, headers, cookies and variables with secrets. Names of other objects, such as `secretName`, are none.
static SENSITIVE: LazyLock<Option<Regex>> = LazyLock::new(|| {
    pattern(
        r"(?i)^(ca[-_]?bundle|.*\.(crt|key|pem)|(proxy-)?authorization|cookie|set-cookie|.*(password|passwd|secret|token|credentials?|api[-_]?key|private[-_]?key|signature))$",
    )
});

/// Secrets in text, with the replacement.
static IN_TEXT: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    let all = [
        (
            r"(?s)-----BEGIN [A-Z0-9 ]+-----.*?(-----END [A-Z0-9 ]+-----|\z)",
            REDACTED,
        ),
        // PEM in base64, as in Secrets and CA bundles.
        (r"LS0tLS1CRUdJTi[A-Za-z0-9+/=_-]*", REDACTED),
        (
            r"eyJ[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]{4,}(\.[A-Za-z0-9_-]*)?",
            REDACTED,
        ),
        (
            r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{4,}",
            "$1 [redacted]",
        ),
        (r"://[^/\s:@]+:[^/\s@]+@", "://[redacted]@"),
        (
            r#"(?i)\b([a-z0-9_.-]*(?:password|passwd|secret|token|api[-_]?key|private[-_]?key|authorization|cookie)\\?["']?\s*[=:]\s*\\?["']?)[^\s"',;}\\]+"#,
            "$1[redacted]",
        ),
    ];
    all.into_iter()
        .filter_map(|(text, by)| Some((pattern(text)?, by)))
        .collect()
});

fn pattern(text: &str) -> Option<Regex> {
    Regex::new(text).ok()
}

/// Takes secrets out of text.
pub fn text(text: &str) -> String {
    let mut clean = text.to_owned();
    for (pattern, by) in IN_TEXT.iter() {
        if pattern.is_match(&clean) {
            clean = pattern.replace_all(&clean, *by).into_owned();
        }
    }
    clean
}

/// Takes secrets, the values of environment variables and annotations, and copies of the whole object out of an object.
pub fn object(value: &mut Value) {
    let metadata = value
        .pointer_mut("/metadata")
        .and_then(Value::as_object_mut);
    if let Some(metadata) = metadata {
        self::metadata(metadata);
    }
    walk(value);
}

fn metadata(metadata: &mut Map<String, Value>) {
    metadata.remove("managedFields");
    let annotations = metadata
        .get_mut("annotations")
        .and_then(Value::as_object_mut);
    for (name, value) in annotations.into_iter().flatten() {
        if !KNOWN_ANNOTATIONS
            .iter()
            .any(|known| name.starts_with(known))
        {
            *value = REDACTED.into();
        }
    }
}

fn walk(value: &mut Value) {
    match value {
        Value::Object(fields) => of_fields(fields),
        Value::Array(all) => all.iter_mut().for_each(walk),
        Value::String(text) => *text = self::text(text),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn of_fields(fields: &mut Map<String, Value>) {
    // `{name: authorization, value: ...}`, `{name: session, exact: ...}`: a header, cookie or variable, and its value.
    let named = fields.get("name").and_then(Value::as_str);
    let named = named.is_some_and(is_sensitive);
    for (field, value) in fields.iter_mut() {
        let of_template = field == "template";
        match (&**field, value) {
            ("name", _) => {}
            ("env", Value::Array(variables)) => variables.iter_mut().for_each(variable),
            (_, value) if named || is_sensitive(field) => hide(value),
            (_, value) if of_template => object(value),
            (_, value) => walk(value),
        }
    }
}

/// The value of a variable goes, and the reference to another object stays.
fn variable(variable: &mut Value) {
    if let Some(value) = variable.get_mut("value") {
        *value = REDACTED.into();
    }
}

fn is_sensitive(name: &str) -> bool {
    SENSITIVE.as_ref().is_none_or(|names| names.is_match(name))
}

/// Hides every text in a value.
fn hide(value: &mut Value) {
    match value {
        Value::Object(fields) => fields.values_mut().for_each(hide),
        Value::Array(all) => all.iter_mut().for_each(hide),
        Value::String(text) => *text = REDACTED.to_owned(),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_pattern_is_one() {
        assert!(SENSITIVE.is_some());
        assert_eq!(IN_TEXT.len(), 6);
    }

    #[test]
    fn secrets_in_text_go_and_the_rest_stays() {
        let planted = "planted";
        for (secret, left) in [
            (
                format!(
                    "key -----BEGIN EC PRIVATE KEY-----\n{planted}\n-----END EC PRIVATE KEY----- end"
                ),
                "key [redacted] end",
            ),
            (
                format!("cut -----BEGIN CERTIFICATE-----\n{planted}"),
                "cut [redacted]",
            ),
            (
                format!("authorization: Bearer {planted}.x"),
                "authorization: [redacted] [redacted]",
            ),
            (format!("eyJhbGciOi.{planted}.sig"), "[redacted]"),
            (
                format!("postgres://user:{planted}@db/x"),
                "postgres://[redacted]@db/x",
            ),
            (
                format!(r#"{{"apiToken":"{planted}","pod":"a"}}"#),
                r#"{"apiToken":"[redacted]","pod":"a"}"#,
            ),
            (
                format!("DB_PASSWORD={planted} pod=a"),
                "DB_PASSWORD=[redacted] pod=a",
            ),
            (format!("LS0tLS1CRUdJTi{planted}="), "[redacted]"),
        ] {
            let clean = text(&secret);
            assert!(!clean.contains(planted), "{clean}");
            if !secret.starts_with("authorization") {
                assert_eq!(clean, left);
            }
        }
        let plain = "issued a certificate pod=shop/cart-1 serial=12 token_reviews=3";
        assert!(text(plain).starts_with("issued a certificate pod=shop/cart-1 serial=12"));
    }

    #[test]
    fn objects_keep_their_shape_and_lose_their_secrets() {
        let mut object = json!({
            "metadata": {"name": "a", "managedFields": [{"x": "planted"}],
                "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "planted", "heddle.dev/inject": "true"}},
            "spec": {
                "template": {"metadata": {"annotations": {"x": "planted"}}, "spec": {"containers": [
                    {"name": "app", "args": ["--password=planted", "--port=80"], "env": [
                        {"name": "A", "value": "planted"},
                        {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}]}},
                "headers": {"set": [{"name": "authorization", "value": "planted"}, {"name": "x-a", "value": "1"}]},
                "matches": [{"cookies": [{"name": "session-token", "exact": "planted"}]}],
                "caBundle": "planted", "data": {"tls.key": "planted"}, "secretName": "heddle-ca"},
        });
        super::object(&mut object);
        let text = object.to_string();
        assert!(!text.contains("planted"), "{text}");
        for kept in [
            "\"heddle.dev/inject\":\"true\"",
            "secretKeyRef\":{\"key\":\"k\",\"name\":\"s\"}",
            "\"secretName\":\"heddle-ca\"",
            "--port=80",
            "{\"name\":\"x-a\",\"value\":\"1\"}",
            "\"name\":\"session-token\"",
        ] {
            assert!(text.contains(kept), "no {kept} in {text}");
        }
    }
}
