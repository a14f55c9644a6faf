//! The rules as nf_tables takes them. Numbers are those of `linux/netfilter/nf_tables.h`.

use std::net::IpAddr;

use ipnet::IpNet;

use super::netlink::{Attributes, Batch, NLM_F_APPEND, NLM_F_CREATE};
use super::rules::{Match, Rule, Verdict};

const TABLE: &str = "heddle";

const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = NFNL_SUBSYS_NFTABLES << 8;
const DEL_TABLE: u16 = NFNL_SUBSYS_NFTABLES << 8 | 2;
const NEW_CHAIN: u16 = NFNL_SUBSYS_NFTABLES << 8 | 3;
const NEW_RULE: u16 = NFNL_SUBSYS_NFTABLES << 8 | 6;

const NFPROTO_INET: u8 = 1;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;
const NF_INET_PRE_ROUTING: u32 = 0;
const NF_INET_LOCAL_OUT: u32 = 3;
const NF_IP_PRI_NAT_DST: i32 = -100;
const NF_ACCEPT: u32 = 1;
const IPPROTO_TCP: u8 = 6;

const NFTA_TABLE_NAME: u16 = 1;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_CHAIN_TYPE: u16 = 7;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_HOOK_PRIORITY: u16 = 2;
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_LIST_ELEM: u16 = 1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;

const REG_VERDICT: u32 = 0;
const REG_1: u32 = 1;

/// Both chains in one table, in place of what the table held before: all of it or nothing.
pub(super) fn table(output: &[Rule], prerouting: &[Rule], loopback: u32) -> Batch {
    let mut batch = Batch::default();
    begin(&mut batch);
    delete(&mut batch);
    batch.message(
        NEW_TABLE,
        NLM_F_CREATE,
        header().text(NFTA_TABLE_NAME, TABLE).as_bytes(),
    );
    for (name, hook, rules) in [
        ("output", NF_INET_LOCAL_OUT, output),
        ("prerouting", NF_INET_PRE_ROUTING, prerouting),
    ] {
        batch.message(NEW_CHAIN, NLM_F_CREATE, chain(name, hook).as_bytes());
        for rule in rules {
            let body = header()
                .text(NFTA_RULE_TABLE, TABLE)
                .text(NFTA_RULE_CHAIN, name)
                .nest(NFTA_RULE_EXPRESSIONS, &expressions(rule, loopback).0);
            batch.message(NEW_RULE, NLM_F_CREATE | NLM_F_APPEND, body.as_bytes());
            batch.rules += 1;
        }
    }
    end(&mut batch);
    batch
}

/// Without our table.
pub(super) fn no_table() -> Batch {
    let mut batch = Batch::default();
    begin(&mut batch);
    delete(&mut batch);
    end(&mut batch);
    batch
}

/// Making it first lets the removal succeed also where there was none.
fn delete(batch: &mut Batch) {
    let name = header().text(NFTA_TABLE_NAME, TABLE);
    batch.message(NEW_TABLE, NLM_F_CREATE, name.as_bytes());
    batch.message(DEL_TABLE, 0, name.as_bytes());
}

fn begin(batch: &mut Batch) {
    batch.bracket(NFNL_MSG_BATCH_BEGIN, &bracket());
}

fn end(batch: &mut Batch) {
    batch.bracket(NFNL_MSG_BATCH_END, &bracket());
}

fn bracket() -> Vec<u8> {
    let [high, low] = NFNL_SUBSYS_NFTABLES.to_be_bytes();
    vec![0, 0, high, low]
}

fn header() -> Attributes {
    Attributes::after(&[NFPROTO_INET, 0, 0, 0])
}

fn chain(name: &str, hook: u32) -> Attributes {
    let hook = Attributes::default()
        .number(NFTA_HOOK_HOOKNUM, hook)
        .number(NFTA_HOOK_PRIORITY, NF_IP_PRI_NAT_DST.cast_unsigned());
    header()
        .text(NFTA_CHAIN_TABLE, TABLE)
        .text(NFTA_CHAIN_NAME, name)
        .nest(NFTA_CHAIN_HOOK, &hook)
        .number(NFTA_CHAIN_POLICY, NF_ACCEPT)
        .text(NFTA_CHAIN_TYPE, "nat")
}

fn expressions(rule: &Rule, loopback: u32) -> Expressions {
    let all = rule
        .when
        .iter()
        .fold(Expressions::default(), |all, condition| {
            condition_of(all, *condition, loopback)
        });
    match rule.then {
        Verdict::Accept => all.accept(),
        Verdict::Redirect(port) => all.redirect(port),
    }
}

fn condition_of(all: Expressions, condition: Match, loopback: u32) -> Expressions {
    match condition {
        Match::NotTcp => all
            .meta(Meta::Protocol)
            .compare(Op::Differs, &[IPPROTO_TCP]),
        // The two low bits are for congestion, and not ours.
        Match::Marked4 => all
            .family(NFPROTO_IPV4)
            .payload(Base::Network, 1, 1)
            .mask(&[0xfc])
            .compare(Op::Equals, &[0x9c]),
        Match::Marked6 => all
            .family(NFPROTO_IPV6)
            .payload(Base::Network, 0, 2)
            .mask(&[0x0f, 0xc0])
            .compare(Op::Equals, &[0x09, 0xc0]),
        Match::Source(net) => all.address(net, 12, 8, Op::Equals),
        Match::Destination(net) => all.address(net, 16, 24, Op::Equals),
        Match::DestinationOutside(net) => all.address(net, 16, 24, Op::Differs),
        Match::OutLoopback => all
            .meta(Meta::OutInterface)
            .compare(Op::Equals, &loopback.to_ne_bytes()),
        Match::User(uid) => all
            .meta(Meta::SocketUser)
            .compare(Op::Equals, &uid.to_ne_bytes()),
        Match::Port(port) => all
            .payload(Base::Transport, 2, 2)
            .compare(Op::Equals, &port.to_be_bytes()),
    }
}

#[derive(Clone, Copy)]
enum Meta {
    OutInterface = 5,
    SocketUser = 10,
    Family = 15,
    Protocol = 16,
}

#[derive(Clone, Copy)]
enum Base {
    Network = 1,
    Transport = 2,
}

#[derive(Clone, Copy)]
enum Op {
    Equals = 0,
    Differs = 1,
}

/// A rule's machine code: each loads into or looks at one register.
#[derive(Default)]
struct Expressions(Attributes);

impl Expressions {
    fn push(self, name: &str, data: &Attributes) -> Self {
        let expression = Attributes::default()
            .text(NFTA_EXPR_NAME, name)
            .nest(NFTA_EXPR_DATA, data);
        Self(self.0.nest(NFTA_LIST_ELEM, &expression))
    }

    fn meta(self, key: Meta) -> Self {
        self.push(
            "meta",
            &Attributes::default().number(1, REG_1).number(2, key as u32),
        )
    }

    fn payload(self, base: Base, offset: u32, length: u32) -> Self {
        let data = Attributes::default()
            .number(1, REG_1)
            .number(2, base as u32)
            .number(3, offset)
            .number(4, length);
        self.push("payload", &data)
    }

    fn mask(self, mask: &[u8]) -> Self {
        let length = u32::try_from(mask.len()).unwrap_or_default();
        let data = Attributes::default()
            .number(1, REG_1)
            .number(2, REG_1)
            .number(3, length)
            .nest(4, &Attributes::default().bytes(NFTA_DATA_VALUE, mask))
            .nest(
                5,
                &Attributes::default().bytes(NFTA_DATA_VALUE, &vec![0; mask.len()]),
            );
        self.push("bitwise", &data)
    }

    fn compare(self, op: Op, value: &[u8]) -> Self {
        let value = Attributes::default().bytes(NFTA_DATA_VALUE, value);
        self.push(
            "cmp",
            &Attributes::default()
                .number(1, REG_1)
                .number(2, op as u32)
                .nest(3, &value),
        )
    }

    fn family(self, family: u8) -> Self {
        self.meta(Meta::Family).compare(Op::Equals, &[family])
    }

    /// An address of the header, at the offset its family has it.
    fn address(self, net: IpNet, offset_v4: u32, offset_v6: u32, op: Op) -> Self {
        let (family, offset) = match net {
            IpNet::V4(_) => (NFPROTO_IPV4, offset_v4),
            IpNet::V6(_) => (NFPROTO_IPV6, offset_v6),
        };
        let (mask, value) = (octets(net.netmask()), octets(net.network()));
        let length = u32::try_from(value.len()).unwrap_or_default();
        self.family(family)
            .payload(Base::Network, offset, length)
            .mask(&mask)
            .compare(op, &value)
    }

    fn accept(self) -> Self {
        let verdict = Attributes::default().number(NFTA_VERDICT_CODE, NF_ACCEPT);
        let data = Attributes::default().nest(NFTA_DATA_VERDICT, &verdict);
        self.push(
            "immediate",
            &Attributes::default().number(1, REG_VERDICT).nest(2, &data),
        )
    }

    fn redirect(self, port: u16) -> Self {
        let port = Attributes::default().bytes(NFTA_DATA_VALUE, &port.to_be_bytes());
        self.push(
            "immediate",
            &Attributes::default().number(1, REG_1).nest(2, &port),
        )
        .push("redir", &Attributes::default().number(1, REG_1))
    }
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}
