//! The rules, as data. Order is meaning: the first that matches decides.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::Settings;

const OUTBOUND: u16 = 15001;
const OUTBOUND_MARKED: u16 = 15002;
const INBOUND: u16 = 15006;
const INBOUND_NODE: u16 = 15007;
/// Answered by the agent itself, which the kubelet asks.
const READINESS: u16 = 15021;
/// From which Envoy reaches the application behind it.
const INBOUND_SOURCE_V4: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 6);

/// One condition. A rule's conditions must all hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    /// Any other protocol than TCP.
    NotTcp,
    /// The mark of Envoy's connections to a destination just learned: TOS, or traffic class, 0x9c.
    Marked4,
    /// The same for IPv6.
    Marked6,
    /// The source lies in this network.
    Source(IpNet),
    /// The destination lies in this network.
    Destination(IpNet),
    /// The destination lies in no such network, but is of its family.
    DestinationOutside(IpNet),
    /// It leaves by the loopback interface.
    OutLoopback,
    /// The socket is this user's.
    User(u32),
    /// The destination port.
    Port(u16),
}

/// What a rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Leave it alone.
    Accept,
    /// Hand it to this port of the sidecar.
    Redirect(u16),
}

/// All of `when` leads to `then`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The conditions.
    pub when: Vec<Match>,
    /// The consequence.
    pub then: Verdict,
}

fn rule(when: &[Match], then: Verdict) -> Rule {
    Rule {
        when: when.to_vec(),
        then,
    }
}

fn loopback() -> [IpNet; 2] {
    [
        Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8).into(),
        Ipv6Net::from(Ipv6Addr::LOCALHOST).into(),
    ]
}

fn inbound_sources() -> [IpNet; 2] {
    [
        Ipv4Net::from(INBOUND_SOURCE_V4).into(),
        Ipv6Net::from(super::host::INBOUND_SOURCE_V6).into(),
    ]
}

/// What the pod sends.
pub fn output(settings: &Settings) -> Vec<Rule> {
    use Match::{
        Destination, DestinationOutside, Marked4, Marked6, NotTcp, OutLoopback, Port, Source, User,
    };
    use Verdict::{Accept, Redirect};
    let own = User(settings.proxy_uid);
    let mut rules = vec![
        rule(&[NotTcp], Accept),
        rule(&[Marked4], Redirect(OUTBOUND_MARKED)),
        rule(&[Marked6], Redirect(OUTBOUND_MARKED)),
    ];
    rules.extend(inbound_sources().map(|source| rule(&[Source(source)], Accept)));
    for net in loopback() {
        // A pod that calls itself by its service: Envoy's outbound half sends to the pod's own address.
        let itself = [OutLoopback, DestinationOutside(net), own];
        for port in inbound_left_alone(settings) {
            rules.push(rule(&[itself.as_slice(), &[Port(port)]].concat(), Accept));
        }
        rules.push(rule(&itself, Redirect(INBOUND)));
    }
    rules.push(rule(&[own], Accept));
    rules.extend(loopback().map(|net| rule(&[Destination(net)], Accept)));
    rules.extend(
        settings
            .exclude_outbound_ports
            .iter()
            .map(|port| rule(&[Port(*port)], Accept)),
    );
    rules.extend(
        settings
            .exclude_outbound_cidrs
            .iter()
            .map(|net| rule(&[Destination(*net)], Accept)),
    );
    rules.push(rule(&[], Redirect(OUTBOUND)));
    rules
}

/// What reaches the pod.
pub fn prerouting(settings: &Settings) -> Vec<Rule> {
    use Match::{NotTcp, Port, Source};
    use Verdict::{Accept, Redirect};
    let mut rules = vec![rule(&[NotTcp], Accept)];
    rules.extend(inbound_left_alone(settings).map(|port| rule(&[Port(port)], Accept)));
    for ip in &settings.host_ips {
        let node = Source(host_net(*ip));
        rules.extend(
            settings
                .tcp_probe_ports
                .iter()
                .map(|port| rule(&[node, Port(*port)], Accept)),
        );
        rules.push(rule(&[node], Redirect(INBOUND_NODE)));
    }
    rules.push(rule(&[], Redirect(INBOUND)));
    rules
}

fn inbound_left_alone(settings: &Settings) -> impl Iterator<Item = u16> {
    std::iter::once(READINESS).chain(settings.exclude_inbound_ports.iter().copied())
}

fn host_net(ip: IpAddr) -> IpNet {
    match ip {
        IpAddr::V4(ip) => Ipv4Net::from(ip).into(),
        IpAddr::V6(ip) => Ipv6Net::from(ip).into(),
    }
}
