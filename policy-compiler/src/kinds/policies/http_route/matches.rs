//! `matches` of a rule of a route.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::notes::Notes;
use crate::kinds::expression;
use crate::kinds::headers::is_token;
use crate::traffic::{HeaderMatcher, PathMatcher, QueryMatcher, RequestMatcher, ValueMatcher};
use gateway_api::httproutes as api;

/// Reads the alternatives of a rule: one for all requests if it names none.
pub(super) fn read(
    field: &str,
    of: &[api::HttpRouteRulesMatches],
    notes: &mut Notes,
) -> Vec<RequestMatcher> {
    if of.is_empty() {
        return vec![RequestMatcher::default()];
    }
    let alternatives = of.iter().enumerate();
    alternatives
        .map(|(index, of)| matcher(&format!("{field}.matches[{index}]"), of, notes))
        .collect()
}

fn matcher(field: &str, of: &api::HttpRouteRulesMatches, notes: &mut Notes) -> RequestMatcher {
    let path = of.path.as_ref();
    let path = path.map_or(PathMatcher::Any, |of| path_matcher(field, of, notes));
    RequestMatcher {
        path,
        method: of.method.as_ref().and_then(|of| method(field, of, notes)),
        headers: headers(field, of.headers.as_deref().unwrap_or_default(), notes),
        query: query(field, of.query_params.as_deref().unwrap_or_default(), notes),
        ..RequestMatcher::default()
    }
}

fn path_matcher(
    field: &str,
    of: &api::HttpRouteRulesMatchesPath,
    notes: &mut Notes,
) -> PathMatcher {
    use api::HttpRouteRulesMatchesPathType::{Exact, PathPrefix, RegularExpression};
    let field = format!("{field}.path.value");
    let text = of.value.as_deref().unwrap_or("/");
    match of.r#type {
        Some(RegularExpression) => {
            check_regex(&field, text, notes);
            PathMatcher::Regex(text.into())
        }
        Some(Exact) => {
            check_path(&field, text, notes);
            PathMatcher::Exact(text.into())
        }
        Some(PathPrefix) | None => {
            check_path(&field, text, notes);
            match text.trim_end_matches('/') {
                // Every path begins with a slash.
                "" => PathMatcher::Any,
                text => PathMatcher::Prefix(text.into()),
            }
        }
    }
}

/// Checks a path as the definition of `HTTPRoute` does: no request has another.
pub(super) fn check_path(field: &str, text: &str, notes: &mut Notes) {
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

fn check_regex(field: &str, text: &str, notes: &mut Notes) {
    if let Err(reason) = expression::check(text) {
        let message = format!("{text:?} is not a regular expression: {reason}");
        notes.unsupported(field, message, "use the syntax of RE2");
    }
}

fn method(
    field: &str,
    of: &api::HttpRouteRulesMatchesMethod,
    notes: &mut Notes,
) -> Option<Arc<str>> {
    use api::HttpRouteRulesMatchesMethod as Method;
    let name = match of {
        Method::Get => "GET",
        Method::Head => "HEAD",
        Method::Post => "POST",
        Method::Put => "PUT",
        Method::Delete => "DELETE",
        Method::Options => "OPTIONS",
        Method::Trace => "TRACE",
        Method::Patch => "PATCH",
        Method::Connect => {
            let message = "sidecars answer every CONNECT with 404";
            notes.unsupported(format!("{field}.method"), message, "remove the match");
            return None;
        }
    };
    Some(name.into())
}

fn headers(
    field: &str,
    of: &[api::HttpRouteRulesMatchesHeaders],
    notes: &mut Notes,
) -> Vec<HeaderMatcher> {
    use api::HttpRouteRulesMatchesHeadersType::{Exact, RegularExpression};
    let mut found = BTreeMap::new();
    for (index, of) in of.iter().enumerate() {
        let field = format!("{field}.headers[{index}]");
        check_name(&field, &of.name, notes);
        let value = match of.r#type {
            Some(RegularExpression) => regex(&field, &of.value, notes),
            Some(Exact) | None => ValueMatcher::Exact(of.value.as_str().into()),
        };
        // Envoy keeps the host under the name of HTTP/2.
        let name = match of.name.to_ascii_lowercase().as_str() {
            "host" => ":authority".into(),
            name => name.into(),
        };
        first(&mut found, &field, &of.name, (name, value), notes);
    }
    let matcher = |(name, value)| HeaderMatcher { name, value };
    found.into_iter().map(matcher).collect()
}

fn query(
    field: &str,
    of: &[api::HttpRouteRulesMatchesQueryParams],
    notes: &mut Notes,
) -> Vec<QueryMatcher> {
    use api::HttpRouteRulesMatchesQueryParamsType::{Exact, RegularExpression};
    let mut found = BTreeMap::new();
    for (index, of) in of.iter().enumerate() {
        let field = format!("{field}.queryParams[{index}]");
        check_name(&field, &of.name, notes);
        let value = match of.r#type {
            Some(RegularExpression) => regex(&field, &of.value, notes),
            Some(Exact) | None => ValueMatcher::Exact(of.value.as_str().into()),
        };
        first(
            &mut found,
            &field,
            &of.name,
            (of.name.as_str().into(), value),
            notes,
        );
    }
    let matcher = |(name, value)| QueryMatcher { name, value };
    found.into_iter().map(matcher).collect()
}

/// Keeps the first matcher of a name, as Gateway API demands.
fn first(
    found: &mut BTreeMap<Arc<str>, ValueMatcher>,
    field: &str,
    spelling: &str,
    (name, value): (Arc<str>, ValueMatcher),
    notes: &mut Notes,
) {
    if found.contains_key(&name) {
        let message = format!("{spelling:?} is named before, and only the first one counts");
        notes.ignored(field.to_owned(), message);
        return;
    }
    found.insert(name, value);
}

fn regex(field: &str, text: &str, notes: &mut Notes) -> ValueMatcher {
    check_regex(&format!("{field}.value"), text, notes);
    ValueMatcher::Regex(text.into())
}

/// Checks the name of a header or query parameter.
pub(super) fn check_name(field: &str, name: &str, notes: &mut Notes) {
    if name.len() > 256 || !is_token(name) {
        let message = format!("{name:?} is not a name");
        let fix = "use letters, digits and dashes";
        notes.unsupported(format!("{field}.name"), message, fix);
    }
}
