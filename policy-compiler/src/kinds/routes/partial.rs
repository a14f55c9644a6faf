//! Routes with some invalid rules: the last good spec is in force in their place, as `PartiallyInvalid` of Gateway API has it.

use std::collections::BTreeSet;

use heddle_crds::{ConditionType, ForeignSpec};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Places;
use super::parents::Place;
use crate::kinds::ValidationError;
use crate::status::ObjectStatus;

/// The most rules of a route, by its definition.
const MAX_RULES: usize = 16;

/// Whether some rules of a spec with these errors are valid, and nothing but rules is invalid.
///
/// The errors may hide others: a value that cannot be read hides those behind it. So the rules without errors are checked alone.
pub(super) fn is_partially_invalid<T: DeserializeOwned + Serialize>(
    spec: &ForeignSpec<T>,
    errors: &[ValidationError],
    check: impl Fn(&ForeignSpec<T>) -> Vec<ValidationError>,
) -> bool {
    let (mut rest, mut errors) = (spec.clone(), errors.to_vec());
    for _ in 0..MAX_RULES {
        let Some(invalid) = errors.iter().map(rule_of).collect::<Option<BTreeSet<_>>>() else {
            return false;
        };
        rest = rest.without_elements("rules", &invalid);
        if rest.elements::<Value>("rules").is_empty() {
            return false;
        }
        errors = check(&rest);
        if errors.is_empty() {
            return true;
        }
    }
    false
}

/// The index of the rule that an error is about.
fn rule_of(error: &ValidationError) -> Option<usize> {
    let (index, _) = error.field.strip_prefix("spec.rules[")?.split_once(']')?;
    index.parse().ok()
}

/// Returns a place again, unless the last good spec is in force in place of a partially invalid one and is not attached there.
pub(super) fn carried(
    status: &ObjectStatus,
    places: &Places,
    index: usize,
    place: Place,
) -> Result<Place, ValidationError> {
    let fallen_back = status.condition(ConditionType::PartiallyInvalid);
    let attached = places.get(&place.service);
    let attached = attached.is_some_and(|ports| place.ports.iter().all(|p| ports.contains(p)));
    match fallen_back {
        Some(_) if !attached => {
            let message = "the generation that stays in force is not attached to this parent";
            let fix = "correct the invalid rules";
            let field = format!("spec.parentRefs[{index}]");
            Err(ValidationError::unsupported(field, message, fix))
        }
        Some(_) | None => Ok(place),
    }
}
