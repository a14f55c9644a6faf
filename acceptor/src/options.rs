//! The bounds of one server.

use std::time::Duration;

/// Connections that the kernel holds until they are accepted. Beyond them a caller has to knock again, after a second: longer than the
/// kubelet waits. The kernel lowers it to its own bound.
pub const BACKLOG: u32 = 4096;

/// The configuration of an acceptor.
#[derive(Clone, Debug)]
pub struct Options {
    /// The name of the server, for log lines.
    pub name: &'static str,
    /// The number of connections.
    pub bounds: Bounds,
    /// The time that connections have.
    pub deadlines: Deadlines,
    /// The HTTP of the server.
    pub http: Http,
}

/// The number of connections of one server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Open connections.
    pub connections: usize,
    /// Open connections of one source.
    pub per_source: usize,
    /// Places, of all, that only a source without any connection may take.
    pub reserved: usize,
    /// A connection with a running request may be displaced, too. For servers that answer anybody.
    pub displace_busy: bool,
}

/// The time that a connection has. A connection that exceeds it is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// The TLS handshake, from its first byte to its last.
    pub handshake: Duration,
    /// From the handshake to the end of the first request's header.
    pub first_request: Duration,
    /// From the end of the last request to the end of the next one's header.
    pub idle: Duration,
    /// From the end of a request's header to the end of its response. `None`: requests are streams that stay open.
    pub request: Option<Duration>,
    /// From the announcement that the connection closes to its end.
    pub grace: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            first_request: Duration::from_secs(10),
            idle: Duration::from_secs(60),
            request: Some(Duration::from_secs(20)),
            grace: Duration::from_secs(5),
        }
    }
}

/// The protocols of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.0 and HTTP/1.1.
    Http1,
    /// HTTP/2, as gRPC uses it.
    Http2,
    /// Either, by the first bytes of the client.
    Any,
}

/// The HTTP of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Http {
    /// The protocols.
    pub protocol: Protocol,
    /// HTTP/1: further requests on the same connection are answered.
    pub keep_alive: bool,
    /// HTTP/2: concurrent requests of one connection.
    pub max_streams: u32,
    /// HTTP/2: bytes that a client may send before the server has read them.
    pub window: u32,
    /// HTTP/2: bytes that wait to be sent on one stream.
    pub send_buffer: usize,
    /// The bytes of a request's header.
    pub max_header: u32,
    /// HTTP/2: the time between pings.
    pub ping_interval: Duration,
    /// HTTP/2: the time in which a ping must be answered.
    pub ping_timeout: Duration,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            protocol: Protocol::Any,
            keep_alive: true,
            max_streams: 64,
            window: 256 << 10,
            send_buffer: 64 << 10,
            max_header: 32 << 10,
            ping_interval: Duration::from_secs(10),
            ping_timeout: Duration::from_secs(20),
        }
    }
}
