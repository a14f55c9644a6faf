//! Matchers as text, line by line: as JSON, one decision takes thirty lines.

use serde_json::{Value, json};

/// The fields of a tree of matchers.
const TREE: [&str; 3] = ["matcher_list", "matcher_tree", "on_no_match"];

/// The value with every matcher of an RBAC filter as lines of text.
pub fn readable(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for key in ["matcher", "shadow_matcher"] {
                // Others have this name, too: that of the names in a certificate.
                let of_tree = |of: &&mut Value| TREE.iter().any(|key| of.get(key).is_some());
                if let Some(matcher) = map.get_mut(key).filter(of_tree) {
                    let mut lines = Vec::new();
                    text(matcher, 0, &mut lines);
                    *matcher = json!(lines);
                }
            }
            map.values_mut().for_each(readable);
        }
        Value::Array(items) => items.iter_mut().for_each(readable),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn text(matcher: &Value, depth: usize, lines: &mut Vec<String>) {
    let indent = "  ".repeat(depth);
    for one in items(&matcher["matcher_list"]["matchers"]) {
        lines.push(format!("{indent}when {}:", predicate(&one["predicate"])));
        on_match(&one["on_match"], depth + 1, lines);
    }
    let tree = &matcher["matcher_tree"];
    for (kind, name) in [("exact_match_map", "is"), ("prefix_match_map", "begins")] {
        let Some(map) = tree[kind]["map"].as_object() else {
            continue;
        };
        lines.push(format!("{indent}{} {name}:", input(&tree["input"])));
        for (key, one) in map {
            lines.push(format!("{indent}  {key}:"));
            on_match(one, depth + 2, lines);
        }
    }
    if let Some(rest) = matcher.get("on_no_match") {
        lines.push(format!("{indent}else:"));
        on_match(rest, depth + 1, lines);
    }
}

fn on_match(value: &Value, depth: usize, lines: &mut Vec<String>) {
    let indent = "  ".repeat(depth);
    let action = &value["action"]["typed_config"];
    match value.get("matcher") {
        Some(matcher) => text(matcher, depth, lines),
        None => lines.push(format!(
            "{indent}{} {}",
            action["action"].as_str().unwrap_or("ALLOW"),
            action["name"].as_str().unwrap_or_default()
        )),
    }
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn predicate(value: &Value) -> String {
    let several = |kind: &str, between: &str| {
        let all: Vec<String> = items(&value[kind]["predicate"])
            .iter()
            .map(predicate)
            .collect();
        format!("({})", all.join(between))
    };
    if value.get("and_matcher").is_some() {
        return several("and_matcher", " and ");
    }
    if value.get("or_matcher").is_some() {
        return several("or_matcher", " or ");
    }
    if let Some(not) = value.get("not_matcher") {
        return format!("not {}", predicate(not));
    }
    let single = &value["single_predicate"];
    let mut pattern = single["value_match"].clone();
    if pattern["safe_regex"]["google_re2"].is_object() {
        pattern = json!({"regex": pattern["safe_regex"]["regex"]});
    } else if pattern.is_null() {
        pattern = single["custom_match"]["typed_config"].clone();
    }
    format!("{} {pattern}", input(&single["input"]))
}

fn input(value: &Value) -> String {
    let config = &value["typed_config"];
    let named = ["header_name", "key"]
        .into_iter()
        .find_map(|key| config[key].as_str());
    named.map_or_else(
        || {
            config["@type"]
                .as_str()
                .unwrap_or_default()
                .rsplit('.')
                .next()
                .unwrap_or_default()
                .to_owned()
        },
        str::to_owned,
    )
}
