//! Labels and annotations of ours that are probably misspelt.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::INJECT_LABEL;
use super::names;
use crate::world::DESTINATIONS;

const PREFIX: &str = "heddle.dev/";
const LABELS: [&str; 2] = [INJECT_LABEL, names::MESHED];
const ANNOTATIONS: [&str; 9] = [
    names::EXCLUDE_INBOUND_PORTS,
    names::EXCLUDE_OUTBOUND_PORTS,
    names::EXCLUDE_OUTBOUND_CIDRS,
    names::PROXY_RESOURCES,
    names::INIT_RESOURCES,
    names::NOT_INJECTED,
    DESTINATIONS,
    "heddle.dev/standalone-app",
    "heddle.dev/standalone-upstreams",
];

/// The most warnings about one pod.
pub(super) const MAX_SPELLING_WARNINGS: usize = 16;

/// Labels, and annotations, of one pod that are compared with the known keys.
const MAX_JUDGED: usize = 64;

/// The longest key that Kubernetes admits, in bytes: a DNS subdomain, a slash and a name.
const MAX_KEY: usize = 253 + 1 + 63;

/// Edits between two keys that still count as a misspelling.
const NEAR: usize = 3;

/// Returns a warning for each label or annotation of a pod that is ours by name but is not read, and for a value of the
/// injection label that has no meaning; at most [`MAX_SPELLING_WARNINGS`].
#[must_use]
pub fn warnings(metadata: &ObjectMeta) -> Vec<String> {
    of_object(metadata, (&LABELS, &ANNOTATIONS))
}

/// The same for a namespace, of which only the injection label is read.
#[must_use]
pub(crate) fn namespace_warnings(metadata: &ObjectMeta) -> Vec<String> {
    of_object(metadata, (&[INJECT_LABEL], &[]))
}

/// Returns a warning for each key of ours at the owner of a pod template that the template does not have, for only those of pods are read.
#[must_use]
pub(crate) fn owner_warnings(owner: &ObjectMeta, template: &ObjectMeta) -> Vec<String> {
    let kinds = [
        ("label", &owner.labels, &template.labels),
        ("annotation", &owner.annotations, &template.annotations),
    ];
    let all = kinds.into_iter().flat_map(|(kind, of_owner, of_pods)| {
        let judged = of_owner.iter().flatten();
        let judged = judged.filter(|(key, _)| is_judged(key)).take(MAX_JUDGED);
        let lost = judged.filter(move |(key, value)| {
            let of_pods = of_pods.as_ref().and_then(|of_pods| of_pods.get(*key));
            of_pods != Some(*value)
        });
        lost.filter_map(move |(key, _)| at_owner(kind, key))
    });
    all.take(MAX_SPELLING_WARNINGS).collect()
}

fn at_owner(kind: &str, key: &str) -> Option<String> {
    if !all_known().any(|known| known == key) {
        return unknown(kind, key, &LABELS, &ANNOTATIONS);
    }
    Some(format!(
        "metadata.{kind}s[{key}]: Heddle reads {key} at pods only; write it into the metadata of the pod template"
    ))
}

/// `labels` and `annotations` are those that are read.
fn of_object(metadata: &ObjectMeta, (labels, annotations): (&[&str], &[&str])) -> Vec<String> {
    let all = metadata.labels.iter().flatten();
    let judged = all.filter(|(key, _)| is_judged(key)).take(MAX_JUDGED);
    let misspelt_labels = judged.filter_map(|(key, value)| match key.as_str() {
        INJECT_LABEL => inject_value("metadata.labels", value),
        key => unknown("label", key, labels, annotations),
    });
    let keys = metadata.annotations.iter().flat_map(possibly_ours);
    let misspelt_annotations =
        keys.filter_map(|key| unknown("annotation", key, annotations, labels));
    let all = misspelt_labels.chain(misspelt_annotations);
    all.take(MAX_SPELLING_WARNINGS).collect()
}

/// Returns the keys that can be ours, misspelt or not.
pub fn possibly_ours(all: &BTreeMap<String, String>) -> impl Iterator<Item = &str> {
    let judged = all.keys().filter(|key| is_judged(key)).take(MAX_JUDGED);
    judged.map(String::as_str)
}

/// Returns whether a key can be ours, misspelt or not. Anybody chooses the keys, also of a review that no API server has checked.
fn is_judged(key: &str) -> bool {
    let near = |known| key.starts_with('h') && is_near(key, known);
    key.len() <= MAX_KEY
        && (key.starts_with(PREFIX) || habit(key).is_some() || all_known().any(near))
}

fn all_known() -> impl Iterator<Item = &'static str> {
    LABELS.into_iter().chain(ANNOTATIONS)
}

/// The key of ours that a key in the style of other meshes means: `sidecar.heddle.dev/inject`, `heddle-injection`. The name after a subdomain
/// of ours that none of our keys has means none.
fn habit(key: &str) -> Option<Option<&'static str>> {
    if let Some((_, name)) = key.split_once(".heddle.dev/") {
        let of_name = |known: &&str| known.strip_prefix(PREFIX) == Some(name);
        return Some(all_known().find(of_name));
    }
    let lower = key.to_ascii_lowercase();
    let asks = lower.contains("heddle") && lower.contains("inject") && !key.starts_with(PREFIX);
    asks.then_some(Some(INJECT_LABEL))
}

/// Returns whether the lengths of two keys alone allow for [`NEAR`] edits.
fn is_near(key: &str, known: &str) -> bool {
    key.len().abs_diff(known.len()) <= NEAR
}

/// Returns the keys of the annotations for which [`warnings`] has a warning.
pub fn misspelt_annotations(all: &BTreeMap<String, String>) -> impl Iterator<Item = &str> {
    possibly_ours(all)
        .filter(|key| unknown("annotation", key, &ANNOTATIONS, &LABELS).is_some())
        .take(MAX_SPELLING_WARNINGS)
}

/// Returns a warning for a value of the injection label that has no meaning.
fn inject_value(field: &str, value: &str) -> Option<String> {
    if value == "enabled" || value == "disabled" {
        return None;
    }
    let meant = match value.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "enable" | "enabled" => "enabled",
        "false" | "no" | "off" | "disable" | "disabled" => "disabled",
        _ => "enabled or disabled",
    };
    Some(format!(
        "{field}[{INJECT_LABEL}]: {value:?} is not a value of this label and is ignored; write {meant}"
    ))
}

fn unknown(kind: &str, key: &str, known: &[&str], other: &[&str]) -> Option<String> {
    if known.contains(&key) {
        return None;
    }
    let field = format!("metadata.{kind}s[{key}]");
    if other.contains(&key) {
        let right = if kind == "label" {
            "annotation"
        } else {
            "label"
        };
        return Some(format!(
            "{field}: Heddle reads {key} as {right} only; write it as {right}"
        ));
    }
    let near = known
        .iter()
        .chain(other)
        .filter(|known| is_near(key, known));
    let nearest = near.map(|known| (edits(key, known), known)).min();
    let nearest = nearest.filter(|(edits, _)| *edits <= NEAR);
    let (habit, ours) = (habit(key), key.starts_with(PREFIX));
    match nearest.map(|(_, meant)| *meant).or(habit.flatten()) {
        Some(meant) => Some(format!(
            "{field}: Heddle reads no such {kind}; it probably means {meant}"
        )),
        None if ours || habit.is_some() => {
            Some(format!("{field}: Heddle reads no such {kind}; remove it"))
        }
        None => None,
    }
}

/// Levenshtein's distance.
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut before = i;
        let mut next = vec![i + 1];
        for (y, above) in b.bytes().zip(row.iter().skip(1)) {
            let left = next.last().copied().unwrap_or_default();
            let replaced = before + usize::from(x != y);
            next.push(replaced.min(left + 1).min(above + 1));
            before = *above;
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_at_the_owner_that_its_pods_do_not_have_is_warned_of() {
        let metadata = |labels: &[(&str, &str)], annotations: &[(&str, &str)]| {
            let map = |all: &[(&str, &str)]| {
                let all = all.iter();
                Some(all.map(|(k, v)| ((*k).into(), (*v).into())).collect())
            };
            ObjectMeta {
                labels: map(labels),
                annotations: map(annotations),
                ..ObjectMeta::default()
            }
        };
        let disabled = [(INJECT_LABEL, "disabled")];
        let ports = [(names::EXCLUDE_INBOUND_PORTS, "22")];
        let lost = |owner: &ObjectMeta, template: &ObjectMeta| owner_warnings(owner, template);
        let found = lost(&metadata(&disabled, &ports), &metadata(&[], &[]));
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].contains("metadata.labels[heddle.dev/inject]"));
        assert!(found.iter().all(|text| text.contains("at pods only")));
        // In the wrong place, with another value, misspelt.
        let other = [(INJECT_LABEL, "enabled")];
        for (owner, template) in [
            (metadata(&[], &disabled), metadata(&[], &[])),
            (metadata(&disabled, &[]), metadata(&other, &[])),
            (
                metadata(&[("heddle-injection", "disabled")], &[]),
                metadata(&[], &[]),
            ),
        ] {
            assert_eq!(lost(&owner, &template).len(), 1, "{owner:?}");
        }
        for (owner, template) in [
            (metadata(&disabled, &ports), metadata(&disabled, &ports)),
            (metadata(&[("app", "x")], &[]), metadata(&[], &[])),
            (metadata(&[], &[]), metadata(&disabled, &ports)),
        ] {
            assert_eq!(lost(&owner, &template), Vec::<String>::new());
        }
    }
}
