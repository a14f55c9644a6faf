//! The endpoints of the backends of a rule for connections, in groups with the weights.
//!
//! Gateway API has the share of a backend that does not exist refused, and not sent to the other backends. The share is an address that
//! refuses every connection. A sidecar tries a connection [`CONNECT_ATTEMPTS`] times, each time at an endpoint that it draws by weight. So
//! the weight of the address is such that all draws lead there for the refused share, and the other backends keep their proportions.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};

use super::endpoints::ReachableEndpoints;
use crate::traffic::{
    Backend, Balance, CONNECT_ATTEMPTS, Ejection, EndpointGroup, Forward, RouteRule, Upstream,
    UpstreamHost, WeightedBackend,
};
use crate::world::{Labels, NamespacedName, Port, SpiffeId};

/// Nothing can listen on port 0.
const REFUSES: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
/// The sum of weights with a refused share. Maglev divides its table of 65,537 entries by them.
const WHOLE: u64 = 1_000_000_000;

/// The endpoints of the backends of a rule, a group for each. Adds their identities.
pub(super) fn groups(
    reached: impl Fn(&NamespacedName, Port, Option<&Labels>) -> ReachableEndpoints,
    forward: &Forward,
    by_hash: bool,
    identities: &mut BTreeSet<SpiffeId>,
) -> Vec<EndpointGroup> {
    let group = |weighted: &WeightedBackend| {
        let there = match &weighted.backend {
            Backend::Service(name, port) => reached(name, *port, None),
            Backend::Subset(name, port, labels) => reached(name, *port, Some(labels)),
            Backend::Invalid(_) => ReachableEndpoints::default(),
        };
        identities.extend(there.identities);
        // Without weight a backend gets nothing, and where it is makes no difference.
        let hosts = match weighted.weight {
            0 => Vec::new(),
            _ => there.hosts,
        };
        EndpointGroup {
            weight: weighted.weight,
            hosts,
        }
    };
    let groups = forward.backends.iter().map(group).collect();
    with_refused_share(forward, groups, by_hash)
}

/// Whether a rule refuses some connections.
pub(super) fn refuses(rule: &RouteRule) -> bool {
    let mut takers = rule.takers();
    takers.any(|backend| matches!(backend, Backend::Invalid(_)))
}

/// Lets a cluster with a refused share draw endpoints by weight, and eject none: its refusals are no failures of an endpoint.
pub(super) fn draw_by_weight(upstream: &mut Upstream) {
    // By a hash, all draws for a connection lead to the same endpoint.
    if upstream.balance != Balance::ClientAddress {
        upstream.balance = Balance::RandomByWeight;
    }
    let policy = upstream.policy.get_or_insert_default();
    policy.ejection = Ejection::NEVER;
    policy.slow_start = None;
}

/// Adds the refused share to the groups of the backends of a rule.
fn with_refused_share(
    forward: &Forward,
    mut groups: Vec<EndpointGroup>,
    by_hash: bool,
) -> Vec<EndpointGroup> {
    let invalid = |backend: &Backend| matches!(backend, Backend::Invalid(_));
    let refused = forward.weighted().filter(|of| invalid(&of.backend));
    let sum = |weights: &mut dyn Iterator<Item = u32>| weights.map(u64::from).sum::<u64>();
    let refused = sum(&mut refused.map(|of| of.weight));
    let all = sum(&mut forward.weighted().map(|of| of.weight));
    if refused == 0 {
        return groups;
    }
    for group in &mut groups {
        // Those without endpoints leave their share to the others.
        if group.hosts.is_empty() {
            group.weight = 0;
        }
    }
    let sent = sum(&mut groups.iter().map(|group| group.weight));
    let draws = if by_hash { 1 } else { CONNECT_ATTEMPTS };
    let share = root(refused, all, draws);
    let weight = |part: u64| u32::try_from(part.max(1)).unwrap_or(u32::MAX);
    for group in groups.iter_mut().filter(|group| group.weight > 0) {
        let part = u64::from(group.weight) * (WHOLE - share) / sent.max(1);
        group.weight = weight(part);
    }
    let host = UpstreamHost {
        at: REFUSES,
        plain: true,
        zone: None,
    };
    groups.push(EndpointGroup {
        weight: weight(share),
        hosts: vec![host],
    });
    groups
}

/// The part of [`WHOLE`] of which that power is this fraction, rounded down.
fn root(numerator: u64, denominator: u64, power: u32) -> u64 {
    let (numerator, denominator) = (u128::from(numerator), u128::from(denominator.max(1)));
    let fits = |part: u64| {
        let least = u128::from(part).pow(power) * denominator;
        least <= u128::from(WHOLE).pow(power) * numerator
    };
    let (mut low, mut high) = (0, WHOLE);
    while low < high {
        let middle = (low + high).div_ceil(2);
        match fits(middle) {
            true => low = middle,
            false => high = middle - 1,
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_draws_lead_to_the_refused_share_as_often_as_it_asks_for() {
        for (refused, all) in [
            (1_u32, 5_u32),
            (1, 2),
            (4, 5),
            (1, 1),
            (1, 16_000_000),
            (16_000_000, 16_000_001),
        ] {
            let wanted = f64::from(refused) / f64::from(all);
            for draws in [1, 3] {
                let part = root(refused.into(), all.into(), draws) as f64 / WHOLE as f64;
                let found = part.powi(i32::try_from(draws).unwrap());
                assert!(
                    (found - wanted).abs() < 1e-6,
                    "{refused}/{all} {draws}: {found}"
                );
            }
        }
    }
}
