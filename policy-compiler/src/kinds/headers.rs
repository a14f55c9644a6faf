//! The headers of an `AuthPolicy`'s rules.

use heddle_crds::{AuthPolicySpec, HeaderMatch, HeaderValue};

use crate::authz::header::{MAX_COST, MAX_DASHES, cost};
use crate::authz::{HeaderPattern, HeaderValuePattern};
use crate::kinds::ValidationError;

/// All headers of a policy together: a sidecar has them in memory.
pub(super) fn check_headers(spec: &AuthPolicySpec) -> Option<ValidationError> {
    let costs = spec.rules.iter().flat_map(|rule| {
        let headers = rule.to.iter().flat_map(|to| &to.headers);
        let headers = headers.filter_map(header_pattern);
        headers.map(|header| cost(rule.action.into(), &header))
    });
    let cost: usize = costs.sum();
    (cost > MAX_COST).then(|| {
        let message = format!(
            "the headers of all rules take {cost} bytes in a sidecar, which is more than {MAX_COST} (a regex counts for 2048, and a Deny rule has each value for every mixture of - and _ in the name)"
        );
        let fix = "use fewer headers or shorter values";
        ValidationError::invalid("spec.rules", message, fix)
    })
}

pub(super) fn check_header(field: &str, header: &HeaderMatch) -> Option<ValidationError> {
    let name = header.name.to_ascii_lowercase();
    if name.starts_with(':') && name != ":authority" {
        let message = format!("{:?} is not a header", header.name);
        return Some(ValidationError::invalid(
            field,
            message,
            "use to.paths or to.methods",
        ));
    }
    if name.bytes().filter(|b| b"-_".contains(b)).count() > MAX_DASHES {
        let message = format!(
            "header {:?} has more than {MAX_DASHES} dashes and underscores",
            header.name
        );
        let fix = "use another header: servers take _ for -, and a rule holds for every such name";
        return Some(ValidationError::invalid(field, message, fix));
    }
    header_pattern(header).is_none().then(|| {
        let message = format!(
            "header {:?} takes exactly one of exact, prefix, regex and present",
            header.name
        );
        ValidationError::invalid(field, message, "keep one")
    })
}

/// The header as the rules hold it; `None` if it is not exactly one demand.
pub(super) fn header_pattern(header: &HeaderMatch) -> Option<HeaderPattern> {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+.^_`|~-".contains(&b);
    let bare = header.name.strip_prefix(':').unwrap_or(&header.name);
    if bare.is_empty() || !bare.bytes().all(token) {
        return None;
    }
    let value = match header.value()? {
        HeaderValue::Exact(text) => HeaderValuePattern::Exact(text.into()),
        HeaderValue::Prefix("") | HeaderValue::Regex("") => return None,
        HeaderValue::Prefix(text) => HeaderValuePattern::Prefix(text.into()),
        HeaderValue::Regex(text) => HeaderValuePattern::Regex(text.into()),
        HeaderValue::Present => HeaderValuePattern::Present,
        HeaderValue::Absent => HeaderValuePattern::Absent,
    };
    Some(HeaderPattern {
        name: header.name.to_ascii_lowercase().into(),
        value,
    })
}
