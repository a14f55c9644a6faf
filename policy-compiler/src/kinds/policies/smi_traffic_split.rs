//! `TrafficSplit` of the Service Mesh Interface: an alias of ours, which progressive delivery controllers write. It has the meaning of our
//! `TrafficSplit` with the same backends.

use heddle_crds::{SmiBackend, SmiSplit, SmiTrafficSplitSpec, TrafficSplitSpec};
use serde_json::{Value, json};

use super::traffic_split;
use crate::kinds::ValidationError;
use crate::kinds::policy::{Attachments, Candidate, ObjectReport, PolicyKind};
use crate::kinds::service_rules::{self, ServiceRules};
use crate::traffic::Otherwise;
use crate::validation::inputs::UnitInput;
use crate::world::NamespacedName;

/// Thousandths in a whole: the smallest part of a quantity that a weight may have.
const MILLI: u64 = 1000;

impl PolicyKind for SmiTrafficSplitSpec {
    type Attachment = ServiceRules;

    const NO_CONFLICT: Option<&'static str> = Some("no other split claims the same");

    fn check(policy: &Candidate<'_, Self>, spec: &Self) -> Vec<ValidationError> {
        let split = match spec.typed() {
            Ok(split) => split,
            Err(unsupported) => {
                let errors = unsupported.iter().map(|part| {
                    let dot = if part.field.is_empty() { "" } else { "." };
                    let field = format!("spec{dot}{}", part.field);
                    ValidationError::unsupported(field, &*part.reason, "remove it, or correct it")
                });
                return errors.collect();
            }
        };
        let (ours, mut errors) = translated(policy.namespace(), split);
        errors.extend(
            ours.iter()
                .flat_map(|ours| traffic_split::check(policy, ours)),
        );
        errors
    }

    fn attach(
        policy: &Candidate<'_, Self>,
        spec: &Self,
        attachments: &mut Attachments<Self>,
        report: &mut ObjectReport<'_>,
    ) {
        let Ok(split) = spec.typed() else { return };
        if let (Some(ours), _) = translated(policy.namespace(), split) {
            traffic_split::claim(policy, &ours, attachments, report);
        }
    }

    fn narrower_inputs(
        service: &NamespacedName,
        old: Option<&ServiceRules>,
        new: Option<&ServiceRules>,
    ) -> Vec<UnitInput> {
        service_rules::narrower_inputs(service, old, new, Otherwise::WholeService)
    }
}

/// The spec of our kind with the same meaning, and the faults of the parts that have none.
fn translated(namespace: &str, of: &SmiSplit) -> (Option<TrafficSplitSpec>, Vec<ValidationError>) {
    let mut errors = Vec::new();
    if of
        .matches
        .as_ref()
        .is_some_and(|matches| !matches.is_empty())
    {
        errors.push(ValidationError::unsupported(
            "spec.matches",
            "groups of HTTP routes are not read",
            "write an HTTPRoute, or a TrafficSplit of heddle.dev with matches",
        ));
    }
    let weights = of.backends.iter().enumerate();
    let weights = weights.map(|(index, backend)| {
        let found = thousandths(backend);
        if found.is_none() {
            let text = backend.weight.clone().unwrap_or_default();
            errors.push(ValidationError::unsupported(
                format!("spec.backends[{index}].weight"),
                format!("{text} is not a weight"),
                "use a number from 0 to 1000000, or a quantity such as 500m",
            ));
        }
        found.unwrap_or_default()
    });
    let weights: Vec<u64> = weights.collect();
    // Only their proportions count.
    let whole = weights.iter().all(|weight| weight % MILLI == 0);
    let unit = if whole { MILLI } else { 1 };
    let backends = of.backends.iter().zip(weights);
    let backends = backends.map(|(backend, weight)| {
        json!({"service": local(namespace, &backend.service), "weight": weight / unit})
    });
    let backends: Vec<Value> = backends.collect();
    let ours = json!({"service": local(namespace, &of.service), "backends": backends});
    (serde_json::from_value(ours).ok(), errors)
}

/// The name of a service of the namespace, which may be written as its DNS name.
fn local<'a>(namespace: &str, name: &'a str) -> &'a str {
    let own = |rest: &str| {
        let end = rest.strip_prefix(namespace);
        end.is_some_and(|end| end.is_empty() || end == ".svc" || end.starts_with(".svc."))
    };
    match name.split_once('.') {
        Some((first, rest)) if own(rest) => first,
        _ => name,
    }
}

/// The weight of a backend in thousandths; None if it is none.
fn thousandths(of: &SmiBackend) -> Option<u64> {
    let text = match &of.weight {
        None => return Some(0),
        Some(Value::Number(number)) => number.to_string(),
        Some(Value::String(text)) => text.clone(),
        Some(_) => return None,
    };
    let (digits, unit) = match text.strip_suffix('m') {
        Some(digits) => (digits, 1),
        None => (&*text, MILLI),
    };
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    let number = |digits: &str| {
        let all = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        all.then(|| digits.parse::<u64>().ok()).flatten()
    };
    let whole = number(whole)?.checked_mul(unit)?;
    if digits.contains('.') {
        let thousandths = number(&format!("{part:0<3}")).filter(|_| part.len() <= 3)?;
        return (unit == MILLI && !part.is_empty()).then(|| whole.checked_add(thousandths))?;
    }
    Some(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_is_a_number_or_a_quantity() {
        for (weight, expected) in [
            (json!(10), Some(10_000)),
            (json!(10.0), Some(10_000)),
            (json!(0.25), Some(250)),
            (json!("10"), Some(10_000)),
            (json!("500m"), Some(500)),
            (json!("0.5"), Some(500)),
            (json!("1.2345"), None),
            (json!("1.5m"), None),
            (json!("1."), None),
            (json!("1k"), None),
            (json!(""), None),
            (json!("m"), None),
            (json!("-1"), None),
            (json!(-1), None),
            (json!(true), None),
            (json!(u64::MAX), None),
        ] {
            let backend = SmiBackend {
                service: "a".to_owned(),
                weight: Some(weight.clone()),
            };
            assert_eq!(thousandths(&backend), expected, "{weight}");
        }
    }

    #[test]
    fn dns_names_of_the_own_namespace_are_names() {
        for (name, expected) in [
            ("a", "a"),
            ("a.shop", "a"),
            ("a.shop.svc", "a"),
            ("a.shop.svc.cluster.local", "a"),
            ("a.till", "a.till"),
            ("a.shops", "a.shops"),
        ] {
            assert_eq!(local("shop", name), expected);
        }
    }
}
