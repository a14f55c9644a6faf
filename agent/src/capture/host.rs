//! What the pod's network namespace says of itself.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};

/// IPv6 has no 127.0.0.0/8: this address is added to the loopback interface.
pub(crate) const INBOUND_SOURCE_V6: Ipv6Addr = Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6);

/// `RTF_GATEWAY` of `linux/route.h`.
const GATEWAY: u32 = 2;

/// The next hops of the default routes: with many networks that is the node itself.
pub(crate) fn default_gateways() -> Result<Vec<IpAddr>> {
    let v4 = table("/proc/net/route")?;
    let v6 = table("/proc/net/ipv6_route")?;
    let found = v4.lines().filter_map(gateway_v4).map(IpAddr::V4);
    Ok(found
        .chain(v6.lines().filter_map(gateway_v6).map(IpAddr::V6))
        .collect())
}

fn table(path: &str) -> Result<String> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text),
        // No such family.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error).with_context(|| format!("{path} can't be read")),
    }
}

/// `Iface Destination Gateway Flags RefCnt Use Metric Mask ...`, addresses as the processor holds them.
fn gateway_v4(line: &str) -> Option<Ipv4Addr> {
    let mut fields = line.split_whitespace().skip(1);
    let mut hex = || u32::from_str_radix(fields.next()?, 16).ok();
    let (destination, gateway, flags) = (hex()?, hex()?, hex()?);
    let mask = u32::from_str_radix(line.split_whitespace().nth(7)?, 16).ok()?;
    (destination == 0 && mask == 0 && flags & GATEWAY != 0)
        .then(|| Ipv4Addr::from(gateway.to_ne_bytes()))
}

/// `destination prefix source prefix gateway metric refcount use flags interface`, all hexadecimal.
fn gateway_v6(line: &str) -> Option<Ipv6Addr> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [destination, prefix, _, _, gateway, _, _, _, flags, _] = fields.as_slice() else {
        return None;
    };
    let default = u128::from_str_radix(destination, 16).ok()? == 0 && *prefix == "00";
    let flags = u32::from_str_radix(flags, 16).ok()?;
    let gateway = u128::from_str_radix(gateway, 16).ok()?;
    (default && flags & GATEWAY != 0 && gateway != 0).then(|| Ipv6Addr::from(gateway))
}

pub(crate) fn ipv6_on_loopback() -> bool {
    fs::read_to_string("/proc/sys/net/ipv6/conf/lo/disable_ipv6")
        .is_ok_and(|text| text.trim() == "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gateways_are_those_of_default_routes() {
        if cfg!(target_endian = "little") {
            assert_eq!(
                gateway_v4("eth0 00000000 0101F40A 0003 0 0 0 00000000 0 0 0"),
                Some(Ipv4Addr::new(10, 244, 1, 1))
            );
        }
        for line in [
            "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT",
            "eth0 0000F40A 0101F40A 0003 0 0 0 0000FFFF 0 0 0",
            "eth0 00000000 00000000 0001 0 0 0 00000000 0 0 0",
            "",
        ] {
            assert_eq!(gateway_v4(line), None, "{line}");
        }
        let none = "0".repeat(32);
        let hop = "fd000000000000000000000000000001";
        let line = |to: &str, len: &str, via: &str, flags: &str| {
            format!("{to} {len} {none} 00 {via} 00000400 00000001 00000000 {flags} eth0")
        };
        assert_eq!(
            gateway_v6(&line(&none, "00", hop, "00000003")),
            Some("fd00::1".parse().unwrap())
        );
        assert_eq!(gateway_v6(&line(hop, "40", hop, "00000003")), None);
        assert_eq!(gateway_v6(&line(&none, "00", &none, "00200200")), None);
        assert_eq!(gateway_v6("x"), None);
    }
}
