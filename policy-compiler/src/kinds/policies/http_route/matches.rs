//! `matches` of a rule of a route.

use std::sync::Arc;

use gateway_api::experimental::httproutes as api;

use crate::kinds::routes::matches::{check_path, check_regex};
use crate::kinds::routes::{self, Notes};
use crate::traffic::{PathMatcher, QueryMatcher, RequestMatcher};

/// Reads an alternative.
pub(super) fn matcher(
    field: &str,
    of: &api::HttpRouteRulesMatches,
    notes: &mut Notes,
) -> RequestMatcher {
    let path = of.path.as_ref();
    let path = path.map_or(PathMatcher::Any, |of| path_matcher(field, of, notes));
    RequestMatcher {
        path,
        method: of.method.as_ref().and_then(|of| method(field, of, notes)),
        headers: routes::matches::headers(field, of.headers.as_ref(), notes),
        query: query(field, of, notes),
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

fn query(field: &str, of: &api::HttpRouteRulesMatches, notes: &mut Notes) -> Vec<QueryMatcher> {
    let list = format!("{field}.queryParams");
    let found = routes::matches::named(&list, of.query_params.as_ref(), |name| name.into(), notes);
    let matcher = |(name, value)| QueryMatcher { name, value };
    found.into_iter().map(matcher).collect()
}
