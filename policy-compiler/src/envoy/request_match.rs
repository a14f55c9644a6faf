//! Matchers of requests: those of routes, and of filters that know headers only.

use std::sync::Arc;

use envoy_types::pb::envoy::r#type::matcher::v3::StringMatcher;

use super::wire::envoy::config::route::v3;
use super::{exact, prefix, regex, safe_regex};
use crate::traffic::{CookieMatcher, PathMatcher, QueryMatcher, RequestMatcher, ValueMatcher};

pub(super) fn request_match(matcher: &RequestMatcher) -> v3::RouteMatch {
    let method = matcher
        .method
        .as_ref()
        .map(|method| header(":method", &ValueMatcher::Exact(Arc::clone(method))));
    let headers = matcher.headers.iter().map(|of| header(&of.name, &of.value));
    v3::RouteMatch {
        headers: method.into_iter().chain(headers).collect(),
        path_specifier: Some(path(&matcher.path)),
        query_parameters: matcher.query.iter().map(query).collect(),
        cookies: matcher.cookies.iter().map(cookie).collect(),
        ..Default::default()
    }
}

fn path(of: &PathMatcher) -> v3::route_match::PathSpecifier {
    use v3::route_match::PathSpecifier;
    match of {
        PathMatcher::Exact(path) => PathSpecifier::Path(path.to_string()),
        PathMatcher::Prefix(path) if !path.is_empty() => {
            PathSpecifier::PathSeparatedPrefix(path.to_string())
        }
        // Not `/`: another prefix would take the place of that slash.
        PathMatcher::Any | PathMatcher::Prefix(_) => PathSpecifier::Prefix(String::new()),
        PathMatcher::Regex(path) => PathSpecifier::SafeRegex(safe_regex(&**path)),
        PathMatcher::Grpc(method) => path(&method.path()),
    }
}

/// The condition on the text of a value. None: it is about the presence of the value alone.
fn text(value: &ValueMatcher) -> Option<StringMatcher> {
    match value {
        ValueMatcher::Exact(text) => Some(exact(&**text)),
        ValueMatcher::Prefix(text) => Some(prefix(&**text)),
        ValueMatcher::Regex(text) => Some(regex(&**text)),
        ValueMatcher::Present | ValueMatcher::Absent => None,
    }
}

/// A cookie that is missing matches nothing, so an absent one is one that does not match any value.
fn cookie(matcher: &CookieMatcher) -> v3::CookieMatcher {
    v3::CookieMatcher {
        name: matcher.name.to_string(),
        string_match: Some(text(&matcher.value).unwrap_or_else(|| regex("(?s).*"))),
        invert_match: matcher.value == ValueMatcher::Absent,
    }
}

fn query(matcher: &QueryMatcher) -> v3::QueryParameterMatcher {
    use v3::query_parameter_matcher::QueryParameterMatchSpecifier::{PresentMatch, StringMatch};
    let present = PresentMatch(matcher.value == ValueMatcher::Present);
    v3::QueryParameterMatcher {
        name: matcher.name.to_string(),
        query_parameter_match_specifier: Some(text(&matcher.value).map_or(present, StringMatch)),
    }
}

pub(super) fn header(name: &str, value: &ValueMatcher) -> v3::HeaderMatcher {
    use v3::header_matcher::HeaderMatchSpecifier::{PresentMatch, StringMatch};
    let present = PresentMatch(*value == ValueMatcher::Present);
    v3::HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(text(value).map_or(present, StringMatch)),
        ..Default::default()
    }
}

/// The conditions of a matcher without cookies and query parameters, for filters that know headers only.
pub(super) fn headers(of: &RequestMatcher) -> Vec<v3::HeaderMatcher> {
    let method = of.method.as_ref();
    let method = method.map(|of| header(":method", &ValueMatcher::Exact(Arc::clone(of))));
    let path = path_with_query(&of.path);
    let path = path.map(|text| header(":path", &ValueMatcher::Regex(text.into())));
    let headers = of.headers.iter();
    let headers = headers.map(|of| header(&of.name, &of.value));
    method.into_iter().chain(path).chain(headers).collect()
}

/// An expression for `:path`, which has the query. None: every path.
fn path_with_query(of: &PathMatcher) -> Option<String> {
    match of {
        PathMatcher::Any => None,
        PathMatcher::Exact(path) => Some(format!(r"{}(?:\?.*)?", regex::escape(path))),
        PathMatcher::Prefix(path) => Some(format!("{}(?:[/?].*)?", regex::escape(path))),
        PathMatcher::Regex(text) => Some(format!(r"(?:{text})(?:\?.*)?")),
        PathMatcher::Grpc(method) => path_with_query(&method.path()),
    }
}
