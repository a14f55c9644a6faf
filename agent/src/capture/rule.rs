//! A rule of the capture: its chain, its conditions and its verdict.

use ipnet::IpNet;

/// A hook of the pod's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chain {
    /// Connections that the pod makes.
    Output,
    /// Connections that come to the pod.
    Prerouting,
    /// Connections that a local socket is about to take, after all redirection.
    Input,
}

/// The action on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on as it is.
    Accept,
    /// It goes to this local port.
    Redirect(u16),
    /// The kernel answers it with a TCP reset.
    Reject,
}

/// One condition of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Match {
    Uid(u32),
    OutLoopback,
    /// The packet came by another interface than loopback.
    InFromOutside,
    Port(u16),
    /// The port that the caller dialed, before any redirection.
    DialedPort(u16),
    Source(IpNet),
    Destination(IpNet),
    TosV4(u8),
    TrafficClassV6(u8),
    /// A socket of the pod listens at the connection's destination.
    Listening,
}

/// One rule: all matches must hold; every rule is for TCP only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub(super) chain: Chain,
    pub(super) matches: Vec<Match>,
    pub(super) verdict: Verdict,
}
