//! The reference evaluator: the rule and the backends that a request would get, and its form there. To explain a table, and to
//! hold Envoy against it.

use std::collections::BTreeMap;

use regex::bytes::RegexBuilder;

use super::cors::Cors;
use super::faults::Fault;
use super::filters::{HeaderPolicy, PathRewrite, Redirect, Scheme};
use super::matcher::{
    CookieMatcher, HeaderMatcher, PathMatcher, QueryMatcher, RequestMatcher, ValueMatcher,
};
use super::rate_limits::RateLimit;
use super::rule::{Action, Backend, Forward, RouteRule, WeightedBackend};
use super::table::{HostPattern, RouteEntry, RouteTable, TableUpstream, VirtualHost};

/// The parts of a request that matchers look at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The value of `Host` or `:authority`, perhaps with a port.
    pub host: String,
    /// The method, in the case in which it is sent.
    pub method: String,
    /// The path with its query.
    pub path: String,
    /// One entry a line, with names in lower case.
    pub headers: Vec<(String, String)>,
}

/// The entry of a route table that decides about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision<'t> {
    /// The entry that matched; its rule has the policies.
    pub entry: &'t RouteEntry,
    table: &'t RouteTable,
}

/// A backend that a request may get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share<'t> {
    /// The backend, as the rule names it.
    pub backend: &'t Backend,
    /// The place of the backend among those of the rule.
    pub place: usize,
    /// Its weight, above zero; for a session it may be zero.
    pub weight: u32,
    /// Its upstream. None: the request is answered with status 500.
    pub upstream: Option<&'t TableUpstream>,
    /// The changes of headers that it has beside those of the rule.
    pub headers: &'t HeaderPolicy,
}

impl<'t> Decision<'t> {
    /// Returns the rule that decides, with the policies in force.
    #[must_use]
    pub fn rule(&self) -> &'t RouteRule {
        &self.entry.rule
    }

    /// The backends by weight; none if the rule answers by itself.
    #[must_use]
    pub fn shares(&self) -> Vec<Share<'t>> {
        let Action::Forward(forward) = &self.entry.rule.action else {
            return Vec::new();
        };
        let backends = forward.backends.iter().enumerate();
        let weighted = backends.filter(|(_, of)| of.weight.in_force > 0);
        weighted.map(|(place, of)| self.share(place, of)).collect()
    }

    fn share(&self, place: usize, weighted: &'t WeightedBackend) -> Share<'t> {
        Share {
            backend: &weighted.backend,
            place,
            weight: weighted.weight.in_force,
            upstream: self.table.upstream(&weighted.backend),
            headers: &weighted.headers,
        }
    }

    /// The place among the shares of the one that the user of a request keeps, by the cookie that the request has.
    #[must_use]
    pub fn kept_share(&self, request: &Request) -> Option<usize> {
        let known = self.entry.known_users();
        known
            .iter()
            .position(|entry| matches(&entry.matcher, request))
    }

    /// The backend of the session of a request, by the cookie that the request has.
    #[must_use]
    pub fn session_share(&self, request: &Request) -> Option<Share<'t>> {
        let known = self.entry.known_sessions(self.table);
        let mut known = known.iter();
        let (index, _) = known.find(|(_, entry)| matches(&entry.matcher, request))?;
        let Action::Forward(forward) = &self.entry.rule.action else {
            return None;
        };
        Some(self.share(*index, forward.backends.get(*index)?))
    }

    /// The shares that a request may go to: that of its session, that which its user keeps, or all of them.
    #[must_use]
    pub fn possible_shares(&self, request: &Request) -> Vec<Share<'t>> {
        if let Some(share) = self.session_share(request) {
            return vec![share];
        }
        let shares = self.shares();
        match self.kept_share(request) {
            Some(kept) => shares.into_iter().skip(kept).take(1).collect(),
            None => shares,
        }
    }

    /// The faults that a request may meet, in their order.
    pub fn faults(&self, request: &Request) -> impl Iterator<Item = &'t Fault> {
        let faults = self.entry.rule.policy.faults.iter();
        faults.filter(|fault| fault.counts(request))
    }

    /// The headers by which the answer to a request lets scripts of its origin read it. Answers of the rule itself have none.
    #[must_use]
    pub fn consent(&self, request: &Request) -> BTreeMap<&'static str, String> {
        let consent = self
            .cors(request)
            .map(|(cors, origin)| cors.consent(&origin));
        consent.unwrap_or_default()
    }

    /// The headers of the answer to a preflight request, which the caller's sidecar answers with status 200. None: it is not such a request, or
    /// the rule leaves the answer to the application.
    #[must_use]
    pub fn preflight(&self, request: &Request) -> Option<BTreeMap<&'static str, String>> {
        let (cors, origin) = self.cors(request)?;
        let method = joined(request, "access-control-request-method")?;
        let headers = joined(request, "access-control-request-headers").unwrap_or_default();
        let preflight = request.method == "OPTIONS";
        preflight.then(|| cors.preflight(&origin, &method, &headers))
    }

    /// The rule's consent for browsers, and the origin of a request that has one.
    fn cors(&self, request: &Request) -> Option<(&'t Cors, String)> {
        let cors = self.entry.rule.policy.cors.as_ref()?;
        // Before a rule that answers by itself the filter does nothing.
        let forwards = matches!(self.entry.rule.action, Action::Forward(_));
        let origin = joined(request, "origin").filter(|_| forwards)?;
        Some((cors, origin))
    }

    /// Returns the request as a backend gets it.
    #[must_use]
    pub fn forwarded(&self, share: &Share<'_>, request: &Request) -> Request {
        let mut request = request.clone();
        if let Action::Forward(forward) = &self.entry.rule.action {
            // All parts are named, so that a new one has a meaning here, too.
            let Forward {
                rewrite,
                backends: _,
                mirrors: _,
                sticky: _,
                session: _,
                without_backend: _,
            } = forward;
            if let Some(host) = &rewrite.host {
                request.host = host.to_string();
            }
            if let Some(path) = &rewrite.path {
                request.path = rewritten(path, &self.entry.matcher.path, &request.path);
            }
        }
        let changes = self.entry.rule.headers.around(share.headers);
        changes.request.apply(&mut request.headers);
        request
    }

    /// Returns the headers of the response of a backend, or of the rule itself, as the client gets them.
    #[must_use]
    pub fn answered(
        &self,
        share: Option<&Share<'_>>,
        mut headers: Vec<(String, String)>,
    ) -> Vec<(String, String)> {
        let none = HeaderPolicy::default();
        let changes = share.map_or(&none, |share| share.headers);
        let changes = self.entry.rule.headers.around(changes);
        changes.response.apply(&mut headers);
        headers
    }

    /// Returns the `Location` of a redirect of a request in plain text.
    #[must_use]
    pub fn location(&self, request: &Request) -> Option<String> {
        let Action::Redirect(redirect) = &self.entry.rule.action else {
            return None;
        };
        let scheme = redirect.scheme.unwrap_or(Scheme::Http).as_str();
        let path = redirect.path.as_ref().map_or_else(
            || request.path.clone(),
            |path| rewritten(path, &self.entry.matcher.path, &request.path),
        );
        let authority = authority(redirect, &request.host);
        Some(format!("{scheme}://{authority}{path}"))
    }
}

/// The lines of a header as one, as Envoy joins those of its own names. None: there is no line, or it is empty.
fn joined(request: &Request, name: &str) -> Option<String> {
    let lines = request.headers.iter().filter(|(own, _)| own == name);
    let values: Vec<&str> = lines.map(|(_, value)| value.trim()).collect();
    Some(values.join(",")).filter(|value| !value.is_empty())
}

/// Returns host and port in the location of a redirect.
fn authority(redirect: &Redirect, host: &str) -> String {
    let split = host.rsplit_once(':');
    // The last colon in `[fd00::1]` separates no port.
    let split = split.filter(|(_, port)| !port.ends_with(']'));
    let (bare, port) = split.map_or((host, None), |(bare, port)| (bare, Some(port)));
    let bare = redirect.host.as_deref().unwrap_or(bare);
    if let Some(port) = redirect.port {
        return format!("{bare}:{port}");
    }
    // The port of plain text means nothing with another scheme.
    let other = redirect.scheme.is_some_and(|scheme| scheme != Scheme::Http);
    let kept = port.filter(|port| redirect.host.is_none() && !(other && *port == "80"));
    kept.map_or_else(|| bare.to_owned(), |port| format!("{bare}:{port}"))
}

/// A path with another one, or another prefix; the query stays.
fn rewritten(rewrite: &PathRewrite, matcher: &PathMatcher, path: &str) -> String {
    let end = path.find('?').unwrap_or(path.len());
    let (path, query) = path.split_at(end);
    let prefix = match rewrite {
        PathRewrite::Full(path) => return format!("{path}{query}"),
        PathRewrite::Prefix(prefix) => prefix,
    };
    let matched = match matcher {
        PathMatcher::Prefix(prefix) => prefix,
        PathMatcher::Any | PathMatcher::Exact(_) | PathMatcher::Regex(_) | PathMatcher::Grpc(_) => {
            ""
        }
    };
    let rest = path.strip_prefix(matched).unwrap_or(path);
    if prefix.is_empty() {
        format!("/{}{query}", rest.trim_start_matches('/'))
    } else {
        format!("{prefix}{rest}{query}")
    }
}

impl Fault {
    /// Whether a request may meet the fault.
    #[must_use]
    pub fn counts(&self, request: &Request) -> bool {
        matches(&self.matcher, request)
    }
}

impl RateLimit {
    /// Whether a request takes a token of the limit.
    #[must_use]
    pub fn counts(&self, request: &Request) -> bool {
        matches(&self.matcher, request)
    }
}

/// Finds the rule of a request. None: no rule takes it, and the answer is status 404.
#[must_use]
pub fn evaluate<'t>(table: &'t RouteTable, request: &Request) -> Option<Decision<'t>> {
    let host = host(table, &request.host)?;
    let matches = |entry: &&RouteEntry| matches(&entry.matcher, request);
    let entry = host.entries.iter().find(matches)?;
    Some(Decision { entry, table })
}

/// The host with the name, or else the one for every name.
fn host<'t>(table: &'t RouteTable, name: &str) -> Option<&'t VirtualHost> {
    let with = |named: &dyn Fn(&HostPattern) -> bool| {
        let mut hosts = table.hosts.iter();
        hosts.find(|host| host.domains.iter().any(named))
    };
    let exact = |pattern: &HostPattern| match pattern {
        HostPattern::Exact(own) => own.eq_ignore_ascii_case(name),
        HostPattern::Any => false,
    };
    with(&exact).or_else(|| with(&|pattern| *pattern == HostPattern::Any))
}

pub(super) fn matches(matcher: &RequestMatcher, request: &Request) -> bool {
    let method = matcher.method.as_ref();
    // Requests have no server name of their own.
    matcher.server_name.is_none()
        && on_path(&matcher.path, &request.path)
        && method.is_none_or(|method| **method == *request.method)
        && matcher
            .headers
            .iter()
            .all(|header| on_header(header, request))
        && matcher
            .cookies
            .iter()
            .all(|cookie| on_cookie(cookie, request))
        && matcher
            .query
            .iter()
            .all(|query| on_query(query, &request.path))
}

fn on_path(matcher: &PathMatcher, sent: &str) -> bool {
    let path = sent.split(['?', '#']).next().unwrap_or_default();
    match matcher {
        PathMatcher::Any => true,
        PathMatcher::Exact(own) => **own == *path,
        PathMatcher::Prefix(own) => {
            let rest = path.strip_prefix(&**own);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }
        PathMatcher::Regex(own) => is_whole(own, path),
        PathMatcher::Grpc(own) => on_path(&own.path(), sent),
    }
}

fn on_header(matcher: &HeaderMatcher, request: &Request) -> bool {
    if &*matcher.name == ":authority" {
        return on_values(&matcher.value, std::iter::once(&*request.host));
    }
    let lines = request.headers.iter();
    let lines = lines.filter(|(name, _)| **name == *matcher.name);
    on_values(&matcher.value, lines.map(|(_, value)| &**value))
}

/// The first pair of the name counts. A pair without `=` is none, and quotes around a value are not part of it.
fn on_cookie(matcher: &CookieMatcher, request: &Request) -> bool {
    let lines = request.headers.iter();
    let lines = lines.filter(|(name, _)| name == "cookie");
    let pairs = lines.flat_map(|(_, value)| value.split(';'));
    let mut pairs = pairs.filter_map(|pair| pair.trim_start_matches(' ').split_once('='));
    let first = pairs.find(|(name, _)| **name == *matcher.name);
    let value = first.map(|(_, value)| {
        let inner = value
            .strip_prefix('"')
            .and_then(|value| value.strip_suffix('"'));
        inner.unwrap_or(value)
    });
    on_values(&matcher.value, value.into_iter())
}

fn on_query(matcher: &QueryMatcher, path: &str) -> bool {
    let query = path.split_once('?').map_or("", |(_, query)| query);
    let parameters = query.split('&').filter(|parameter| !parameter.is_empty());
    let mut parameters = parameters.map(|one| one.split_once('=').unwrap_or((one, "")));
    let first = parameters.find(|(name, _)| **name == *matcher.name);
    on_values(&matcher.value, first.into_iter().map(|(_, value)| value))
}

/// Whether one of the values matches; for an absent one, whether there is none.
fn on_values<'a>(matcher: &ValueMatcher, mut values: impl Iterator<Item = &'a str>) -> bool {
    match matcher {
        ValueMatcher::Exact(own) => values.any(|value| **own == *value),
        ValueMatcher::Prefix(own) => values.any(|value| value.starts_with(&**own)),
        ValueMatcher::Regex(own) => values.any(|value| is_whole(own, value)),
        ValueMatcher::Present => values.next().is_some(),
        ValueMatcher::Absent => values.next().is_none(),
    }
}

/// Whether an expression matches a text as a whole, byte by byte as Envoy does. An expression that cannot be read matches nothing.
fn is_whole(expression: &str, text: &str) -> bool {
    RegexBuilder::new(&format!("^(?:{expression})$"))
        .unicode(false)
        .build()
        .is_ok_and(|expression| expression.is_match(text.as_bytes()))
}
