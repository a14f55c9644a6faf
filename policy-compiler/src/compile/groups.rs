//! The endpoints of the backends of a rule for connections, in groups with the weights.
//!
//! Gateway API has the share of a backend that does not exist refused, and not sent to the other backends. The share is an address that
//! refuses every connection. A sidecar tries a connection [`CONNECT_ATTEMPTS`] times, each time at an endpoint that it draws by weight. So
//! the weight of the address is such that all draws lead there for the refused share, and the other backends keep their proportions.
//! The draws and the weights are set together, by [`refuse_share`]: one without the other refuses another share.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};

use super::endpoints::ReachableEndpoints;
use crate::traffic::{
    Backend, Balance, CONNECT_ATTEMPTS, Ejection, EndpointGroup, Forward, Upstream, UpstreamHost,
    WeightedBackend,
};
use crate::world::{Labels, NamespacedName, Port, SpiffeId};

/// Nothing can listen on port 0.
const REFUSES: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
/// The sum of weights with a refused share. Maglev divides its table of 65,537 entries by them.
const WHOLE: u64 = 1_000_000_000;

/// The endpoints of the backends of a rule, a group for each. Adds their identities, and sets the weights in force.
pub(super) fn groups(
    reached: impl Fn(&NamespacedName, Port, Option<&Labels>) -> ReachableEndpoints,
    forward: &mut Forward,
    identities: &mut BTreeSet<SpiffeId>,
) -> Vec<EndpointGroup> {
    let group = |weighted: &WeightedBackend| {
        let mut there = match &weighted.backend {
            Backend::Service(name, port) => reached(name, *port, None),
            Backend::Subset(name, port, labels) => reached(name, *port, Some(labels)),
            Backend::Invalid(_) => ReachableEndpoints::default(),
        };
        identities.append(&mut there.identities);
        there.group(0)
    };
    let mut groups: Vec<EndpointGroup> = forward.backends.iter().map(group).collect();
    let backends = forward.backends.iter().map(|weighted| &weighted.backend);
    let ready = backends.zip(&groups).filter(|(_, group)| group.is_ready());
    let ready: BTreeSet<Backend> = ready.map(|(backend, _)| backend.clone()).collect();
    forward.divide(|backend| ready.contains(backend));
    for (group, weighted) in groups.iter_mut().zip(&forward.backends) {
        group.weight = weighted.weight.in_force;
        // Without weight a backend gets nothing, and where it is makes no difference.
        if group.weight == 0 {
            (group.hosts, group.ending) = (Vec::new(), false);
        }
    }
    groups
}

/// Adds the refused share of a rule to the groups of its backends. Their cluster draws endpoints by weight then, under every policy, and
/// ejects none: its refusals are not failures of an endpoint. `sticky`: the listener hashes the address of the caller.
pub(super) fn refuse_share(
    upstream: &mut Upstream,
    groups: &mut Vec<EndpointGroup>,
    forward: &Forward,
    sticky: bool,
) {
    if refused(forward).next().is_none() {
        return;
    }
    // The listener of a sticky service hashes under every policy, and every way to draw by weight follows the hash: all draws for a
    // connection lead to the same endpoint.
    let (balance, draws) = match sticky {
        true => (Balance::ClientAddress, 1),
        false => (Balance::RandomByWeight, CONNECT_ATTEMPTS),
    };
    add_share(groups, forward, draws);
    upstream.balance = balance;
    upstream.by_zone = false;
    let policy = upstream.policy.get_or_insert_default();
    policy.ejection = Ejection::NEVER;
    policy.slow_start = None;
}

/// The backends with a share that is refused.
fn refused(forward: &Forward) -> impl Iterator<Item = &WeightedBackend> {
    let invalid = |of: &&WeightedBackend| matches!(of.backend, Backend::Invalid(_));
    forward.weighted().filter(invalid)
}

/// Adds the group to which so many draws in a row lead for the refused share.
fn add_share(groups: &mut Vec<EndpointGroup>, forward: &Forward, draws: u32) {
    let sum = |weights: &mut dyn Iterator<Item = u32>| weights.map(u64::from).sum::<u64>();
    let refused = sum(&mut refused(forward).map(|of| of.weight.in_force));
    let all = sum(&mut forward.weighted().map(|of| of.weight.in_force));
    for group in groups.iter_mut() {
        // Those without endpoints leave their share to the others.
        if group.hosts.is_empty() {
            group.weight = 0;
        }
    }
    let sent = sum(&mut groups.iter().map(|group| group.weight));
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
        ending: false,
    });
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
