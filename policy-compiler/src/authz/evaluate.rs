//! The reference evaluator: the same rules, judged here. For `heddle why`, and to hold Envoy's RBAC against.

use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use regex::bytes::{Regex, RegexBuilder};

use super::{
    DenyPaths, HeaderPattern, HeaderValuePattern, PathPattern, PortAuthz, Rule, RuleAction, Source,
    header, spelling,
};
use crate::world::SpiffeId;

/// A request, or a connection when `http` is None.
#[derive(Clone, Debug)]
pub struct Request {
    /// The caller's identity, if it came by mTLS.
    pub peer: Option<SpiffeId>,
    /// Source address of the connection.
    pub source: IpAddr,
    /// Port of the workload. `None`: a port that no pod, service or policy names.
    pub port: Option<crate::world::Port>,
    /// The HTTP request, if the protocol is HTTP.
    pub http: Option<HttpRequest>,
}

/// The parts of an HTTP request that rules look at.
#[derive(Clone, Debug)]
pub struct HttpRequest {
    /// The method.
    pub method: String,
    /// Path with query.
    pub path: String,
    /// One entry a line, with names in lower case.
    pub headers: Vec<(String, String)>,
}

impl HttpRequest {
    /// All lines of a header, joined by commas, as Envoy's matchers read them; `None` if there is none.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        // One header in Envoy, under the names of HTTP/1 and HTTP/2.
        let host = |name: &str| matches!(name, "host" | ":authority");
        let same = |n: &str| n == name || (host(n) && host(name));
        let lines = self.headers.iter().filter(|(n, _)| same(n));
        let lines: Vec<&str> = lines.map(|(_, value)| value.as_str()).collect();
        (!lines.is_empty()).then(|| lines.join(","))
    }
}

/// A verdict with its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// By an Allow rule.
    AllowedBy(Arc<str>),
    /// No Allow rule is needed.
    AllowedByDefault,
    /// By a Deny rule.
    DeniedBy(Arc<str>),
    /// An Allow rule was needed and none matched.
    NoAllowMatched,
}

impl Decision {
    /// Whether the request passes.
    #[must_use]
    pub const fn allowed(&self) -> bool {
        match self {
            Self::AllowedBy(_) | Self::AllowedByDefault => true,
            Self::DeniedBy(_) | Self::NoAllowMatched => false,
        }
    }
}

/// Judges a request. With `audited`, as if every audited rule were enforced.
#[must_use]
pub fn evaluate(authz: &PortAuthz, request: &Request, audited: bool) -> Decision {
    let paths = authz.deny_paths();
    let beyond = authz.beyond_headers();
    let matches = |rule: &&Rule| {
        let bounds = Bounds {
            paths,
            beyond: beyond.contains(&*rule.id),
        };
        matches(rule, &bounds, request)
    };
    if let Some(rule) = authz.rules(RuleAction::Deny, audited).find(matches) {
        return Decision::DeniedBy(Arc::clone(&rule.id));
    }
    if !authz.needs_allow(audited) {
        return Decision::AllowedByDefault;
    }
    let allowed = authz.rules(RuleAction::Allow, audited).find(matches);
    allowed.map_or(Decision::NoAllowMatched, |rule| {
        Decision::AllowedBy(Arc::clone(&rule.id))
    })
}

/// The part of a rule that the bounds of the port leave.
struct Bounds {
    /// The paths that Deny rules match.
    paths: DenyPaths,
    /// Whether the rule's headers are beyond the bound.
    beyond: bool,
}

fn matches(rule: &Rule, bounds: &Bounds, request: &Request) -> bool {
    from(&rule.from, request)
        && rule.to.covers(request.port)
        && to(rule, bounds, request.http.as_ref())
}

fn from(source: &Source, request: &Request) -> bool {
    let peer = request.peer.as_ref();
    (source.identities.is_empty() || peer.is_some_and(|p| source.identities.contains(p)))
        && (source.identity_prefixes.is_empty()
            || peer.is_some_and(|p| {
                source
                    .identity_prefixes
                    .iter()
                    .any(|n| p.as_str().starts_with(&**n))
            }))
        && (source.blocks.is_empty()
            || source
                .blocks
                .iter()
                .any(|block| block.contains(&request.source)))
}

fn to(rule: &Rule, bounds: &Bounds, http: Option<&HttpRequest>) -> bool {
    let operation = &rule.to;
    if !operation.needs_http() {
        return true;
    }
    let Some(http) = http else { return false };
    let method = |method: &Arc<str>| match rule.action {
        RuleAction::Deny => method.eq_ignore_ascii_case(&http.method),
        RuleAction::Allow => **method == *http.method,
    };
    (operation.methods.is_empty() || operation.methods.iter().any(method))
        && (operation.paths.is_empty() || on_path(rule, bounds.paths, &http.path))
        && match (bounds.beyond, rule.action) {
            (true, action) => action == RuleAction::Deny,
            (false, action) => {
                let mut headers = operation.headers.iter();
                headers.all(|header| on_header(header, action, http))
            }
        }
}

/// The expressions that every path of a rule asks for, made once.
static AMBIGUOUS: LazyLock<Option<Regex>> = LazyLock::new(|| compiled(spelling::AMBIGUOUS));
static PLAIN: LazyLock<Option<Regex>> = LazyLock::new(|| compiled(spelling::PLAIN));

/// Whether a path without its query is ambiguous: servers read it in several ways, so that no Allow rule with paths matches it.
#[must_use]
pub fn is_ambiguous(path: &str) -> bool {
    let expression = AMBIGUOUS.as_ref();
    expression.is_some_and(|expression| expression.is_match(path.as_bytes()))
}

fn is_plain(path: &str) -> bool {
    let expression = PLAIN.as_ref();
    expression.is_some_and(|expression| expression.is_match(path.as_bytes()))
}

fn on_path(rule: &Rule, denied: DenyPaths, path: &str) -> bool {
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let ignore_case = rule.to.ignore_case;
    let mut patterns = rule.to.paths.iter();
    match (rule.action, denied) {
        (RuleAction::Deny, DenyPaths::Spelled) => {
            is_ambiguous(path)
                || patterns.any(|pattern| whole(&spelling::denied(pattern, ignore_case), path))
        }
        (RuleAction::Deny, DenyPaths::Any) => true,
        (RuleAction::Deny, DenyPaths::Plain) => {
            !is_plain(path)
                || patterns.filter_map(spelling::plain).any(|(text, open)| {
                    starts(path, &text, open, ignore_case)
                        || starts(path, &format!("{text}/"), open, ignore_case)
                })
        }
        (RuleAction::Allow, _) => {
            !is_ambiguous(path)
                && patterns.any(|pattern| match pattern {
                    PathPattern::Exact(text) => starts(path, text, false, ignore_case),
                    PathPattern::Prefix(text) => starts(path, text, true, ignore_case),
                })
        }
    }
}

/// Whether a path is the text, or begins with it if the pattern is open.
fn starts(path: &str, text: &str, open: bool, ignore_case: bool) -> bool {
    let length = if open { text.len() } else { path.len() };
    let (path, text) = (path.as_bytes(), text.as_bytes());
    path.get(..length)
        .is_some_and(|path| path == text || (ignore_case && path.eq_ignore_ascii_case(text)))
}

fn on_header(pattern: &HeaderPattern, action: RuleAction, http: &HttpRequest) -> bool {
    let names = header::names(&pattern.name);
    let there = |name: &String| http.header(name).is_some();
    let plain = http.header(&pattern.name);
    match (action, &pattern.value) {
        (RuleAction::Allow, HeaderValuePattern::Present) => plain.is_some(),
        (RuleAction::Deny, HeaderValuePattern::Present) => names.iter().any(there),
        (RuleAction::Allow, HeaderValuePattern::Absent) => !names.iter().any(there),
        (RuleAction::Deny, HeaderValuePattern::Absent) => plain.is_none(),
        (RuleAction::Allow, value) => {
            let mut others = names.iter().filter(|name| **name != *pattern.name);
            plain.is_some_and(|text| allowed(value, &text)) && !others.any(there)
        }
        (RuleAction::Deny, value) => {
            let expressions = header::denied(&pattern.name, value).unwrap_or_default();
            let all: Vec<String> = names.iter().filter_map(|name| http.header(name)).collect();
            let mut expressions = expressions.iter();
            expressions.all(|expression| all.iter().any(|text| whole(expression, text)))
        }
    }
}

/// Whether the lines together are the value. Prefixes and expressions hold for one line with one element.
fn allowed(value: &HeaderValuePattern, text: &str) -> bool {
    match value {
        HeaderValuePattern::Exact(exact) => *text == **exact,
        HeaderValuePattern::Prefix(prefix) => text.starts_with(&**prefix) && !text.contains(','),
        HeaderValuePattern::Regex(regex) => whole(regex, text) && !text.contains(','),
        HeaderValuePattern::Present | HeaderValuePattern::Absent => true,
    }
}

/// Whether an expression matches all of a text, byte by byte as Envoy does. One that cannot be read matches nothing: Envoy rejects it, and the
/// rejection is a status.
pub(super) fn whole(expression: &str, text: &str) -> bool {
    compiled(expression).is_some_and(|expression| expression.is_match(text.as_bytes()))
}

/// The expression for a whole text; `None` if it cannot be read.
fn compiled(expression: &str) -> Option<Regex> {
    let whole = format!("^(?:{expression})$");
    RegexBuilder::new(&whole).unicode(false).build().ok()
}
