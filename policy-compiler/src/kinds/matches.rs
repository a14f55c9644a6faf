//! `spec.matches` of a `TrafficSplit`.

use std::collections::BTreeSet;

use heddle_crds::{PathMatch, RequestMatch, RequestValue, TrafficSplitSpec};

use super::expression;
use super::headers::{is_token, removed};
use super::service_rules::PortRules;
use crate::kinds::ValidationError;
use crate::traffic::unrouted;
use crate::traffic::{
    CookieMatcher, HeaderMatcher, PathMatcher, QueryMatcher, RequestMatcher, ValueMatcher,
};
use crate::validation::Recorder;
use crate::world::{NamespacedName, Port, Protocol, Service};

/// The most alternatives of a rule.
const MAX_ALTERNATIVES: usize = 64;
/// The most rules of a port of a service.
const MAX_RULES: usize = 1000;
/// The most alternatives of all rules of a port: each is a route, and Envoy asks them one after another.
const MAX_PORT_ALTERNATIVES: usize = 2000;
/// The most bytes of all alternatives of a port: every caller has them in memory.
const MAX_PORT_BYTES: usize = 512 << 10;
/// The most regular expressions of all rules of a port.
const MAX_PORT_EXPRESSIONS: usize = 64;
/// The most regular expressions of a rule, for RE2 lets the states of each grow to 8 MB where requests are made for that.
const MAX_EXPRESSIONS: usize = 32;

/// The alternatives of a split: one for all requests if it names none.
pub(super) fn matchers(spec: &TrafficSplitSpec) -> Vec<RequestMatcher> {
    if spec.matches.is_empty() {
        return vec![RequestMatcher::default()];
    }
    spec.matches.iter().map(matcher).collect()
}

pub(super) fn matcher(alternative: &RequestMatch) -> RequestMatcher {
    let headers = alternative.headers.iter().filter_map(|of| {
        let (name, value) = (of.name.to_ascii_lowercase().into(), value(of.value()?));
        Some(HeaderMatcher { name, value })
    });
    let cookies = alternative.cookies.iter().filter_map(|of| {
        let (name, value) = ((*of.name).into(), value(of.value()?));
        Some(CookieMatcher { name, value })
    });
    let query = alternative.query.iter().filter_map(|of| {
        let (name, value) = ((*of.name).into(), value(of.value()?));
        Some(QueryMatcher { name, value })
    });
    let mut matcher = RequestMatcher {
        server_name: None,
        path: alternative.path.as_ref().map(path).unwrap_or_default(),
        method: alternative.method.as_deref().map(Into::into),
        headers: headers.collect(),
        cookies: cookies.collect(),
        query: query.collect(),
    };
    matcher.headers.sort();
    matcher.cookies.sort();
    matcher.query.sort();
    matcher
}

/// The path; every one if it names none. A prefix ends without a slash, so that of `/` nothing is left, and it is every path.
fn path(of: &PathMatch) -> PathMatcher {
    let prefix = of.prefix.as_deref();
    match (&of.exact, prefix, &of.regex) {
        (Some(exact), _, _) => PathMatcher::Exact((**exact).into()),
        (None, Some(prefix), _) => match prefix.strip_suffix('/').unwrap_or(prefix) {
            "" => PathMatcher::Any,
            prefix => PathMatcher::Prefix(prefix.into()),
        },
        (None, None, Some(regex)) => PathMatcher::Regex((**regex).into()),
        (None, None, None) => PathMatcher::Any,
    }
}

fn value(of: RequestValue<'_>) -> ValueMatcher {
    match of {
        RequestValue::Exact(text) => ValueMatcher::Exact(text.into()),
        RequestValue::Prefix(text) => ValueMatcher::Prefix(text.into()),
        RequestValue::Regex(text) => ValueMatcher::Regex(text.into()),
        RequestValue::Present => ValueMatcher::Present,
        RequestValue::Absent => ValueMatcher::Absent,
    }
}

/// The ports that a split claims; none while there is no such service.
pub(super) fn claimed(
    lookup: &Recorder<'_>,
    service: &NamespacedName,
    spec: &TrafficSplitSpec,
) -> BTreeSet<Port> {
    let service = lookup.service(service);
    service.map_or_else(BTreeSet::new, |service| ports(spec, service).collect())
}

/// The ports of the service to which a split applies: with alternatives, those that carry HTTP.
fn ports<'a>(
    spec: &TrafficSplitSpec,
    service: &'a Service,
) -> impl Iterator<Item = Port> + use<'a> {
    let only = spec.port.map(Port::from);
    let matches = !spec.matches.is_empty();
    let named = service
        .ports
        .iter()
        .filter(move |(number, _)| only.is_none_or(|only| only == **number));
    named
        .filter(move |(_, port)| !matches || port.protocol == Protocol::Http)
        .map(|(number, _)| *number)
}

pub(super) fn check(spec: &TrafficSplitSpec, service: Option<&Service>) -> Vec<ValidationError> {
    let mut problems = check_matches("spec.matches", &spec.matches);
    // A port that is missing is reported as such.
    let there = service.filter(|service| {
        let named = spec.port.map(Port::from);
        named.is_none_or(|port| service.ports.contains_key(&port))
    });
    if let Some(service) = there
        && !spec.matches.is_empty()
        && ports(spec, service).next().is_none()
    {
        let which = match spec.port {
            Some(port) => format!("port {port} of service {}", service.name),
            None => format!("service {}", service.name),
        };
        problems.push(ValidationError::invalid(
            "spec.matches",
            format!("{which} does not carry HTTP, and only requests have paths and headers"),
            "remove matches, or declare HTTP by appProtocol or the name of the port",
        ));
    }
    problems
}

/// Returns the reason why a port with these rules takes no rule with these alternatives. `each`: the number for which one of them counts.
pub(super) fn beyond(rules: &PortRules, more: &[RequestMatcher], each: usize) -> Option<String> {
    if rules.rules >= MAX_RULES {
        return Some(format!("has {MAX_RULES} rules already, which is the most"));
    }
    let alternatives = rules.alternatives + more.len() * each;
    if alternatives > MAX_PORT_ALTERNATIVES {
        return Some(format!(
            "would have {alternatives} alternatives, which is more than {MAX_PORT_ALTERNATIVES}"
        ));
    }
    let bytes = rules.bytes + more.iter().map(RequestMatcher::bytes).sum::<usize>();
    if bytes > MAX_PORT_BYTES {
        return Some(format!(
            "would have alternatives of {bytes} bytes, which is more than {MAX_PORT_BYTES}"
        ));
    }
    let added: usize = more.iter().map(RequestMatcher::expressions).sum();
    let expressions = rules.expressions + added;
    (expressions > MAX_PORT_EXPRESSIONS).then(|| {
        format!(
            "would have {expressions} regular expressions, which is more than {MAX_PORT_EXPRESSIONS}"
        )
    })
}

/// Checks the alternatives of a field.
fn check_matches(of: &str, alternatives: &[RequestMatch]) -> Vec<ValidationError> {
    let mut problems = Vec::new();
    if alternatives.len() > MAX_ALTERNATIVES {
        let message = format!("{} alternatives", alternatives.len());
        problems.push(ValidationError::invalid(of, message, "name 1 to 64"));
    }
    let matchers: Vec<RequestMatcher> = alternatives.iter().map(matcher).collect();
    let expressions: usize = matchers.iter().map(RequestMatcher::expressions).sum();
    problems.extend(too_many_expressions(of, expressions));
    let mut seen = BTreeSet::new();
    for (index, (alternative, matcher)) in alternatives.iter().zip(matchers).enumerate() {
        let field = format!("{of}[{index}]");
        problems.extend(check_alternative(&field, alternative));
        if !seen.insert(matcher) {
            let message = "the alternative is named twice";
            problems.push(ValidationError::invalid(
                field,
                message,
                "remove one of the two",
            ));
        }
    }
    problems
}

/// Checks the number of regular expressions of a field.
pub(super) fn too_many_expressions(field: &str, expressions: usize) -> Option<ValidationError> {
    (expressions > MAX_EXPRESSIONS).then(|| {
        let message = format!("{expressions} regular expressions are more than {MAX_EXPRESSIONS}");
        ValidationError::invalid(field, message, "use exact and prefix where they do")
    })
}

/// A header, cookie or query parameter of an alternative.
struct Named<'a> {
    /// The field, with its index.
    field: String,
    kind: &'static str,
    name: String,
    value: Option<RequestValue<'a>>,
}

fn values(of: &RequestMatch) -> Vec<Named<'_>> {
    let headers = of.headers.iter().enumerate().map(|(index, of)| Named {
        field: format!("headers[{index}]"),
        kind: "header",
        name: of.name.to_ascii_lowercase(),
        value: of.value(),
    });
    let cookies = of.cookies.iter().enumerate().map(|(index, of)| Named {
        field: format!("cookies[{index}]"),
        kind: "cookie",
        name: of.name.clone(),
        value: of.value(),
    });
    let query = of.query.iter().enumerate().map(|(index, of)| Named {
        field: format!("query[{index}]"),
        kind: "query parameter",
        name: of.name.clone(),
        value: of.value(),
    });
    headers.chain(cookies).chain(query).collect()
}

pub(super) fn check_alternative(field: &str, alternative: &RequestMatch) -> Vec<ValidationError> {
    let mut problems = Vec::new();
    let values = values(alternative);
    if values.is_empty() && alternative.method.is_none() && alternative.path.is_none() {
        let message = "the alternative has no condition";
        let fix = "name method, path, headers, cookies or query";
        problems.push(ValidationError::invalid(field, message, fix));
    }
    if let Some(path) = &alternative.path {
        problems.extend(check_path(&format!("{field}.path"), path));
    }
    if alternative.method.as_deref() == Some(unrouted::CONNECT) {
        let message = "sidecars answer CONNECT with status 404 before they ask rules";
        let fix = "remove the alternative";
        problems.push(ValidationError::invalid(
            format!("{field}.method"),
            message,
            fix,
        ));
    }
    let mut seen = BTreeSet::new();
    for Named {
        field: of,
        kind,
        name,
        value,
    } in values
    {
        let field = format!("{field}.{of}");
        let about = format!("{kind} {name:?}");
        if !is_name(kind, &name) {
            let message = format!("{name:?} is not the name of a {kind}");
            problems.push(ValidationError::invalid(
                &field,
                message,
                "correct the name",
            ));
        }
        problems.extend(check_value(&field, &about, value));
        problems.extend(value.and_then(|value| never(&field, kind, &name, value)));
        if !seen.insert((kind, name)) {
            let message = format!("{about} is named twice");
            let fix = "keep one, or make two alternatives";
            problems.push(ValidationError::invalid(field, message, fix));
        }
    }
    problems
}

fn is_name(kind: &str, name: &str) -> bool {
    let of_query = |b: u8| b.is_ascii_graphic() && !b"&=#".contains(&b);
    match kind {
        "query parameter" => !name.is_empty() && name.bytes().all(of_query),
        _ => is_token(name),
    }
}

/// The fault of a header, cookie or parameter that no request has where rules are asked.
fn never(
    field: &str,
    kind: &'static str,
    name: &str,
    value: RequestValue<'_>,
) -> Option<ValidationError> {
    if kind == "header" && value != RequestValue::Absent && unrouted::is_removed(name) {
        let (message, fix) = removed(name);
        return Some(ValidationError::invalid(field, message, fix));
    }
    let (text, whole) = match value {
        RequestValue::Exact(text) => (text, true),
        RequestValue::Prefix(text) => (text, false),
        RequestValue::Regex(_) | RequestValue::Present | RequestValue::Absent => return None,
    };
    let control = |c: char| c.is_ascii_control() && c != '\t';
    let blank = |c: char| c == ' ' || c == '\t';
    let wrong = match kind {
        "header" => {
            text.contains(control) || text.starts_with(blank) || (whole && text.ends_with(blank))
        }
        "cookie" => text.contains(control) || text.contains(';'),
        _ => text.contains(|c: char| control(c) || blank(c) || c == '&' || c == '#'),
    };
    wrong.then(|| {
        let message = format!("no {kind} has the value {text:?}");
        let fix = match kind {
            "header" => "remove control characters, and blanks around the value",
            "cookie" => "remove control characters and ;",
            _ => "escape blanks, control characters, & and # by %",
        };
        ValidationError::invalid(field, message, fix)
    })
}

fn check_path(field: &str, path: &PathMatch) -> Option<ValidationError> {
    let PathMatch {
        exact,
        prefix,
        regex,
    } = path;
    let named = [exact, prefix, regex];
    if named.iter().filter(|of| of.is_some()).count() != 1 {
        let message = "a path takes exactly one of exact, prefix and regex";
        return Some(ValidationError::invalid(field, message, "keep one"));
    }
    if let Some(text) = regex {
        return check_expression(&format!("{field}.regex"), text);
    }
    let of_path = |b: u8| b.is_ascii_graphic() && !b"?#".contains(&b);
    let is_path = |text: &str| text.starts_with('/') && text.bytes().all(of_path);
    let text = exact.as_ref().or(prefix.as_ref())?;
    let segments = prefix.is_none() || text == "/" || !text.ends_with("//");
    (!is_path(text) || !segments).then(|| {
        let message = format!("{text:?} is not a path");
        let fix = "start it with /, escape characters outside ASCII, and leave the query out; a prefix ends with one / at most";
        ValidationError::invalid(field, message, fix)
    })
}

fn check_value(
    field: &str,
    about: &str,
    value: Option<RequestValue<'_>>,
) -> Option<ValidationError> {
    match value {
        None => {
            let message = format!("{about} takes exactly one of exact, prefix, regex and present");
            Some(ValidationError::invalid(field, message, "keep one"))
        }
        Some(RequestValue::Prefix("")) => {
            let message = format!("the prefix of {about} is empty");
            Some(ValidationError::invalid(
                field,
                message,
                "use present: true",
            ))
        }
        Some(RequestValue::Regex(text)) => check_expression(&format!("{field}.regex"), text),
        Some(
            RequestValue::Exact(_)
            | RequestValue::Prefix(_)
            | RequestValue::Present
            | RequestValue::Absent,
        ) => None,
    }
}

fn check_expression(field: &str, text: &str) -> Option<ValidationError> {
    let reason = expression::check(text).err()?;
    let message = format!("{text:?} is not a regular expression: {reason}");
    let fix = "write it for RE2, in ASCII";
    Some(ValidationError::invalid(field, message, fix))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::finding::ObjectRef;
    use crate::kind::ObjectKind;
    use crate::traffic::{
        Action, Forward, HeaderPolicy, RouteEntry, RoutePolicy, RouteRule, RuleId,
    };

    /// Rules with so many alternatives each, and paths of so many bytes.
    fn rules(count: usize, alternatives: usize, bytes: usize) -> PortRules {
        let object = ObjectRef::new(ObjectKind::TrafficSplit, "shop", "a");
        let rule = Arc::new(RouteRule {
            id: RuleId::Declared(object, 0),
            action: Action::Forward(Forward::to(Vec::new())),
            headers: HeaderPolicy::default(),
            policy: RoutePolicy::default(),
            origins: BTreeSet::new(),
        });
        let entry = |alternative| RouteEntry {
            matcher: of_bytes(bytes),
            alternative,
            rule: Arc::clone(&rule),
        };
        let mut rules = PortRules::default();
        for _ in 0..count {
            (0..alternatives)
                .map(entry)
                .for_each(|entry| rules.push(entry));
        }
        rules
    }

    fn of_bytes(bytes: usize) -> RequestMatcher {
        RequestMatcher {
            path: PathMatcher::Exact("x".repeat(bytes).into()),
            ..RequestMatcher::default()
        }
    }

    #[test]
    fn alternatives_and_bytes_of_a_port_are_bounded() {
        let one = [of_bytes(1)];
        assert_eq!(beyond(&rules(31, 64, 1), &one, 1), None);
        assert_eq!(beyond(&rules(1, 1999, 1), &one, 1), None);
        let reason = beyond(&rules(1, 2000, 1), &one, 1).unwrap();
        assert!(reason.contains("2001 alternatives"), "{reason}");
        let reason = beyond(&rules(512, 1, 1024), &one, 1).unwrap();
        assert!(reason.contains("524289 bytes"), "{reason}");
        let reason = beyond(&rules(1000, 1, 1), &one, 1).unwrap();
        assert!(reason.contains("1000 rules"), "{reason}");
    }
}
