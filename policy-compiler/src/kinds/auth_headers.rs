//! The headers in the rules of an `AuthPolicy`: checks, cost and meaning.

use heddle_crds::{AuthPolicySpec, HeaderMatch, HeaderValue, reason};

use crate::authz::header::{MAX_COST, MAX_DASHES, cost};
use crate::authz::{HeaderPattern, HeaderValuePattern};
use crate::finding::{Finding, ObjectRef};
use crate::kinds::headers::is_token;
use crate::kinds::{ValidationError, expression};

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

/// Warns of regular expressions that Envoy probably rejects. Only a warning: Envoy's trial decides, and sets aside a policy that it rejects.
pub(super) fn regex_findings(object: &ObjectRef, spec: &AuthPolicySpec) -> Vec<Finding> {
    let headers = spec.rules.iter().enumerate().flat_map(|(rule, of)| {
        let headers = of.to.iter().flat_map(|to| to.headers.iter().enumerate());
        headers
            .map(move |(index, header)| (format!("spec.rules[{rule}].to.headers[{index}]"), header))
    });
    let findings = headers.filter_map(|(field, header)| {
        let Some(HeaderValue::Regex(text)) = header.value() else {
            return None;
        };
        let why = expression::check(text).err()?;
        let message = format!(
            "{text:?} may not be a regular expression that Envoy takes as written: {why}; a policy that Envoy rejects is set aside: its last good rules decide, or else the pods that it selects deny every caller"
        );
        let fix = "close every group and bracket, write \\ before characters that are meant literally, and use only the syntax of RE2";
        let field = format!("{field}.regex");
        Some(Finding::warning(object, field, reason::INVALID, message).fix(fix))
    });
    findings.collect()
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
    let bare = header.name.strip_prefix(':').unwrap_or(&header.name);
    if !is_token(bare) {
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::finding::Severity;
    use crate::kind::ObjectKind;

    #[test]
    fn a_regular_expression_that_envoy_may_reject_is_a_warning() {
        let object = ObjectRef::new(ObjectKind::AuthPolicy, "shop", "cart");
        let sound = json!({"name": "x-a", "regex": "gold|silver[0-9]+"});
        for (regex, why) in [
            ("(gold", Some("unclosed group")),
            (r"(a)\1", Some("backreferences")),
            ("gold", None),
        ] {
            let headers = json!([sound, {"name": "x-tier", "regex": regex}]);
            let spec = json!({"rules": [{}, {"to": {"headers": headers}}]});
            let spec: AuthPolicySpec = serde_json::from_value(spec).unwrap();
            let found = regex_findings(&object, &spec);
            assert_eq!(found.len(), usize::from(why.is_some()), "{found:?}");
            for finding in found {
                assert_eq!(finding.severity, Severity::Warning);
                assert_eq!(finding.field, "spec.rules[1].to.headers[1].regex");
                assert!(finding.message.contains(why.unwrap()), "{finding}");
                assert!(finding.message.contains("deny every caller"));
            }
        }
    }
}
