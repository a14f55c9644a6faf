//! `spec.matches` of a `TrafficSplit`.

use std::collections::BTreeSet;

use heddle_crds::{RequestHeader, RequestHeaderValue, RequestMatch, TrafficSplitSpec};

use crate::kinds::ValidationError;
use crate::traffic::{HeaderMatcher, RequestMatcher, ValueMatcher};
use crate::validation::Recorder;
use crate::world::{NamespacedName, Port, Protocol, Service};

/// The alternatives of a split: one for all requests if it names none.
pub(super) fn matchers(spec: &TrafficSplitSpec) -> Vec<RequestMatcher> {
    if spec.matches.is_empty() {
        return vec![RequestMatcher::default()];
    }
    spec.matches.iter().map(matcher).collect()
}

fn matcher(alternative: &RequestMatch) -> RequestMatcher {
    let mut headers: Vec<HeaderMatcher> = alternative.headers.iter().filter_map(header).collect();
    headers.sort();
    RequestMatcher {
        headers,
        ..RequestMatcher::default()
    }
}

fn header(of: &RequestHeader) -> Option<HeaderMatcher> {
    let value = match of.value()? {
        RequestHeaderValue::Exact(text) => ValueMatcher::Exact(text.into()),
        RequestHeaderValue::Prefix(text) => ValueMatcher::Prefix(text.into()),
        RequestHeaderValue::Present => ValueMatcher::Present,
        RequestHeaderValue::Absent => ValueMatcher::Absent,
    };
    Some(HeaderMatcher {
        name: of.name.to_ascii_lowercase().into(),
        value,
    })
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
    let mut problems = Vec::new();
    if spec.matches.len() > 8 {
        problems.push(ValidationError::invalid(
            "spec.matches",
            format!("{} alternatives", spec.matches.len()),
            "name 1 to 8",
        ));
    }
    let mut seen = BTreeSet::new();
    for (index, alternative) in spec.matches.iter().enumerate() {
        let field = format!("spec.matches[{index}]");
        problems.extend(check_headers(&field, alternative));
        if !seen.insert(matcher(alternative)) {
            let message = "the alternative is named twice";
            problems.push(ValidationError::invalid(
                field,
                message,
                "remove one of the two",
            ));
        }
    }
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
            format!("{which} does not carry HTTP, and only requests have headers"),
            "remove matches, or declare HTTP by appProtocol or the name of the port",
        ));
    }
    problems
}

fn check_headers(field: &str, alternative: &RequestMatch) -> Vec<ValidationError> {
    let mut problems = Vec::new();
    let count = alternative.headers.len();
    if count > 16 {
        let message = format!("{count} headers");
        problems.push(ValidationError::invalid(field, message, "name 1 to 16"));
    }
    let mut seen = BTreeSet::new();
    for (index, of) in alternative.headers.iter().enumerate() {
        let field = format!("{field}.headers[{index}]");
        let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+.^_`|~-".contains(&b);
        if of.name.is_empty() || !of.name.bytes().all(token) {
            let message = format!("{:?} is not the name of a header", of.name);
            problems.push(ValidationError::invalid(
                &field,
                message,
                "correct the name",
            ));
        }
        if !seen.insert(of.name.to_ascii_lowercase()) {
            let message = format!("header {:?} is named twice", of.name);
            let fix = "keep one, or make two alternatives";
            problems.push(ValidationError::invalid(&field, message, fix));
        }
        match of.value() {
            None => {
                let message = format!(
                    "header {:?} takes exactly one of exact, prefix and present",
                    of.name
                );
                problems.push(ValidationError::invalid(field, message, "keep one"));
            }
            Some(RequestHeaderValue::Prefix("")) => {
                let message = format!("the prefix of header {:?} is empty", of.name);
                problems.push(ValidationError::invalid(
                    field,
                    message,
                    "use present: true",
                ));
            }
            Some(_) => {}
        }
    }
    problems
}
