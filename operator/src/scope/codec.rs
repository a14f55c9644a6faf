//! A workload's scope as text, for the store: one line for each destination, `<destination> <seconds>`.

use std::collections::BTreeMap;

use heddle_policy_compiler::{Destination, WorkloadRef};
use sha2::{Digest, Sha256};

use super::Seconds;

/// The longest key of a ConfigMap, and nearly the longest name of a file.
const MAX_KEY: usize = 253;

/// The first line of a scope if the key does not contain the workload's name.
const WORKLOAD: &str = "workload";

/// A workload as a key of a ConfigMap: `<namespace>.<name>`, for namespaces have no dots. A name that is too long for a key,
/// or has other characters, is hashed: `_.<hash>`.
#[must_use]
pub fn key(workload: &WorkloadRef) -> String {
    let plain = format!("{}.{}", workload.namespace, workload.name);
    if is_plain(workload, &plain) {
        return plain;
    }
    let hash = Sha256::digest(plain.as_bytes());
    let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("_.{hash}")
}

fn is_plain(workload: &WorkloadRef, plain: &str) -> bool {
    let safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    plain.len() <= MAX_KEY
        && plain.chars().all(safe)
        && !workload.name.is_empty()
        && !workload.namespace.is_empty()
        && !workload.namespace.starts_with(['_', '.'])
        && !workload.namespace.contains('.')
}

/// Writes the active destinations of a workload.
#[must_use]
pub fn write(workload: &WorkloadRef, held: &BTreeMap<Destination, Seconds>) -> String {
    let WorkloadRef { namespace, name } = workload;
    let named = key(workload)
        .starts_with("_.")
        .then(|| format!("{WORKLOAD} {namespace}/{name}\n"));
    let lines = held
        .iter()
        .map(|(destination, used)| format!("{destination} {used}\n"));
    named.into_iter().chain(lines).collect()
}

/// Reads the workload from a key and its text, and the destinations from the text. Lines that cannot be read, perhaps of a
/// newer version, are ignored.
#[must_use]
pub fn read(key: &str, text: &str) -> Option<(WorkloadRef, BTreeMap<Destination, Seconds>)> {
    let (namespace, name) = match key.strip_prefix("_.") {
        Some(_) => {
            let line = text.lines().next()?.strip_prefix(WORKLOAD)?;
            line.trim_start().split_once('/')?
        }
        None => key.split_once('.')?,
    };
    let named = !namespace.is_empty() && !name.is_empty();
    let line = |line: &str| {
        let (destination, used) = line.split_once(' ')?;
        Some((destination.parse().ok()?, used.parse().ok()?))
    };
    let destinations = text.lines().filter_map(line).collect();
    named.then(|| (WorkloadRef::new(namespace, name), destinations))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_workload_has_a_valid_key_and_is_read_again() {
        let held = BTreeMap::from([("service/shop/db:80".parse().unwrap(), 7)]);
        for name in [
            "cart",
            "cart.v1",
            "Cart_1",
            "system:node",
            "a/b",
            "über",
            "..",
            &"x".repeat(250),
            &"y".repeat(1000),
        ] {
            let workload = WorkloadRef::new("shop", name);
            let (key, text) = (key(&workload), write(&workload, &held));
            assert!(key.len() <= MAX_KEY && !key.starts_with(".."), "{key}");
            assert!(
                key.chars()
                    .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)),
                "{key}"
            );
            assert_eq!(read(&key, &text), Some((workload, held.clone())));
        }
        assert_eq!(key(&WorkloadRef::new("shop", "cart")), "shop.cart");
        assert_eq!(read("_.abc", "service/shop/db:80 7\n"), None);
        assert_eq!(read("cart", ""), None);
    }
}
