//! A workload's scope as text, for the store: one line for each destination, `<destination> <seconds>`.

use std::collections::BTreeMap;

use heddle_policy_compiler::{Destination, WorkloadRef};

use super::Seconds;

/// A workload as a key: `<namespace>.<name>`. Namespaces have no dots.
#[must_use]
pub fn key(workload: &WorkloadRef) -> String {
    format!("{}.{}", workload.namespace, workload.name)
}

/// The workload of a key.
#[must_use]
pub fn parse(key: &str) -> Option<WorkloadRef> {
    let (namespace, name) = key.split_once('.')?;
    let named = !namespace.is_empty() && !name.is_empty();
    named.then(|| WorkloadRef::new(namespace, name))
}

/// Writes what a workload holds.
#[must_use]
pub fn write(held: &BTreeMap<Destination, Seconds>) -> String {
    held.iter()
        .map(|(destination, used)| format!("{destination} {used}\n"))
        .collect()
}

/// Reads it again. Lines that say nothing, perhaps of a newer version, are left out.
#[must_use]
pub fn read(text: &str) -> BTreeMap<Destination, Seconds> {
    let line = |line: &str| {
        let (destination, used) = line.split_once(' ')?;
        Some((destination.parse().ok()?, used.parse().ok()?))
    };
    text.lines().filter_map(line).collect()
}
