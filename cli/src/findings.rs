//! Findings of the compiler, as people and CI read them.

use std::collections::BTreeMap;

use heddle_acceptor::clean;
use heddle_policy_compiler::{Finding, Severity};

/// The longest finding, in characters.
const MAX_LINE: usize = 4000;

/// One line: `error: AuthPolicy shop/checkout: spec.rules[2].to.ports[0]: ... (fix: ...)`.
///
/// It is one line for every object: authors of objects choose parts of its text.
pub fn line(finding: &Finding) -> String {
    let mut line = format!("{}: {}: ", finding.severity.as_str(), finding.object);
    if !finding.field.is_empty() {
        line.push_str(&finding.field);
        line.push_str(": ");
    }
    line.push_str(&finding.message);
    if !finding.fix.is_empty() {
        line.push_str(&format!(" (fix: {})", finding.fix));
    }
    clean(&line, MAX_LINE)
}

/// Sorted, errors first, each once.
pub fn sorted(mut findings: Vec<Finding>) -> Vec<Finding> {
    findings.sort();
    findings.dedup();
    findings
}

/// Writes all to standard error.
pub fn report(findings: &[Finding]) {
    for finding in findings {
        crate::out::note!("{}", line(finding));
    }
}

/// How many are errors.
pub fn errors(findings: &[Finding]) -> usize {
    findings
        .iter()
        .filter(|finding| finding.severity == Severity::Error)
        .count()
}

/// `2 errors, 1 warning`, or that there is nothing to say.
pub fn summary(findings: &[Finding]) -> String {
    let count = |severity: Severity, one: &str| {
        let n = findings
            .iter()
            .filter(|finding| finding.severity == severity)
            .count();
        (n > 0).then(|| plural(n, one))
    };
    let parts: Vec<String> = [
        count(Severity::Error, "error"),
        count(Severity::Warning, "warning"),
        count(Severity::Info, "note"),
    ]
    .into_iter()
    .flatten()
    .collect();
    if parts.is_empty() {
        "no findings".to_owned()
    } else {
        parts.join(", ")
    }
}

/// `1 sidecar`, `2 sidecars`.
pub fn plural(n: usize, one: &str) -> String {
    format!("{n} {one}{}", if n == 1 { "" } else { "s" })
}

/// `not read: 2 ConfigMap, 1 Ingress`, or nothing.
pub fn skipped(kinds: &BTreeMap<String, usize>) -> Option<String> {
    let kinds: Vec<String> = kinds
        .iter()
        .map(|(kind, count)| format!("{count} {kind}"))
        .collect();
    (!kinds.is_empty()).then(|| {
        let kinds = kinds.join(", ");
        let line = format!("not read, for the mesh does not use them: {kinds}");
        clean(&line, MAX_LINE)
    })
}

#[cfg(test)]
mod tests {
    use heddle_policy_compiler::{ObjectKind, ObjectRef};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_finding_is_one_line(message in any::<String>(), field in any::<String>(), name in any::<String>()) {
            let finding = Finding {
                severity: Severity::Error,
                object: ObjectRef::new(ObjectKind::AuthPolicy, "shop", &name),
                field,
                code: "test",
                message: format!("{message}\n\u{1b}[2J"),
                fix: message,
            };
            let kinds = BTreeMap::from([(format!("{name}\n\u{1b}[2J"), 1)]);
            for line in [line(&finding), skipped(&kinds).unwrap_or_default()] {
                prop_assert!(line.chars().all(|c| !c.is_control()), "{line:?}");
                prop_assert!(line.chars().count() <= MAX_LINE);
            }
        }
    }
}
