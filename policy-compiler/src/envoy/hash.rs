//! Hash policies of routes: the part of a request that leads it to the same endpoint.

use std::collections::BTreeSet;
use std::sync::Arc;

use envoy_types::pb::envoy::config::route::v3::route_action::{HashPolicy, hash_policy};

use crate::traffic::{Balance, HashKey, Sticky};

/// The hash policies for upstreams that are balanced so, each once. A header by which users keep their backend comes first, and where a
/// request has it no other counts: Envoy makes one hash for both.
pub(super) fn policies<'a>(
    balances: impl Iterator<Item = &'a Balance>,
    sticky: Option<&Sticky>,
) -> Vec<HashPolicy> {
    let header = sticky.and_then(|sticky| match sticky {
        Sticky::Header(name) => Some(HashKey::Header(Arc::clone(name))),
        Sticky::Cookie(_) => None,
    });
    let keys: BTreeSet<&HashKey> = balances
        .filter_map(|balance| match balance {
            Balance::Hash(key) => Some(key),
            Balance::ClientAddress => Some(&HashKey::SourceAddress),
            Balance::RoundRobin
            | Balance::LeastRequest
            | Balance::Random
            | Balance::RandomByWeight => None,
        })
        .collect();
    let first = header.iter().map(|key| HashPolicy {
        terminal: true,
        ..policy(key)
    });
    let others = keys.into_iter().filter(|key| header.as_ref() != Some(*key));
    first.chain(others.map(policy)).collect()
}

fn policy(key: &HashKey) -> HashPolicy {
    use hash_policy::PolicySpecifier;
    let specifier = match key {
        HashKey::Header(name) => PolicySpecifier::Header(hash_policy::Header {
            header_name: name.to_string(),
            ..Default::default()
        }),
        // Without a lifetime Envoy sets no cookie of its own: with one, the first answers come from elsewhere.
        HashKey::Cookie(name) => PolicySpecifier::Cookie(hash_policy::Cookie {
            name: name.to_string(),
            ..Default::default()
        }),
        HashKey::Query(name) => PolicySpecifier::QueryParameter(hash_policy::QueryParameter {
            name: name.to_string(),
        }),
        HashKey::SourceAddress => {
            PolicySpecifier::ConnectionProperties(hash_policy::ConnectionProperties {
                source_ip: true,
            })
        }
    };
    HashPolicy {
        policy_specifier: Some(specifier),
        ..Default::default()
    }
}
