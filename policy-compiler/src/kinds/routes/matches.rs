//! Parts of `matches` that kinds of routes share: headers, names, values.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::notes::Notes;
use super::same;
use crate::kinds::expression;
use crate::kinds::headers::{is_token, removed};
use crate::traffic::{HeaderMatcher, ValueMatcher, unrouted};

/// A header or query parameter of a match: those of all kinds of routes have the same fields.
#[derive(Deserialize)]
struct NamedValue {
    name: String,
    value: String,
    r#type: Option<String>,
}

/// Reads the headers of a match, sorted by name.
pub(in crate::kinds) fn headers<T: Serialize>(
    field: &str,
    of: Option<&Vec<T>>,
    notes: &mut Notes,
) -> Vec<HeaderMatcher> {
    // Envoy keeps the host under the name of HTTP/2.
    let canonical = |name: &str| match name.to_ascii_lowercase().as_str() {
        "host" => ":authority".into(),
        name => name.into(),
    };
    let list = format!("{field}.headers");
    let found: BTreeMap<_, _> = named(&list, of, canonical, notes);
    for name in found.keys().filter(|name| unrouted::is_removed(name)) {
        let (message, _) = removed(name);
        notes.ignored(list.clone(), format!("no request matches: {message}"));
    }
    let matcher = |(name, value)| HeaderMatcher { name, value };
    found.into_iter().map(matcher).collect()
}

/// Reads headers or query parameters. Of a name that comes twice the first one counts, as Gateway API demands. `canonical` is the spelling that
/// decides whether two names are one.
pub(in crate::kinds) fn named<T: Serialize>(
    list: &str,
    of: Option<&Vec<T>>,
    canonical: impl Fn(&str) -> Arc<str>,
    notes: &mut Notes,
) -> BTreeMap<Arc<str>, ValueMatcher> {
    let mut found = BTreeMap::new();
    for (index, of) in of.into_iter().flatten().enumerate() {
        let field = format!("{list}[{index}]");
        let Some(of) = same::<NamedValue>(of) else {
            notes.unsupported(field, "the match cannot be read", "remove it");
            continue;
        };
        check_name(&field, &of.name, notes);
        let value = match of.r#type.as_deref() {
            Some("RegularExpression") => {
                check_regex(&format!("{field}.value"), &of.value, notes);
                ValueMatcher::Regex(of.value.into())
            }
            _ => ValueMatcher::Exact(of.value.into()),
        };
        let name = canonical(&of.name);
        if found.contains_key(&name) {
            let message = format!(
                "{:?} is named before, and only the first one counts",
                of.name
            );
            notes.ignored(field, message);
            continue;
        }
        found.insert(name, value);
    }
    found
}

/// Checks a path as the definition of `HTTPRoute` does: no request has another.
pub(in crate::kinds) fn check_path(field: &str, text: &str, notes: &mut Notes) {
    let normal = ["//", "/./", "/../", "%2f", "%2F"]
        .iter()
        .all(|part| !text.contains(part))
        && !text.ends_with("/.")
        && !text.ends_with("/..");
    if !text.starts_with('/') || !normal || !text.bytes().all(is_path_byte) || text.len() > 1024 {
        let message = format!("{text:?} is not a path");
        let fix =
            "start it with /, without //, dots as names, %2F, ? and #; 1024 characters at most";
        notes.unsupported(field, message, fix);
    }
}

fn is_path_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-/._~!$&'()*+,;=:@%".contains(&byte)
}

/// Checks a regular expression.
pub(in crate::kinds) fn check_regex(field: &str, text: &str, notes: &mut Notes) {
    if let Err(reason) = expression::check(text) {
        let message = format!("{text:?} is not a regular expression: {reason}");
        notes.unsupported(field, message, "use the syntax of RE2");
    }
}

/// Checks the name of a header or query parameter.
pub(super) fn check_name(field: &str, name: &str, notes: &mut Notes) {
    if name.len() > 256 || !is_token(name) {
        let message = format!("{name:?} is not a name");
        let fix = "use letters, digits and dashes";
        notes.unsupported(format!("{field}.name"), message, fix);
    }
}
