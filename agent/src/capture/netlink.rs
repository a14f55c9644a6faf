//! The few netlink messages capture needs: headers, attributes, and one exchange with the kernel.
//!
//! By hand, because the crates there are for nftables need a C library, or bring far more than these lines
//! (`docs/design/` says which were looked at).

use std::net::Ipv6Addr;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendto,
    setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
pub(super) const NLM_F_CREATE: u16 = 0x400;
pub(super) const NLM_F_APPEND: u16 = 0x800;
const NLM_F_REPLACE: u16 = 0x100;
const NLA_F_NESTED: u16 = 0x8000;

const RTM_NEWADDR: u16 = 20;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_F_NODAD: u8 = 2;
const RT_SCOPE_HOST: u8 = 254;

/// Why the kernel did not do it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetlinkError {
    #[error("netlink: {0}")]
    System(#[from] Errno),
    #[error("netlink: message {message}: {errno}")]
    Refused { message: u32, errno: Errno },
    #[error("netlink: the kernel's answer makes no sense")]
    Answer,
}

impl NetlinkError {
    pub(super) fn errno(&self) -> Option<Errno> {
        match self {
            Self::System(errno) | Self::Refused { errno, .. } => Some(*errno),
            Self::Answer => None,
        }
    }
}

/// Several messages that the kernel takes together or not at all.
#[derive(Default)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    sequence: u32,
    /// How many of the messages are answered.
    answered: usize,
    pub(super) rules: usize,
}

impl Batch {
    /// A message that the kernel answers.
    pub(super) fn message(&mut self, kind: u16, flags: u16, body: &[u8]) {
        self.push(kind, flags | NLM_F_ACK, body);
        self.answered += 1;
    }

    /// A message that it does not answer.
    pub(super) fn bracket(&mut self, kind: u16, body: &[u8]) {
        self.push(kind, 0, body);
    }

    fn push(&mut self, kind: u16, flags: u16, body: &[u8]) {
        let length = u32::try_from(16 + body.len()).unwrap_or(u32::MAX);
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend((flags | NLM_F_REQUEST).to_ne_bytes());
        self.bytes.extend(self.sequence.to_ne_bytes());
        self.bytes.extend(0u32.to_ne_bytes());
        self.bytes.extend(body);
        pad(&mut self.bytes);
        self.sequence += 1;
    }
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// A row of attributes.
#[derive(Default, Clone)]
pub(super) struct Attributes(Vec<u8>);

impl Attributes {
    pub(super) fn after(header: &[u8]) -> Self {
        Self(header.to_vec())
    }

    pub(super) fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        pad(&mut self.0);
        self
    }

    pub(super) fn text(self, kind: u16, value: &str) -> Self {
        self.bytes(kind, &[value.as_bytes(), &[0]].concat())
    }

    /// nf_tables' numbers are in network order.
    pub(super) fn number(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub(super) fn nest(self, kind: u16, inner: &Self) -> Self {
        self.bytes(kind | NLA_F_NESTED, &inner.0)
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Hands a batch of nf_tables to the kernel.
pub(super) fn commit(batch: &Batch) -> Result<(), NetlinkError> {
    exchange(SockProtocol::NetlinkNetFilter, batch)
}

/// Adds an address, or finds it there.
pub(super) fn add_loopback_address(ip: Ipv6Addr, interface: u32) -> Result<(), NetlinkError> {
    let family = u8::try_from(AddressFamily::Inet6 as i32).unwrap_or_default();
    let mut header = vec![family, 128, IFA_F_NODAD, RT_SCOPE_HOST];
    header.extend(interface.to_ne_bytes());
    let body = Attributes::after(&header)
        .bytes(IFA_LOCAL, &ip.octets())
        .bytes(IFA_ADDRESS, &ip.octets());
    let mut batch = Batch::default();
    batch.message(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, body.as_bytes());
    exchange(SockProtocol::NetlinkRoute, &batch)
}

fn exchange(protocol: SockProtocol, batch: &Batch) -> Result<(), NetlinkError> {
    let kernel = NetlinkAddr::new(0, 0);
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        protocol,
    )?;
    bind(socket.as_raw_fd(), &kernel)?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(5, 0))?;
    sendto(socket.as_raw_fd(), &batch.bytes, &kernel, MsgFlags::empty())?;
    let mut answered = 0;
    let mut first_refusal = None;
    // After a refusal the kernel still answers the rest of what it looked at; the first one is the reason.
    while answered < batch.answered {
        for (message, code) in answers(&socket)? {
            answered += 1;
            if code != 0 {
                let errno = Errno::from_raw(code.wrapping_neg());
                first_refusal.get_or_insert(NetlinkError::Refused { message, errno });
            }
        }
        if let Some(refusal) = first_refusal {
            return Err(refusal);
        }
    }
    Ok(())
}

/// The sequence number and the code of each answer in the next datagram.
fn answers(socket: &OwnedFd) -> Result<Vec<(u32, i32)>, NetlinkError> {
    let mut buffer = vec![0u8; 64 * 1024];
    let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
    let mut rest = buffer.get(..length).ok_or(NetlinkError::Answer)?;
    let mut found = Vec::new();
    while !rest.is_empty() {
        let number = |at: usize| Some(u32::from_ne_bytes(rest.get(at..at + 4)?.try_into().ok()?));
        let length = usize::try_from(number(0).ok_or(NetlinkError::Answer)?)
            .map_err(|_| NetlinkError::Answer)?;
        let kind = rest
            .get(4..6)
            .and_then(|b| b.try_into().ok())
            .map(u16::from_ne_bytes);
        if kind != Some(NLMSG_ERROR) || length < 20 {
            return Err(NetlinkError::Answer);
        }
        let code = number(16).ok_or(NetlinkError::Answer)?.cast_signed();
        found.push((number(8).ok_or(NetlinkError::Answer)?, code));
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(found)
}
