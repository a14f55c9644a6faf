//! `spec.headers` of a `TrafficPolicy`.

use heddle_crds as crds;

use crate::kinds::ValidationError;
use crate::kinds::headers::{FRAMING, is_of_sidecars, is_token, is_value};
use crate::traffic::{HeaderChanges, HeaderPolicy, PresentLines};

/// The most headers of a list.
const MAX_HEADERS: usize = 16;

pub(super) fn policy(of: &crds::HeaderPolicy) -> HeaderPolicy {
    let changes = |of: &Option<crds::HeaderChanges>| of.as_ref().map(changes).unwrap_or_default();
    HeaderPolicy {
        request: changes(&of.request),
        response: changes(&of.response),
    }
}

fn changes(of: &crds::HeaderChanges) -> HeaderChanges {
    let mut changes = HeaderChanges::default();
    for name in &of.remove {
        let name = name.to_ascii_lowercase().into();
        changes.0.entry(name).or_default().present = PresentLines::Remove;
    }
    for header in &of.set {
        let name = header.name.to_ascii_lowercase().into();
        let value = header.value.as_str().into();
        changes.0.entry(name).or_default().present = PresentLines::Set(value);
    }
    for header in &of.add {
        let name = header.name.to_ascii_lowercase().into();
        let value = header.value.as_str().into();
        changes.0.entry(name).or_default().add.push(value);
    }
    changes
}

pub(super) fn check(of: &crds::HeaderPolicy) -> Vec<ValidationError> {
    let directions = [("request", &of.request), ("response", &of.response)];
    let directions = directions
        .into_iter()
        .filter_map(|(name, of)| Some((format!("spec.headers.{name}"), of.as_ref()?)));
    directions
        .flat_map(|(field, of)| check_changes(&field, of))
        .collect()
}

fn check_changes(field: &str, of: &crds::HeaderChanges) -> Vec<ValidationError> {
    let mut problems = Vec::new();
    let with_value = |list: &'static str, headers: &'_ [crds::HeaderWithValue]| {
        let headers = headers.iter().enumerate();
        headers
            .map(|(index, of)| (format!("{field}.{list}[{index}]"), of.clone()))
            .collect::<Vec<_>>()
    };
    let removed = of.remove.iter().enumerate();
    let mut named: Vec<(String, String)> = removed
        .map(|(index, name)| (format!("{field}.remove[{index}]"), name.clone()))
        .collect();
    for (field, header) in with_value("set", &of.set)
        .into_iter()
        .chain(with_value("add", &of.add))
    {
        if !is_value(&header.value) {
            let message = format!("{:?} is not the value of a header", header.value);
            let fix = "remove control characters and blanks around it; 4096 bytes at most";
            let field = format!("{field}.value");
            problems.push(ValidationError::invalid(field, message, fix));
        }
        named.push((format!("{field}.name"), header.name));
    }
    for (list, count) in [
        ("set", of.set.len()),
        ("add", of.add.len()),
        ("remove", of.remove.len()),
    ] {
        if count > MAX_HEADERS {
            let (field, message) = (format!("{field}.{list}"), format!("{count} headers"));
            problems.push(ValidationError::invalid(field, message, "name 1 to 16"));
        }
    }
    let mut seen = Vec::new();
    for (field, name) in named {
        let lower = name.to_ascii_lowercase();
        problems.extend(check_name(&field, &name, &lower));
        if seen.contains(&lower) {
            let message = format!("header {name:?} is named twice");
            problems.push(ValidationError::invalid(field, message, "keep one"));
        }
        seen.push(lower);
    }
    problems
}

fn check_name(field: &str, name: &str, lower: &str) -> Option<ValidationError> {
    let (message, fix) = if lower.starts_with(':') {
        let message = format!("{name:?} is a part of the request and not a header");
        (message, "a rewrite of an HTTPRoute changes host and path")
    } else if !is_token(name) {
        let message = format!("{name:?} is not the name of a header");
        (message, "use letters, digits and dashes")
    } else if FRAMING.contains(&lower) {
        let message = format!("header {name:?} frames messages or names the host");
        (
            message,
            "remove it; another value would break the connection",
        )
    } else if is_of_sidecars(lower) {
        let message = format!("header {name:?} belongs to sidecars, which set or remove it");
        (message, "use a header of the application")
    } else {
        return None;
    };
    Some(ValidationError::invalid(field, message, fix))
}
