//! The TCP ports of the sidecar. Capture, compiler, injection and documents use this one list.
//!
//! A crate of its own: the agent, which captures, depends neither on the API types nor on the compiler.

/// The outbound listener: capture redirects the connections of the application here.
pub const OUTBOUND: u16 = 15001;
/// The second outbound listener: capture redirects marked connections here, the first ones to a destination.
pub const OUTBOUND_MARKED: u16 = 15002;
/// The inbound listener: capture redirects connections from other addresses than the node's here.
pub const INBOUND: u16 = 15006;
/// The inbound listener for connections from the pod's own node.
pub const INBOUND_NODE: u16 = 15007;
/// The sidecar's metrics: a port of the inbound listener, by mTLS only.
pub const METRICS: u16 = 15020;
/// The sidecar's readiness: the agent answers here, in plain text.
pub const READINESS: u16 = 15021;

/// The ports at which capture hands connections to Envoy. Nothing but capture may connect to them: Envoy connects
/// to the original destination of a connection, so one to one of these ports makes Envoy call itself without end.
pub const CAPTURE: [u16; 4] = [OUTBOUND, OUTBOUND_MARKED, INBOUND, INBOUND_NODE];

/// Every port of the sidecar. An application cannot listen on these: injection refuses pods that declare one, and a policy that names
/// one decides nothing. Every other port, also between these numbers, is the application's.
pub const RESERVED: [u16; 6] = [
    OUTBOUND,
    OUTBOUND_MARKED,
    INBOUND,
    INBOUND_NODE,
    METRICS,
    READINESS,
];

/// Whether a port is one of the sidecar's.
///
/// ```
/// assert!(heddle_ports::is_reserved(15006));
/// assert!(!heddle_ports::is_reserved(15010));
/// ```
#[must_use]
pub fn is_reserved(port: u16) -> bool {
    RESERVED.contains(&port)
}
