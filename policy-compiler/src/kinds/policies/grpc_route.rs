//! `GRPCRoute` of Gateway API: the calls to a service, routed by the methods of gRPC and by headers. The parts of all kinds of routes are in
//! `kinds/routes/`.

use std::sync::Arc;

use gateway_api::experimental::grpcroutes as api;

use crate::kinds::routes::matches::{check_regex, headers};
use crate::kinds::routes::{self, Notes, RouteSpec, Routed, Rule};
use crate::traffic::{GrpcMethod, GrpcName, PathMatcher, RequestMatcher, WithoutBackend};

impl RouteSpec for api::GrpcRouteSpec {
    const ROUTED: Routed = Routed::Requests(WithoutBackend::Unavailable);

    fn rules(&self, notes: &mut Notes) -> Vec<Rule> {
        routes::rules(self.rules.as_deref(), |field, of| rule(field, of, notes))
    }

    fn names_hosts(&self) -> bool {
        self.hostnames.is_some()
    }
}

fn rule(field: &str, of: &api::GrpcRouteRules, notes: &mut Notes) -> Rule {
    let read = |field: &str, of: &_| matcher(field, of, notes);
    let matchers = routes::alternatives(field, of.matches.as_deref(), read);
    let parts = (of.filters.as_ref(), of.backend_refs.as_ref());
    let mut rule = routes::rule(field, matchers, parts, notes);
    rule.name = of.name.as_deref().map(Into::into);
    rule.keep_sessions(field, of.session_persistence.as_ref(), notes);
    rule
}

fn matcher(field: &str, of: &api::GrpcRouteRulesMatches, notes: &mut Notes) -> RequestMatcher {
    let method = of.method.as_ref();
    RequestMatcher {
        path: method.map_or(PathMatcher::Any, |of| method_matcher(field, of, notes)),
        headers: headers(field, of.headers.as_ref(), notes),
        ..RequestMatcher::default()
    }
}

fn method_matcher(
    field: &str,
    of: &api::GrpcRouteRulesMatchesMethod,
    notes: &mut Notes,
) -> PathMatcher {
    use api::GrpcRouteRulesMatchesMethodType::{Exact, RegularExpression};
    let field = format!("{field}.method");
    let mut read = |name: &str, text: Option<&String>, is_name: fn(&str) -> bool| {
        let text: Arc<str> = match text {
            Some(text) if !text.is_empty() => text.as_str().into(),
            Some(_) | None => return GrpcName::Any,
        };
        let field = format!("{field}.{name}");
        match of.r#type {
            Some(RegularExpression) => {
                check_regex(&field, &text, notes);
                GrpcName::Regex(text)
            }
            Some(Exact) | None => {
                if !is_name(&text) || text.len() > 1024 {
                    let message = format!("{text:?} is not the name of a {name} of gRPC");
                    let fix = "use letters, digits and underscores; 1024 characters at most";
                    notes.unsupported(field, message, fix);
                }
                GrpcName::Exact(text)
            }
        }
    };
    let method = GrpcMethod {
        service: read("service", of.service.as_ref(), is_service),
        method: read("method", of.method.as_ref(), is_identifier),
    };
    if method.service == GrpcName::Any && method.method == GrpcName::Any {
        let message = "a match of a method names neither service nor method";
        notes.unsupported(field, message, "name one of them, or leave the match out");
    }
    PathMatcher::Grpc(method)
}

/// Whether a text is the name of a service: identifiers with dots between them, as the definition of `GRPCRoute` has it.
fn is_service(text: &str) -> bool {
    let text = text.strip_prefix('.').unwrap_or(text);
    text.split('.').all(is_identifier)
}

fn is_identifier(text: &str) -> bool {
    let mut bytes = text.bytes();
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let first = bytes.next();
    first.is_some_and(|byte| word(byte) && !byte.is_ascii_digit()) && bytes.all(word)
}
