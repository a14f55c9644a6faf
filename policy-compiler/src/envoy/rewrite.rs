//! Changes of requests and responses on a route: headers, hosts, paths, and redirects.
//!
//! Header values and whole paths are formats of Envoy, in which `%` stands for itself only as `%%`.

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::route::v3::RedirectAction;
use envoy_types::pb::envoy::config::route::v3::redirect_action::{
    PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier,
};
use envoy_types::pb::envoy::r#type::matcher::v3::RegexMatchAndSubstitute;

use super::safe_regex;
use super::wire::envoy::config::route::v3;
use crate::traffic::{
    HeaderChanges, PathMatcher, PathRewrite, PresentLines, Redirect, RedirectStatus, Rewrite,
};

/// A text as a format that yields the text.
fn literal(text: &str) -> String {
    text.replace('%', "%%")
}

/// The headers to add, and those to remove. Envoy removes first, then overwrites, then adds.
pub(super) fn headers(changes: &HeaderChanges) -> (Vec<core::HeaderValueOption>, Vec<String>) {
    use core::header_value_option::HeaderAppendAction::{
        AppendIfExistsOrAdd, OverwriteIfExistsOrAdd,
    };
    let option =
        |name: &str, value: &str, action: core::header_value_option::HeaderAppendAction| {
            core::HeaderValueOption {
                header: Some(core::HeaderValue {
                    key: name.to_owned(),
                    value: literal(value),
                    ..Default::default()
                }),
                append_action: action.into(),
                // Else Envoy leaves out a change to the empty value.
                keep_empty_value: value.is_empty(),
                ..Default::default()
            }
        };
    let (mut add, mut remove) = (Vec::new(), Vec::new());
    for (name, change) in &changes.0 {
        match &change.present {
            PresentLines::Keep => {}
            PresentLines::Remove => remove.push(name.to_string()),
            PresentLines::Set(value) => add.push(option(name, value, OverwriteIfExistsOrAdd)),
        }
        let values = change.add.iter();
        add.extend(values.map(|value| option(name, value, AppendIfExistsOrAdd)));
    }
    (add, remove)
}

/// Sets another host and path.
pub(super) fn forward(action: &mut v3::RouteAction, rewrite: &Rewrite, matcher: &PathMatcher) {
    use v3::route_action::HostRewriteSpecifier::HostRewriteLiteral;
    if let Some(host) = &rewrite.host {
        action.host_rewrite_specifier = Some(HostRewriteLiteral(host.to_string()));
    }
    match &rewrite.path {
        None => {}
        Some(PathRewrite::Full(path)) => action.path_rewrite = literal(path),
        Some(PathRewrite::Prefix(prefix)) if prefix.is_empty() => {
            action.regex_rewrite = Some(without_prefix(matcher));
        }
        Some(PathRewrite::Prefix(prefix)) => action.prefix_rewrite = prefix.to_string(),
    }
}

/// Removes the matched prefix with the slashes after it, but one: `prefix_rewrite` to `/` would leave two.
fn without_prefix(matcher: &PathMatcher) -> RegexMatchAndSubstitute {
    let prefix = match matcher {
        PathMatcher::Prefix(prefix) => regex::escape(prefix),
        PathMatcher::Any | PathMatcher::Exact(_) | PathMatcher::Regex(_) | PathMatcher::Grpc(_) => {
            String::new()
        }
    };
    RegexMatchAndSubstitute {
        pattern: Some(safe_regex(format!("^{prefix}/*"))),
        substitution: "/".to_owned(),
    }
}

/// An answer that sends the client elsewhere.
pub(super) fn redirect(redirect: &Redirect, matcher: &PathMatcher) -> RedirectAction {
    use PathRewriteSpecifier::{PathRedirect, PrefixRewrite, RegexRewrite};
    let path = redirect.path.as_ref().map(|path| match path {
        PathRewrite::Full(path) => PathRedirect(path.to_string()),
        PathRewrite::Prefix(prefix) if prefix.is_empty() => RegexRewrite(without_prefix(matcher)),
        PathRewrite::Prefix(prefix) => PrefixRewrite(prefix.to_string()),
    });
    let scheme = redirect.scheme.map(|scheme| scheme.as_str().to_owned());
    let status = match redirect.status {
        RedirectStatus::MovedPermanently => RedirectResponseCode::MovedPermanently,
        RedirectStatus::Found => RedirectResponseCode::Found,
        RedirectStatus::SeeOther => RedirectResponseCode::SeeOther,
        RedirectStatus::TemporaryRedirect => RedirectResponseCode::TemporaryRedirect,
        RedirectStatus::PermanentRedirect => RedirectResponseCode::PermanentRedirect,
    };
    RedirectAction {
        host_redirect: redirect.host.as_deref().unwrap_or_default().to_owned(),
        port_redirect: redirect.port.map_or(0, |port| u32::from(port.get())),
        response_code: status.into(),
        path_rewrite_specifier: path,
        scheme_rewrite_specifier: scheme.map(SchemeRewriteSpecifier::SchemeRedirect),
        ..Default::default()
    }
}
