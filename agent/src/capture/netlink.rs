//! The exchange with the kernel: nf_tables' messages in one batch, and loopback's address.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto,
    setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::expression::{attribute, compile, nested, number, text};
use super::rule::{Chain, Rule};
use super::rules::APP_SOURCE_V6;

const TABLE: &str = "heddle";
const NFPROTO_INET: u8 = 1;
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = NFNL_SUBSYS_NFTABLES << 8;
const DELETE_TABLE: u16 = (NFNL_SUBSYS_NFTABLES << 8) | 2;
const NEW_CHAIN: u16 = (NFNL_SUBSYS_NFTABLES << 8) | 3;
const NEW_RULE: u16 = (NFNL_SUBSYS_NFTABLES << 8) | 6;
const RTM_NEWADDR: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const REQUEST: u16 = 0x01;
const ACK: u16 = 0x04;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
const HEADER: usize = 16;

/// The kernel did not take the rules.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {errno}; {}", hint(*.errno))]
pub struct CaptureError {
    step: &'static str,
    errno: Errno,
}

impl CaptureError {
    /// Whether the kernel lacks an expression that a rule uses.
    pub(super) fn is_unsupported(&self) -> bool {
        matches!(
            self.errno,
            Errno::ENOENT | Errno::EOPNOTSUPP | Errno::EPROTONOSUPPORT | Errno::EINVAL
        )
    }
}

/// The operator's remedy for the error.
fn hint(errno: Errno) -> &'static str {
    match errno {
        Errno::EPERM | Errno::EACCES => "capture needs the capability NET_ADMIN, and the user root",
        Errno::EPROTONOSUPPORT | Errno::EOPNOTSUPP | Errno::ENOENT | Errno::EAFNOSUPPORT => {
            "capture needs nftables with NAT in the node's kernel (nf_tables, nft_chain_nat, nft_redir, nft_ct, nft_reject_inet)"
        }
        _ => "the kernel does not take it",
    }
}

fn failed(step: &'static str) -> impl Fn(Errno) -> CaptureError {
    move |errno| CaptureError { step, errno }
}

/// A netlink message; an answer has the sequence number of its message.
fn message(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend(0u32.to_ne_bytes());
    bytes.extend_from_slice(body);
    bytes
}

/// `struct nfgenmsg`, then attributes.
fn body(family: u8, resource: u16, attributes: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = vec![family, 0];
    bytes.extend(resource.to_be_bytes());
    bytes.extend(attributes.concat());
    bytes
}

fn chain_name(chain: Chain) -> &'static str {
    match chain {
        Chain::Output => "output",
        Chain::Prerouting => "prerouting",
        Chain::Input => "input",
    }
}

/// A base chain of type nat at the usual priority: it is asked once for each connection, and not for each packet.
fn new_chain(chain: Chain) -> Vec<u8> {
    let (hook, priority): (u32, i32) = match chain {
        Chain::Prerouting => (0, -100),
        Chain::Output => (3, -100),
        Chain::Input => (1, 100),
    };
    let hook = nested(4, &[number(1, hook), attribute(2, &priority.to_be_bytes())]);
    body(
        NFPROTO_INET,
        0,
        &[
            text(1, TABLE),
            text(3, chain_name(chain)),
            hook,
            text(7, "nat"),
        ],
    )
}

fn new_rule(rule: &Rule) -> Vec<u8> {
    let program = nested(4, &compile(&rule.matches, rule.verdict));
    body(
        NFPROTO_INET,
        0,
        &[text(1, TABLE), text(2, chain_name(rule.chain)), program],
    )
}

/// Replaces our table in one transaction: either the new table is in force as a whole, or the old one.
pub(super) fn replace_table(rules: &[Rule]) -> Result<(), CaptureError> {
    let table = body(NFPROTO_INET, 0, &[text(1, TABLE)]);
    // Created first, so that the removal that follows always finds one.
    let mut steps = vec![
        (NEW_TABLE, CREATE, table.clone()),
        (DELETE_TABLE, 0, table.clone()),
        (NEW_TABLE, CREATE, table),
    ];
    steps.extend(
        [Chain::Prerouting, Chain::Output, Chain::Input]
            .map(|chain| (NEW_CHAIN, CREATE, new_chain(chain))),
    );
    steps.extend(
        rules
            .iter()
            .map(|rule| (NEW_RULE, CREATE | APPEND, new_rule(rule))),
    );

    let bound = body(0, NFNL_SUBSYS_NFTABLES, &[]);
    let mut batch = message(BATCH_BEGIN, REQUEST, 0, &bound);
    for (sequence, (kind, flags, body)) in (1..).zip(&steps) {
        // The kernel reports every refusal unasked. An answer to each step would be more than a socket holds, with some hundred rules.
        let answer = if sequence as usize == steps.len() {
            ACK
        } else {
            0
        };
        batch.extend(message(*kind, REQUEST | answer | flags, sequence, body));
    }
    batch.extend(message(BATCH_END, REQUEST, 0, &bound));
    exchange(SockProtocol::NetlinkNetFilter, &batch).map_err(failed("nftables rules"))
}

/// Gives loopback the IPv6 address that the sidecar calls the application from; IPv4 has all of 127.0.0.0/8.
pub(super) fn add_ipv6_source() -> Result<(), CaptureError> {
    if !std::path::Path::new("/proc/thread-self/net/if_inet6").exists() {
        return Ok(());
    }
    // `struct ifaddrmsg`: family, prefix length, flags, scope, interface (loopback is the first).
    let mut address = vec![10, 128, 0, 0];
    address.extend(1u32.to_ne_bytes());
    for kind in [1, 2] {
        address.extend(attribute(kind, &APP_SOURCE_V6.octets()));
    }
    match exchange(
        SockProtocol::NetlinkRoute,
        &message(RTM_NEWADDR, REQUEST | ACK | CREATE, 1, &address),
    ) {
        // There already; or IPv6 is switched off for this pod, and nothing needs the address.
        Ok(()) | Err(Errno::EEXIST | Errno::EACCES | Errno::EOPNOTSUPP | Errno::EADDRNOTAVAIL) => {
            Ok(())
        }
        Err(errno) => Err(failed("IPv6 source address")(errno)),
    }
}

/// Sends, and reads until the first refusal, or the one answer that was asked for.
fn exchange(protocol: SockProtocol, bytes: &[u8]) -> Result<(), Errno> {
    let socket: OwnedFd = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        protocol,
    )?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(10))?;
    // A batch is one message. Without the right to a larger buffer, the rules are refused for that reason anyway.
    let _ = setsockopt(&socket, sockopt::SndBufForce, &(2 * bytes.len()));
    sendto(
        socket.as_raw_fd(),
        bytes,
        &NetlinkAddr::new(0, 0),
        MsgFlags::empty(),
    )?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let (kind, payload) =
            split(buffer.get(..length).unwrap_or_default()).ok_or(Errno::EBADMSG)?;
        if kind == NLMSG_ERROR {
            let code = payload
                .first_chunk()
                .map(|bytes| i32::from_ne_bytes(*bytes))
                .ok_or(Errno::EBADMSG)?;
            return if code == 0 {
                Ok(())
            } else {
                Err(Errno::from_raw(code.wrapping_neg()))
            };
        }
    }
}

/// The first message: its type and its payload.
fn split(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
    Some((kind, bytes.get(HEADER..length)?))
}
