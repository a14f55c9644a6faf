//! The reference evaluator: the same rules, judged here. For `heddle why`, and to hold Envoy's RBAC against.

use std::net::IpAddr;
use std::sync::Arc;

use regex::Regex;

use super::{
    HeaderValuePattern, Operation, PathPattern, PortAuthz, Rule, RuleAction, Source, spelling,
};
use crate::world::SpiffeId;

/// A request, or a connection when `http` is None.
#[derive(Clone, Debug)]
pub struct Request {
    /// The caller's identity, if it came by mTLS.
    pub peer: Option<SpiffeId>,
    /// Source address of the connection.
    pub source: IpAddr,
    /// Port of the workload; None for one that nobody names.
    pub port: Option<crate::world::Port>,
    /// What HTTP says.
    pub http: Option<HttpRequest>,
}

/// The parts of an HTTP request that rules look at.
#[derive(Clone, Debug)]
pub struct HttpRequest {
    /// The method.
    pub method: String,
    /// Path with query.
    pub path: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
}

/// A verdict with its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// By an Allow rule.
    AllowedBy(Arc<str>),
    /// Nobody demands an Allow rule.
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
    if let Some(rule) = authz
        .rules(RuleAction::Deny, audited)
        .find(|rule| matches(rule, request))
    {
        return Decision::DeniedBy(Arc::clone(&rule.id));
    }
    if !authz.needs_allow(audited) {
        return Decision::AllowedByDefault;
    }
    let allowed = authz
        .rules(RuleAction::Allow, audited)
        .find(|rule| matches(rule, request));
    allowed.map_or(Decision::NoAllowMatched, |rule| {
        Decision::AllowedBy(Arc::clone(&rule.id))
    })
}

fn matches(rule: &Rule, request: &Request) -> bool {
    from(&rule.from, request)
        && rule.to.covers(request.port)
        && to(&rule.to, rule.action, request.http.as_ref())
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

fn to(operation: &Operation, action: RuleAction, http: Option<&HttpRequest>) -> bool {
    if !operation.needs_http() {
        return true;
    }
    let Some(http) = http else { return false };
    let path = http.path.split(['?', '#']).next().unwrap_or_default();
    (operation.methods.is_empty() || operation.methods.iter().any(|m| **m == *http.method))
        && (operation.paths.is_empty() || on_path(&operation.paths, action, path))
        && operation
            .headers
            .iter()
            .all(|header| on_header(&header.name, &header.value, action, http))
}

fn on_path(patterns: &[PathPattern], action: RuleAction, path: &str) -> bool {
    let winding = whole(spelling::DOT_DOT, path);
    match action {
        RuleAction::Deny => {
            winding
                || patterns
                    .iter()
                    .any(|pattern| whole(&spelling::denied(pattern), path))
        }
        RuleAction::Allow => {
            !winding
                && patterns.iter().any(|pattern| match pattern {
                    PathPattern::Exact(exact) => **exact == *path,
                    PathPattern::Prefix(prefix) => path.starts_with(&**prefix),
                })
        }
    }
}

fn on_header(
    name: &str,
    pattern: &HeaderValuePattern,
    action: RuleAction,
    http: &HttpRequest,
) -> bool {
    let value = |name: &str| {
        let values: Vec<&str> = http
            .headers
            .iter()
            .filter(|(n, _)| n == name)
            .map(|(_, v)| v.as_str())
            .collect();
        // As Envoy sees a repeated header.
        (!values.is_empty()).then(|| values.join(","))
    };
    let one = |name: &str| {
        let value = value(name);
        match pattern {
            HeaderValuePattern::Exact(exact) => value.as_deref() == Some(exact),
            HeaderValuePattern::Prefix(prefix) => value.is_some_and(|v| v.starts_with(&**prefix)),
            HeaderValuePattern::Regex(regex) => value.is_some_and(|v| whole(regex, &v)),
            HeaderValuePattern::Present => value.is_some(),
            HeaderValuePattern::Absent => value.is_none(),
        }
    };
    match (action, pattern) {
        (RuleAction::Allow, _) | (RuleAction::Deny, HeaderValuePattern::Absent) => one(name),
        (RuleAction::Deny, _) => spelling::header_names(name).iter().any(|name| one(name)),
    }
}

/// Whether an expression matches all of a text. One that cannot be read matches nothing: Envoy refuses it, and the refusal is a status.
fn whole(expression: &str, text: &str) -> bool {
    Regex::new(&format!("^(?:{expression})$")).is_ok_and(|regex| regex.is_match(text))
}
