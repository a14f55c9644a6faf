//! Secrets taken out of the parts of a bug report. The patterns are broad: a word too much that is missing costs less than a token.

use std::sync::LazyLock;

use regex::{Captures, Regex};
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

/// Fields of Kubernetes, Gateway API, Envoy and our kinds with a sensitive word in the name, and no secret in the value.
const HARMLESS_FIELDS: [&str; 14] = [
    "automountServiceAccountToken",
    "cookieConfig",
    "cookies",
    "imagePullSecrets",
    "max_tokens",
    "secretKeyRef",
    "secretName",
    "secretRef",
    "secrets",
    "serviceAccountToken",
    "sessionAffinity",
    "sessionAffinityConfig",
    "sessionName",
    "sessionPersistence",
];

/// Fields with the value of a header, parameter or variable, beside its name. A container or port of such a name has none of them.
const OF_NAMED: [&str; 16] = [
    "contains",
    "containsMatch",
    "exact",
    "exactMatch",
    "prefix",
    "prefixMatch",
    "rawValue",
    "raw_value",
    "regex",
    "safeRegexMatch",
    "safe_regex_match",
    "stringMatch",
    "string_match",
    "suffix",
    "value",
    "values",
];

/// Words in the names of fields, headers, cookies, variables and flags with secrets.
const WORDS: &str = "passw(?:or)?d|passphrase|secret|token|credential|session|signature|authorization|cookie|\
                     (?:api|access|private|auth)[-_ ]?key";
/// A value: quoted in a text that is itself quoted, quoted by one or the other mark, or up to the next space.
const VALUE: &str = r#"(?P<escaped>\\"(?:[^"\\\n]|\\\\(?:\\[\\"]|[^\\"\n]))*(?:\\")?)|(?P<double>"(?:[^"\\\n]|\\.)*"?)|(?P<single>'[^'\n]*'?)|\S+"#;

static SENSITIVE: LazyLock<Option<Regex>> = LazyLock::new(|| {
    pattern(&format!(
        r"(?i)^(ca[-_]?bundle|.*\.(crt|key|pem)|(.*[-_])?auth)$|{WORDS}"
    ))
});

/// Secrets in text that have a form of their own, with the replacement.
static BY_FORM: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    let all = [
        (
            r"(?s)-----BEGIN [A-Z0-9 ]+-----.*?(-----END [A-Z0-9 ]+-----|\z)",
            REDACTED,
        ),
        // The beginning is cut off, as in the last lines of a log.
        (r"(?s)\A.*-----END [A-Z0-9 ]+-----", REDACTED),
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
        (r"://[^/\s]+@", "://[redacted]@"),
    ];
    all.into_iter()
        .filter_map(|(text, by)| Some((pattern(text)?, by)))
        .collect()
});

/// Secrets in text after their name. In the order of use: a later one finds the marks of an earlier one and keeps them.
static BY_NAME: LazyLock<Vec<Regex>> = LazyLock::new(|| {
    let name = format!(r"[\w.-]*(?:{WORDS})[\w.-]*");
    let mark = r#"\\*["']?"#;
    let all = [
        // Envoy's text of a header or of a match: the value is the next text in quotes.
        format!(
            r#"(?i)(?P<before>\b(?:key|name|header_name):\s*\\*"(?P<name>{name}|(?:[\w.-]*[-_])?auth)\\*"[\s\w{{}}:]*:\s*)(?:{VALUE})"#
        ),
        // A flag and its value, in a command or in a list.
        format!(
            r#"(?i)(?P<before>(?P<name>--?{name})(?:[ \t]+|{mark}\s*,\s*|\s*\n\s*-[ \t]+))(?:{VALUE})"#
        ),
        // Headers of several values: up to the end of the line, if they are not quoted.
        format!(
            r#"(?i)(?P<before>(?P<name>[\w.-]*(?:authorization|cookie)[\w.-]*){mark}[ \t]*(?:=>|:=|[=:])[ \t]*)(?:\\"[^"\n]*"?|"(?:[^"\\\n]|\\.)*"?|'[^'\n]*'?|[^\r\n]+)"#
        ),
        format!(r#"(?i)(?P<before>(?P<name>{name}){mark}\s*(?:=>|:=|[=:])\s*)(?:{VALUE})"#),
    ];
    all.iter().filter_map(|text| pattern(text)).collect()
});

fn pattern(text: &str) -> Option<Regex> {
    Regex::new(text).ok()
}

/// Takes secrets out of text. JSON in it, as a whole or at the end of a line, is read as such.
pub fn text(text: &str) -> String {
    if let Some(clean) = of_json(text) {
        return clean;
    }
    let clean = by_form(text);
    let (mut all, mut plain) = (String::new(), String::new());
    for line in clean.split_inclusive('\n') {
        let json = line.find('{').and_then(|at| line.split_at_checked(at));
        let json = json.and_then(|(before, json)| Some((before, json, of_json(json)?)));
        match json {
            Some((before, json, clean)) => {
                plain.push_str(before);
                all.push_str(&by_name(&plain));
                plain.clear();
                all.push_str(&clean);
                all.extend(json.ends_with('\n').then_some('\n'));
            }
            None => plain.push_str(line),
        }
    }
    all + &by_name(&plain)
}

/// A text that is a JSON object or list, without its secrets.
fn of_json(text: &str) -> Option<String> {
    let text = text.trim();
    if !text.starts_with(['{', '[']) {
        return None;
    }
    let mut value: Value = serde_json::from_str(text).ok()?;
    walk(&mut value);
    let clean = match text.contains('\n') {
        true => serde_json::to_string_pretty(&value).ok()?,
        false => value.to_string(),
    };
    Some(clean)
}

fn by_form(text: &str) -> String {
    let mut clean = text.to_owned();
    for (pattern, by) in BY_FORM.iter() {
        if pattern.is_match(&clean) {
            clean = pattern.replace_all(&clean, *by).into_owned();
        }
    }
    clean
}

fn by_name(text: &str) -> String {
    let mut clean = text.to_owned();
    for pattern in BY_NAME.iter() {
        if pattern.is_match(&clean) {
            clean = pattern.replace_all(&clean, named_value).into_owned();
        }
    }
    clean
}

/// The replacement for a name and its value. Marks around the value stay.
fn named_value(found: &Captures<'_>) -> String {
    let part = |group: &str| found.name(group).map_or("", |part| part.as_str());
    let whole = found.get(0).map_or("", |all| all.as_str());
    let before = part("before");
    let value = whole.strip_prefix(before).unwrap_or_default();
    if HARMLESS_FIELDS.contains(&part("name")) {
        return format!("{before}{}", by_name(value));
    }
    let mark = ["\\\"", "\"", "'"];
    let mark = mark.into_iter().find(|mark| value.starts_with(mark));
    let mark = mark.unwrap_or_default();
    format!("{before}{mark}{REDACTED}{mark}")
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
        Value::Array(all) => of_list(all),
        Value::String(text) => *text = self::text(text),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// In a list of arguments, a sensitive flag hides the one after it.
fn of_list(all: &mut [Value]) {
    let mut after_flag = false;
    for value in all {
        let text = value.as_str().unwrap_or_default();
        let is_flag = text.starts_with('-') && !text.contains('=') && is_sensitive(text);
        match after_flag {
            true => hide(value),
            false => walk(value),
        }
        after_flag = is_flag;
    }
}

fn of_fields(fields: &mut Map<String, Value>) {
    // `{name: authorization, value: ...}`, `{key: x-token, exact: ...}`: a header or variable, and its value.
    let names = ["name", "key"].map(|field| fields.get(field).and_then(Value::as_str));
    let named = names.into_iter().flatten().any(is_sensitive);
    for (field, value) in fields.iter_mut() {
        let of_template = field == "template";
        match (&**field, value) {
            ("name" | "key", value) => walk(value),
            ("env", Value::Array(variables)) => variables.iter_mut().for_each(variable),
            ("cookies", Value::Array(cookies)) => cookies.iter_mut().for_each(cookie),
            (field, value) if named && OF_NAMED.contains(&field) => hide(value),
            (field, value) if is_sensitive(field) && !is_harmless(field) => hide(value),
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

/// A cookie keeps its name alone.
fn cookie(cookie: &mut Value) {
    let Value::Object(fields) = cookie else {
        return hide(cookie);
    };
    for (field, value) in fields.iter_mut() {
        match &**field {
            "name" => walk(value),
            _ => hide(value),
        }
    }
}

fn is_sensitive(name: &str) -> bool {
    SENSITIVE.as_ref().is_none_or(|names| names.is_match(name))
}

fn is_harmless(field: &str) -> bool {
    HARMLESS_FIELDS.contains(&field)
}

/// Hides every text and number in a value.
fn hide(value: &mut Value) {
    match value {
        Value::Object(fields) => fields.values_mut().for_each(hide),
        Value::Array(all) => all.iter_mut().for_each(hide),
        Value::String(_) | Value::Number(_) => *value = REDACTED.into(),
        Value::Null | Value::Bool(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_pattern_is_one() {
        assert!(SENSITIVE.is_some());
        assert_eq!((BY_FORM.len(), BY_NAME.len()), (6, 4));
    }

    #[test]
    fn secrets_in_text_go_and_the_rest_stays() {
        for (secret, left) in [
            (
                "key -----BEGIN EC PRIVATE KEY-----\nplanted\n-----END EC PRIVATE KEY----- end",
                "key [redacted] end",
            ),
            ("cut -----BEGIN CERTIFICATE-----\nplanted", "cut [redacted]"),
            (
                "T1 planted\nT2 planted==\nT3 -----END PRIVATE KEY-----\nT4 ready\n",
                "[redacted]\nT4 ready\n",
            ),
            ("LS0tLS1CRUdJTiplanted=", "[redacted]"),
            ("eyJhbGciOi.planted.sig", "[redacted]"),
            ("postgres://user:planted@db/x", "postgres://[redacted]@db/x"),
            ("redis://:planted@host:6379", "redis://[redacted]@host:6379"),
            ("redis://:a@planted@host", "redis://[redacted]@host"),
            (
                "authorization: Bearer planted.x",
                "authorization: [redacted]",
            ),
            (
                "proxy-authorization: Digest a=\"x\", response=\"planted\"\nhost: a",
                "proxy-authorization: [redacted]\nhost: a",
            ),
            ("sent Bearer planted.x", "sent Bearer [redacted]"),
            (
                "> Cookie: a=1; sid=planted\r\n> Host: a",
                "> Cookie: [redacted]\r\n> Host: a",
            ),
            ("DB_PASSWORD=planted pod=a", "DB_PASSWORD=[redacted] pod=a"),
            (
                "AWS_SECRET_ACCESS_KEY=planted pod=a",
                "AWS_SECRET_ACCESS_KEY=[redacted] pod=a",
            ),
            (
                "accessKeyId: planted, pod: a",
                "accessKeyId: [redacted] pod: a",
            ),
            ("key passphrase = planted;", "key passphrase = [redacted]"),
            ("password=a,planted pod=a", "password=[redacted] pod=a"),
            (
                "password: \"two planted\", pod: a",
                "password: \"[redacted]\", pod: a",
            ),
            (
                "password: 'two planted', pod: a",
                "password: '[redacted]', pod: a",
            ),
            (
                r#"password="a\"planted" pod=a"#,
                r#"password="[redacted]" pod=a"#,
            ),
            (
                r#"msg="{\"password\": \"a \\\"planted\", \"pod\": \"a\"}""#,
                r#"msg="{\"password\": \"[redacted]\", \"pod\": \"a\"}""#,
            ),
            ("run --password planted -v", "run --password [redacted] -v"),
            (
                "run --api-key 'two planted' -v",
                "run --api-key '[redacted]' -v",
            ),
            (
                r#"args: ["--password","planted","-v"]"#,
                r#"args: ["--password","[redacted]","-v"]"#,
            ),
            (
                "args:\n- --auth-token\n- planted\n- -v",
                "args:\n- --auth-token\n- [redacted]\n- -v",
            ),
            (
                "GET https://s3/x?a=1&X-Amz-Signature=planted 200",
                "GET https://s3/x?a=1&X-Amz-Signature=[redacted] 200",
            ),
            (
                r#"bad header { key: "x-api-key" value: "two planted" } of a"#,
                r#"bad header { key: "x-api-key" value: "[redacted]" } of a"#,
            ),
            (
                "header {\n  key: \"x-session\"\n  raw_value: \"planted\"\n}",
                "header {\n  key: \"x-session\"\n  raw_value: \"[redacted]\"\n}",
            ),
            (
                r#"name: "cookie" string_match { safe_regex { regex: "planted" } }"#,
                r#"name: "cookie" string_match { safe_regex { regex: "[redacted]" } }"#,
            ),
            (
                r#"T1 {"message":"bad { key: \"x-api-key\" value: \"planted\" }","token":"planted","pod":"a"}"#,
                r#"T1 {"message":"bad { key: \"x-api-key\" value: \"[redacted]\" }","pod":"a","token":"[redacted]"}"#,
            ),
            (
                r#"{"apiToken":"planted","pin_password":12,"pod":"a"}"#,
                r#"{"apiToken":"[redacted]","pin_password":"[redacted]","pod":"a"}"#,
            ),
        ] {
            let clean = text(secret);
            assert!(!clean.contains("planted"), "{clean}");
            assert_eq!(clean, left);
            assert_eq!(text(&clean), clean, "a second time");
        }
    }

    #[test]
    fn text_without_secrets_stays() {
        for plain in [
            "issued a certificate pod=shop/cart-1 serial=12 token_reviews 3\n",
            "heddle_sidecars{state=\"current\",pod=\"a\"} 3\nx_total{le=\"0.5\"} 4\n",
            "cannot reach https://10.0.0.1:443/healthz, retry in 3 s",
            "spiffe://cluster.local/ns/shop/sa/cart calls out|shop/reviews|9080",
            "secretName: heddle-ca, sessionAffinity: ClientIP",
            "header { key: \"x-version\" value: \"2\" }",
        ] {
            assert_eq!(text(plain), plain);
        }
    }

    #[test]
    fn objects_keep_their_shape_and_lose_their_secrets() {
        let last_good = json!({"headers": {"request": {"set": [{"name": "x-api-key", "value": "planted"}, {"name": "x-b", "value": "2"}]}},
            "nested": json!([{"key": "x-auth", "value": "planted"}]).to_string()});
        let mut object = json!({
            "metadata": {"name": "a", "managedFields": [{"x": "planted"}],
                "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "planted", "heddle.dev/inject": "true"}},
            "spec": {
                "template": {"metadata": {"annotations": {"x": "planted"}}, "spec": {"containers": [
                    {"name": "session-app", "image": "app:1", "args": ["--password=planted", "--db-password", "planted", "--port=80"], "env": [
                        {"name": "A", "value": "planted"},
                        {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}]}},
                "headers": {"set": [{"name": "authorization", "value": "planted"}, {"name": "x-a", "value": "1"}]},
                "matches": [{"cookies": [{"name": "session-token", "exact": "planted"}, {"name": "sid", "prefix": "planted"},
                    {"name": "s", "regex": "planted"}]}],
                "caBundle": "planted", "data": {"tls.key": "planted"}, "secretName": "heddle-ca"},
            "status": {
                "lastGood": {"generation": 3, "json": last_good.to_string()},
                "conditions": [{"type": "Programmed", "message": "rejected: header { key: \"x-api-key\" value: \"planted\" }"}]},
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
            "\"image\":\"app:1\"",
            "{\\\"name\\\":\\\"x-b\\\",\\\"value\\\":\\\"2\\\"}",
        ] {
            assert!(text.contains(kept), "no {kept} in {text}");
        }
    }
}
