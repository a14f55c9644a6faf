//! Examples of the requests that a matcher takes.

use super::evaluate::{Request, matches};
use super::matcher::{GrpcName, PathMatcher, RequestMatcher, ValueMatcher};
use crate::matching;

impl RequestMatcher {
    /// Returns a request to a host that the matcher takes. `None`: none was found.
    #[must_use]
    pub fn example(&self, host: &str) -> Option<Request> {
        let path = match &self.path {
            PathMatcher::Any => "/".to_owned(),
            PathMatcher::Exact(path) => path.to_string(),
            PathMatcher::Prefix(path) if path.is_empty() => "/".to_owned(),
            PathMatcher::Prefix(path) => path.to_string(),
            PathMatcher::Regex(expression) => matching::text(expression)?,
            PathMatcher::Grpc(of) => format!("/{}/{}", name(&of.service)?, name(&of.method)?),
        };
        let grpc = matches!(self.path, PathMatcher::Grpc(_));
        let usual = if grpc { "POST" } else { "GET" };
        let method = self.method.as_deref().unwrap_or(usual);
        let mut headers = vec![("host".to_owned(), host.to_owned())];
        let mut own_host = host.to_owned();
        for header in &self.headers {
            match (&*header.name, value(&header.value)?) {
                (":authority" | "host", Some(value)) => own_host = value,
                (name, Some(value)) => headers.push((name.to_owned(), value)),
                (_, None) => {}
            }
        }
        let mut pairs = Vec::new();
        for cookie in &self.cookies {
            pairs.extend(value(&cookie.value)?.map(|value| format!("{}={value}", cookie.name)));
        }
        if !pairs.is_empty() {
            headers.push(("cookie".to_owned(), pairs.join("; ")));
        }
        let mut query = Vec::new();
        for parameter in &self.query {
            let value = value(&parameter.value)?;
            query.extend(value.map(|value| format!("{}={value}", parameter.name)));
        }
        let path = match query.is_empty() {
            true => path,
            false => format!("{path}?{}", query.join("&")),
        };
        let request = Request {
            host: own_host,
            method: method.to_owned(),
            path,
            headers,
        };
        matches(self, &request).then_some(request)
    }
}

fn name(of: &GrpcName) -> Option<String> {
    match of {
        GrpcName::Any => Some("any".to_owned()),
        GrpcName::Exact(text) => Some(text.to_string()),
        GrpcName::Regex(expression) => matching::text(expression),
    }
}

/// A value that matches, `Some(None)` for none; `None` if none was found.
#[allow(clippy::option_option, reason = "no value is one of the answers")]
fn value(of: &ValueMatcher) -> Option<Option<String>> {
    match of {
        ValueMatcher::Exact(text) | ValueMatcher::Prefix(text) => Some(Some(text.to_string())),
        ValueMatcher::Regex(expression) => matching::text(expression).map(Some),
        ValueMatcher::Present => Some(Some("x".to_owned())),
        ValueMatcher::Absent => Some(None),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::super::matcher::{CookieMatcher, GrpcMethod, HeaderMatcher, QueryMatcher};
    use super::*;

    #[test]
    fn an_example_has_what_its_matcher_asks_for() {
        let exact = |text: &str| ValueMatcher::Exact(text.into());
        let matcher = RequestMatcher {
            server_name: None,
            path: PathMatcher::Regex("/v[0-9]+/(carts|orders)/?".into()),
            method: Some("PATCH".into()),
            headers: vec![
                HeaderMatcher {
                    name: ":authority".into(),
                    value: exact("shop.test"),
                },
                HeaderMatcher {
                    name: "x-a".into(),
                    value: ValueMatcher::Absent,
                },
                HeaderMatcher {
                    name: "x-b".into(),
                    value: ValueMatcher::Prefix("b".into()),
                },
            ],
            cookies: vec![CookieMatcher {
                name: "group".into(),
                value: exact("b"),
            }],
            query: vec![QueryMatcher {
                name: "q".into(),
                value: ValueMatcher::Present,
            }],
        };
        let request = matcher.example("carts").unwrap();
        assert_eq!(
            (&*request.host, &*request.method, &*request.path),
            ("shop.test", "PATCH", "/v0/carts?q=x")
        );
        let line = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let lines = [
            line("host", "carts"),
            line("x-b", "b"),
            line("cookie", "group=b"),
        ];
        assert_eq!(request.headers, lines);
    }

    #[test]
    fn a_method_of_grpc_has_its_path_and_a_contradiction_has_no_example() {
        let method = GrpcMethod {
            service: GrpcName::Exact("shop.Carts".into()),
            method: GrpcName::Any,
        };
        let of = |path| RequestMatcher {
            path,
            ..RequestMatcher::default()
        };
        let request = of(PathMatcher::Grpc(method)).example("carts").unwrap();
        assert_eq!(
            (&*request.method, &*request.path),
            ("POST", "/shop.Carts/any")
        );
        assert_eq!(
            of(PathMatcher::Regex(r"[^\s\S]".into())).example("carts"),
            None
        );
    }
}
