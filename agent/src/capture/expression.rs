//! nftables' virtual machine: a rule is a list of expressions that load something into a register and compare it.
//! Numbers are those of `linux/netfilter/nf_tables.h`.

use std::net::IpAddr;

use ipnet::IpNet;

use super::rule::{Match, Verdict};

const NLA_F_NESTED: u16 = 0x8000;
const LIST_ELEMENT: u16 = 1;
const REGISTER: u32 = 1;
const VERDICT_REGISTER: u32 = 0;

const META_IIF: u32 = 4;
const META_OIF: u32 = 5;
const META_SKUID: u32 = 10;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;
const IPPROTO_TCP: u8 = 6;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;
const BASE_NETWORK: u32 = 1;
const BASE_TRANSPORT: u32 = 2;
const NF_ACCEPT: u32 = 1;
const SOCKET_WILDCARD: u32 = 2;
const CMP_EQ: u32 = 0;
const CMP_NEQ: u32 = 1;
const CT_PROTO_DST: u32 = 12;
const CT_DIRECTION_ORIGINAL: u8 = 0;
const REJECT_TCP_RST: u32 = 1;
/// The loopback interface is the first of every network namespace.
const LOOPBACK_INDEX: u32 = 1;

/// A netlink attribute: length, type, value, padding to four bytes.
pub(super) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    // Values here are a few kilobytes at most; a longer one would be refused by the kernel as malformed.
    let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

pub(super) fn nested(kind: u16, parts: &[Vec<u8>]) -> Vec<u8> {
    attribute(kind | NLA_F_NESTED, &parts.concat())
}

pub(super) fn number(kind: u16, value: u32) -> Vec<u8> {
    attribute(kind, &value.to_be_bytes())
}

pub(super) fn text(kind: u16, value: &str) -> Vec<u8> {
    attribute(kind, &[value.as_bytes(), &[0]].concat())
}

fn expression(name: &str, data: &[Vec<u8>]) -> Vec<u8> {
    nested(LIST_ELEMENT, &[text(1, name), nested(2, data)])
}

fn meta(key: u32) -> Vec<u8> {
    expression("meta", &[number(1, REGISTER), number(2, key)])
}

fn payload(base: u32, offset: u32, length: u32) -> Vec<u8> {
    expression(
        "payload",
        &[
            number(1, REGISTER),
            number(2, base),
            number(3, offset),
            number(4, length),
        ],
    )
}

fn mask(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap_or_default();
    let zero = vec![0; bytes.len()];
    let data = [
        number(1, REGISTER),
        number(2, REGISTER),
        number(3, length),
        nested(4, &[attribute(1, bytes)]),
        nested(5, &[attribute(1, &zero)]),
    ];
    expression("bitwise", &data)
}

fn equals(value: &[u8]) -> Vec<u8> {
    compare(CMP_EQ, value)
}

fn compare(operator: u32, value: &[u8]) -> Vec<u8> {
    expression(
        "cmp",
        &[
            number(1, REGISTER),
            number(2, operator),
            nested(3, &[attribute(1, value)]),
        ],
    )
}

/// Loads a property of the connection as its first packet was.
fn connection(key: u32) -> Vec<u8> {
    expression(
        "ct",
        &[
            number(1, REGISTER),
            number(2, key),
            attribute(3, &[CT_DIRECTION_ORIGINAL]),
        ],
    )
}

fn family(protocol: u8) -> [Vec<u8>; 2] {
    [meta(META_NFPROTO), equals(&[protocol])]
}

/// A rule's expressions, the condition that it is TCP first.
pub(super) fn compile(matches: &[Match], verdict: Verdict) -> Vec<Vec<u8>> {
    let mut program = vec![meta(META_L4PROTO), equals(&[IPPROTO_TCP])];
    for condition in matches {
        match condition {
            Match::Uid(uid) => program.extend([meta(META_SKUID), equals(&uid.to_ne_bytes())]),
            Match::OutLoopback => {
                program.extend([meta(META_OIF), equals(&LOOPBACK_INDEX.to_ne_bytes())])
            }
            Match::InFromOutside => program.extend([
                meta(META_IIF),
                compare(CMP_NEQ, &LOOPBACK_INDEX.to_ne_bytes()),
            ]),
            Match::DialedPort(port) => {
                program.extend([connection(CT_PROTO_DST), equals(&port.to_be_bytes())])
            }
            Match::Port(port) => {
                program.extend([payload(BASE_TRANSPORT, 2, 2), equals(&port.to_be_bytes())])
            }
            Match::Source(net) => program.extend(address(net, 12, 8)),
            Match::Destination(net) => program.extend(address(net, 16, 24)),
            Match::TosV4(tos) => {
                program.extend(family(NFPROTO_IPV4));
                // Without the two low bits: congestion control may set them, and the mark must hold even so.
                program.extend([
                    payload(BASE_NETWORK, 1, 1),
                    mask(&[0xfc]),
                    equals(&[*tos & 0xfc]),
                ]);
            }
            // The expression ends the rule where the kernel finds no socket; its value does not matter.
            Match::Listening => program.push(expression(
                "socket",
                &[number(1, SOCKET_WILDCARD), number(2, REGISTER)],
            )),
            Match::TrafficClassV6(class) => {
                program.extend(family(NFPROTO_IPV6));
                // The class lies across the first two bytes, after the version.
                program.extend([
                    payload(BASE_NETWORK, 0, 2),
                    mask(&[0x0f, 0xf0]),
                    equals(&(u16::from(*class) << 4).to_be_bytes()),
                ]);
            }
        }
    }
    program.extend(conclusion(verdict));
    program
}

/// The expressions that decide once all conditions hold.
fn conclusion(verdict: Verdict) -> Vec<Vec<u8>> {
    let immediate = |register: u32, data: Vec<u8>| {
        expression("immediate", &[number(1, register), nested(2, &[data])])
    };
    match verdict {
        Verdict::Accept => {
            let code = nested(2, &[number(1, NF_ACCEPT)]);
            vec![immediate(VERDICT_REGISTER, code)]
        }
        Verdict::Redirect(port) => vec![
            immediate(REGISTER, attribute(1, &port.to_be_bytes())),
            expression("redir", &[number(1, REGISTER)]),
        ],
        Verdict::Reject => vec![expression("reject", &[number(1, REJECT_TCP_RST)])],
    }
}

/// An address at its offset in the IPv4 or the IPv6 header.
fn address(net: &IpNet, offset_v4: u32, offset_v6: u32) -> Vec<Vec<u8>> {
    let bytes = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let (protocol, offset, length) = match net {
        IpNet::V4(_) => (NFPROTO_IPV4, offset_v4, 4),
        IpNet::V6(_) => (NFPROTO_IPV6, offset_v6, 16),
    };
    let mut program = family(protocol).to_vec();
    program.extend([
        payload(BASE_NETWORK, offset, length),
        mask(&bytes(net.netmask())),
        equals(&bytes(net.network())),
    ]);
    program
}
