//! Addresses that tell blocks apart.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Returns an address for each set of blocks that some address is in: the beginning of every block, and the address after its end.
pub(super) fn apart(blocks: &[&IpNet]) -> Vec<IpAddr> {
    let mut found = BTreeSet::from([
        IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    ]);
    for block in blocks {
        found.insert(block.network());
        found.extend(after(block.broadcast()));
    }
    found.into_iter().collect()
}

fn after(ip: IpAddr) -> Option<IpAddr> {
    match ip {
        IpAddr::V4(ip) => u32::from(ip).checked_add(1).map(|ip| IpAddr::V4(ip.into())),
        IpAddr::V6(ip) => u128::from(ip)
            .checked_add(1)
            .map(|ip| IpAddr::V6(ip.into())),
    }
}
