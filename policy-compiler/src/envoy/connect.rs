//! Routes for CONNECT, which no path matches.

use std::sync::Arc;

use super::wire::envoy::config::route::v3;
use crate::traffic::{Action, RouteEntry, Sticky};

/// The entry as it takes CONNECT; None: it takes none. A user gets no place by cookie, for which a route has a hundred clusters.
pub(super) fn entry(entry: &RouteEntry) -> Option<RouteEntry> {
    let mut entry = entry.takes_connect().then(|| entry.clone())?;
    if let Some(Sticky::Cookie(_)) = entry.rule.sticky()
        && let Action::Forward(forward) = &mut Arc::make_mut(&mut entry.rule).action
    {
        forward.sticky = None;
    }
    Some(entry)
}

/// The same route for CONNECT. A tunnel has no path that could be rewritten, and no mirror, which would open it a second time.
pub(super) fn tunnel(of_entry: v3::Route) -> v3::Route {
    let mut tunnel = route(of_entry);
    if let Some(v3::route::Action::Route(action)) = &mut tunnel.action {
        action.regex_rewrite = None;
        action.prefix_rewrite.clear();
        action.path_rewrite.clear();
        action.request_mirror_policies.clear();
    }
    tunnel
}

/// The same route for CONNECT, with its action as it is.
pub(super) fn route(mut route: v3::Route) -> v3::Route {
    use v3::route_match::{ConnectMatcher, PathSpecifier};
    if let Some(of) = &mut route.r#match {
        of.path_specifier = Some(PathSpecifier::ConnectMatcher(ConnectMatcher {}));
    }
    route
}
