//! The requests of a fault or a rate limit.

use heddle_crds::{CallMatch, CallPath, PathMatch, RequestMatch};

use crate::kinds::{ValidationError, matches};
use crate::traffic::RequestMatcher;

/// Returns the matcher of a match. None: all requests.
pub(super) fn matcher(of: Option<&CallMatch>) -> RequestMatcher {
    let matching = of.map(request_match);
    matching.as_ref().map(matches::matcher).unwrap_or_default()
}

/// Returns the faults of a match in a field `match` of `field`.
pub(super) fn check(field: &str, of: Option<&CallMatch>) -> Vec<ValidationError> {
    let field = format!("{field}.match");
    let matching = of.map(request_match);
    let matching = matching.iter();
    let problems = matching.flat_map(|of| matches::check_alternative(&field, of));
    problems.collect()
}

/// The match as that of a split, which has more fields.
fn request_match(of: &CallMatch) -> RequestMatch {
    let path = |path: &CallPath| PathMatch {
        exact: path.exact.clone(),
        prefix: path.prefix.clone(),
        regex: None,
    };
    RequestMatch {
        method: of.method.clone(),
        path: of.path.as_ref().map(path),
        headers: of.headers.clone(),
        ..RequestMatch::default()
    }
}
