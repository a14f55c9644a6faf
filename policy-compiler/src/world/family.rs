//! Families of addresses.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub const fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    /// Its number, as names contain it.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::V4 => 4,
            Self::V6 => 6,
        }
    }
}

/// Returns the block of IPv4 that a block of IPv6 maps (`::ffff:0:0/96`). No connection has such an address: those over IPv4 have plain ones.
#[must_use]
pub(crate) fn mapped_block(block: &IpNet) -> Option<Ipv4Net> {
    let IpNet::V6(block) = block else { return None };
    let address = block.addr().to_ipv4_mapped()?;
    Ipv4Net::new(address, block.prefix_len().checked_sub(96)?).ok()
}
