//! Reads fields that would mean "anything" if they were empty.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, de::Error};

/// A list that means "any of these", left out for "no restriction". Written but empty (say, by a template with values that
/// are missing) it is refused: read as "no restriction" it would open access that its author meant to close.
pub(crate) fn list<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    match Option::<Vec<T>>::deserialize(deserializer)? {
        Some(list) if !list.is_empty() => Ok(list),
        Some(_) | None => Err(D::Error::custom(
            "the list is empty: leave the field out, or name at least one value",
        )),
    }
}

/// A field that may be left out, but not be null: see [`crate::crd::Nulls`].
pub(crate) fn present<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    match Option::deserialize(deserializer)? {
        Some(value) => Ok(Some(value)),
        None => Err(D::Error::custom(
            "the field is null: leave it out, or give it a value",
        )),
    }
}

/// The same for labels that select.
pub(crate) fn labels<'de, D>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error>
where
    D: Deserializer<'de>,
{
    let labels = BTreeMap::deserialize(deserializer)?;
    if labels.is_empty() {
        return Err(D::Error::custom(
            "no labels: leave the selector out, or name at least one label",
        ));
    }
    Ok(labels)
}

/// The same for labels in a field that may be left out.
pub(crate) fn some_labels<'de, D>(
    deserializer: D,
) -> Result<Option<BTreeMap<String, String>>, D::Error>
where
    D: Deserializer<'de>,
{
    labels(deserializer).map(Some)
}
