//! `TrafficSplit` of the Service Mesh Interface: an alias of ours, which progressive delivery controllers write. It has the meaning of our
//! `TrafficSplit` with the same backends.

use heddle_crds::{Backend, SmiBackend, SmiSplit, SmiTrafficSplitSpec, TrafficSplitSpec};
use serde_json::Value;

use super::traffic_split;
use crate::kinds::ValidationError;
use crate::kinds::policy::{Attachments, Candidate, ObjectReport, PolicyKind};
use crate::kinds::service_rules::{RuleKind, Rules, ServiceRules};

/// Thousandths in a whole: the smallest part of a quantity that a weight may have.
const MILLI: u64 = 1000;

impl PolicyKind for SmiTrafficSplitSpec {
    type Attachment = ServiceRules;

    const RULES: Option<Rules<ServiceRules>> = Some(Rules::of(RuleKind::Split));

    const IN_CLUSTERS: bool = false;

    const NO_CONFLICT: Option<&'static str> = Some("no other split claims the same");

    fn check(policy: &Candidate<'_, Self>, spec: &Self) -> Vec<ValidationError> {
        let split = match spec.typed() {
            Ok(split) => split,
            Err(parts) => {
                return ValidationError::unsupported_parts(parts, "remove it, or correct it");
            }
        };
        let (ours, mut errors) = translated(policy.namespace(), split);
        let replaces = traffic_split::replaces(policy, spec);
        errors.extend(traffic_split::check(policy, &ours, replaces));
        errors
    }

    fn attach(
        policy: &Candidate<'_, Self>,
        spec: &Self,
        attachments: &mut Attachments<Self>,
        report: &mut ObjectReport<'_>,
    ) {
        let Ok(split) = spec.typed() else { return };
        let (ours, _) = translated(policy.namespace(), split);
        traffic_split::claim(policy, &ours, attachments, report);
    }
}

/// The spec of our kind with the same meaning, and the faults of the parts that have none.
fn translated(namespace: &str, of: &SmiSplit) -> (TrafficSplitSpec, Vec<ValidationError>) {
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
    let (weights, wrong) = weights(&of.backends);
    errors.extend(wrong);
    let backends = of.backends.iter().zip(weights);
    let backends = backends.map(|(backend, weight)| Backend {
        service: Some(local(namespace, &backend.service).to_owned()),
        labels: None,
        weight,
    });
    let ours = TrafficSplitSpec {
        service: local(namespace, &of.service).to_owned(),
        port: None,
        matches: Vec::new(),
        backends: backends.collect(),
        mirrors: Vec::new(),
        sticky: None,
    };
    (ours, errors)
}

/// The weights of backends as ours have them. One that is wrong counts for 1, so that the others are judged as they are.
fn weights(backends: &[SmiBackend]) -> (Vec<u32>, Vec<ValidationError>) {
    let mut errors = Vec::new();
    let mut wrong = |index: usize, reason: &str, fix: &'static str| {
        let text = backends.get(index).and_then(|of| of.weight.as_ref());
        let text = text.map(ToString::to_string).unwrap_or_default();
        errors.push(ValidationError::unsupported(
            format!("spec.backends[{index}].weight"),
            format!("{text} {reason}"),
            fix,
        ));
    };
    let fix = "use a number from 0 to 1000000, or a quantity such as 500m";
    let largest = u64::from(Backend::MAX_WEIGHT);
    let mut found = Vec::new();
    for (index, backend) in backends.iter().enumerate() {
        let weight = thousandths(backend);
        match weight {
            None => wrong(index, "is not a weight", fix),
            Some(weight) if weight > largest * MILLI => wrong(index, "is too large", fix),
            Some(_) => {}
        }
        found.push(weight.filter(|weight| *weight <= largest * MILLI));
    }
    // Only their proportions count; numbers without a part stay as they are.
    let divisor = found.iter().flatten().copied().fold(0, gcd);
    let unit = match divisor.is_multiple_of(MILLI) {
        true => MILLI,
        false => divisor,
    };
    let mut weights = Vec::new();
    for (index, weight) in found.into_iter().enumerate() {
        let whole = weight.map_or(1, |weight| weight / unit);
        if whole > largest {
            let reason = "is too large beside the others: no whole numbers up to 1000000 have the proportions of the weights";
            wrong(index, reason, "use weights that are less far apart");
        }
        let whole = u32::try_from(whole).ok();
        weights.push(whole.filter(|of| *of <= Backend::MAX_WEIGHT).unwrap_or(1));
    }
    (weights, errors)
}

/// The greatest common divisor; that with 0 is the other number.
const fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b > 0 {
        (a, b) = (b, a % b);
    }
    a
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
    use serde_json::json;

    use super::*;

    #[test]
    fn weights_keep_their_proportions_or_have_an_error_in_the_words_of_the_user() {
        let largest = json!(1_000_000);
        for (given, expected, error) in [
            ([json!(75), json!(25)], [75, 25], None),
            ([json!("2000"), json!("500m")], [4000, 1], None),
            (
                [json!("2000"), json!("1m")],
                [1, 1],
                Some("\"2000\" is too large beside the others"),
            ),
            ([json!("1.5"), json!(0)], [1, 0], None),
            ([json!(0), json!("0m")], [0, 0], None),
            ([largest.clone(), json!(1)], [1_000_000, 1], None),
            (
                [largest, json!("0.5")],
                [1, 1],
                Some("1000000 is too large beside the others"),
            ),
            (
                [json!(1_000_001), json!(5)],
                [1, 5],
                Some("1000001 is too large"),
            ),
            (
                [json!("1000000001m"), json!(5)],
                [1, 5],
                Some("\"1000000001m\" is too large"),
            ),
            (
                [json!(1_u64 << 32), json!(5)],
                [1, 5],
                Some("4294967296 is too large"),
            ),
            (
                [json!(u64::MAX), json!(5)],
                [1, 5],
                Some("18446744073709551615 is not a weight"),
            ),
            (
                [json!("ten"), json!(5)],
                [1, 5],
                Some("\"ten\" is not a weight"),
            ),
        ] {
            let backend = |weight: &Value| SmiBackend {
                service: "a".to_owned(),
                weight: Some(weight.clone()),
            };
            let backends: Vec<SmiBackend> = given.iter().map(backend).collect();
            let (found, errors) = weights(&backends);
            assert_eq!(found, expected, "{given:?}");
            let found: Vec<&str> = errors.iter().map(|of| &*of.message).collect();
            assert_eq!(found.len(), usize::from(error.is_some()), "{found:?}");
            let says = |error| found.iter().all(|of| of.starts_with(error));
            assert!(error.is_none_or(says), "{given:?}: {found:?}");
        }
    }

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
