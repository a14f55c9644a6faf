//! The rules, as data. Order is meaning: the first that matches decides.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use heddle_ports::{CAPTURE, INBOUND, INBOUND_NODE, OUTBOUND, OUTBOUND_MARKED, READINESS};
use ipnet::IpNet;

use super::CaptureSettings;
use super::rule::{Chain, Match, Rule, Verdict};

/// The mark of first connections to a destination just learned: IP TOS, and the IPv6 traffic class.
const MARK: u8 = 0x9c;
/// Where the sidecar's own connections to the application come from.
pub(super) const APP_SOURCE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(127, 0, 0, 6)),
    IpAddr::V6(APP_SOURCE_V6),
];
pub(super) const APP_SOURCE_V6: Ipv6Addr = Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6);

/// The rules, in order; the first that matches decides.
pub fn plan(settings: &CaptureSettings) -> Vec<Rule> {
    let mut rules = outbound(settings);
    rules.extend(inbound(settings));
    rules.extend(refused());
    rules
}

fn outbound(settings: &CaptureSettings) -> Vec<Rule> {
    let loopback: [IpNet; 2] = [
        IpNet::V4(ipnet::Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8)),
        IpAddr::V6(Ipv6Addr::LOCALHOST).into(),
    ];
    let own = Match::Uid(settings.proxy_uid);
    let mut rules = Vec::new();
    let mut add = |matches: Vec<Match>, verdict| {
        rules.push(Rule {
            chain: Chain::Output,
            matches,
            verdict,
        })
    };

    // Connections of the pod to its own capture ports, by any route: before all rules that would let them pass.
    for port in CAPTURE {
        add(vec![Match::OutLoopback, Match::Port(port)], Verdict::Reject);
    }
    // Before the exclusion of the sidecar's own user: it is the sidecar that marks.
    add(vec![Match::TosV4(MARK)], Verdict::Redirect(OUTBOUND_MARKED));
    add(
        vec![Match::TrafficClassV6(MARK)],
        Verdict::Redirect(OUTBOUND_MARKED),
    );
    for source in APP_SOURCE {
        add(vec![Match::Source(source.into())], Verdict::Accept);
    }
    for net in loopback {
        add(vec![Match::Destination(net)], Verdict::Accept);
    }
    for port in &settings.exclude_inbound_ports {
        add(
            vec![own.clone(), Match::OutLoopback, Match::Port(*port)],
            Verdict::Accept,
        );
    }
    // The pod calls itself through one of its services: its own sidecar is the server's, too.
    add(
        vec![own.clone(), Match::OutLoopback],
        Verdict::Redirect(INBOUND),
    );
    add(vec![own], Verdict::Accept);
    for port in &settings.exclude_outbound_ports {
        add(vec![Match::Port(*port)], Verdict::Accept);
    }
    for net in &settings.exclude_outbound_cidrs {
        add(vec![Match::Destination(*net)], Verdict::Accept);
    }
    add(Vec::new(), Verdict::Redirect(OUTBOUND));
    rules
}

fn inbound(settings: &CaptureSettings) -> Vec<Rule> {
    let mut rules = Vec::new();
    let mut add = |matches: Vec<Match>, verdict| {
        rules.push(Rule {
            chain: Chain::Prerouting,
            matches,
            verdict,
        })
    };

    // Not redirected, so that these connections are still known by their port where they are refused.
    for port in CAPTURE {
        add(vec![Match::Port(port)], Verdict::Accept);
    }
    for port in settings.exclude_inbound_ports.iter().chain([&READINESS]) {
        add(vec![Match::Port(*port)], Verdict::Accept);
    }
    for address in &settings.node_addresses {
        let node = Match::Source((*address).into());
        // The sidecar accepts every connection, so a TCP probe of a closed port would succeed. The kernel refuses it in the
        // sidecar's place. Nothing is let past the sidecar: a masqueraded client has the node's address, too.
        for port in &settings.tcp_probe_ports {
            let to = |more: Option<Match>| {
                let matches = [node.clone(), Match::Port(*port)];
                matches.into_iter().chain(more).collect()
            };
            add(to(Some(Match::Listening)), Verdict::Redirect(INBOUND_NODE));
            add(to(None), Verdict::Reject);
        }
        add(vec![node], Verdict::Redirect(INBOUND_NODE));
    }
    add(Vec::new(), Verdict::Redirect(INBOUND));
    rules
}

/// Connections from outside to a capture port: Envoy would take its own port for the destination and call itself without end. Not at
/// prerouting, where kernels before 5.9 cannot refuse. A captured connection has been redirected to such a port by now, too; the port
/// that the caller dialed distinguishes the two.
fn refused() -> impl Iterator<Item = Rule> {
    CAPTURE.into_iter().map(|port| Rule {
        chain: Chain::Input,
        matches: vec![Match::InFromOutside, Match::DialedPort(port)],
        verdict: Verdict::Reject,
    })
}
