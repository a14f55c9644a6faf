//! Addresses of the pod's own node, from the network namespace.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The default gateways of this network namespace: with a bridge, the address that the node's own connections come from.
pub(super) fn default_gateways() -> Vec<IpAddr> {
    let v4 = std::fs::read_to_string("/proc/thread-self/net/route").unwrap_or_default();
    let v6 = std::fs::read_to_string("/proc/thread-self/net/ipv6_route").unwrap_or_default();
    v4.lines()
        .filter_map(gateway_v4)
        .chain(v6.lines().filter_map(gateway_v6))
        .collect()
}

/// A line of `/proc/net/route`: interface, destination, gateway and more; hexadecimal in the machine's byte order.
fn gateway_v4(line: &str) -> Option<IpAddr> {
    let mut fields = line.split_whitespace().skip(1);
    let (destination, gateway) = (fields.next()?, fields.next()?);
    let gateway = u32::from_str_radix(gateway, 16).ok()?;
    (destination == "00000000" && gateway != 0)
        .then(|| Ipv4Addr::from(gateway.to_ne_bytes()).into())
}

/// A line of `/proc/net/ipv6_route`: destination, its prefix length, source, its prefix length, next hop and more.
fn gateway_v6(line: &str) -> Option<IpAddr> {
    let fields: Vec<&str> = line.split_whitespace().take(5).collect();
    let [destination, length, _, _, next_hop] = fields.as_slice() else {
        return None;
    };
    let next_hop = Ipv6Addr::from(u128::from_str_radix(next_hop, 16).ok()?);
    let default = *length == "00" && destination.bytes().all(|b| b == b'0');
    (default && !next_hop.is_unspecified()).then(|| next_hop.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_route_names_the_gateway() {
        let v4 = "eth0\t00000000\t0100F40A\t0003\t0\t0\t0\t00000000\t0\t0\t0";
        assert_eq!(gateway_v4(v4), Some(Ipv4Addr::new(10, 244, 0, 1).into()));
        assert_eq!(gateway_v4("Iface\tDestination\tGateway \tFlags"), None);
        let v6 = "00000000000000000000000000000000 00 00000000000000000000000000000000 00 fd000000000000000000000000000001 00000400 00000001 00000000 00000003 eth0";
        assert_eq!(gateway_v6(v6), Some("fd00::1".parse().unwrap()));
    }
}
