//! The acceptor of every server of the mesh: HTTP over TCP, TLS or a Unix socket, within bounds.
//!
//! An [`Acceptor`] holds at most [`Bounds::connections`] connections, and at most [`Bounds::per_source`] of one source
//! address. A newcomer without a free place displaces the oldest silent connection of the source that holds the most, so
//! that idle connections never keep out a caller from elsewhere, and rarely one from the same address. [`Deadlines`] end
//! connections that are slow in the TLS handshake, without a first request, without a request for a while, or with a
//! request that does not end. Each refusal is counted, and logged a few times a minute.
//!
//! The HTTP itself is hyper's. A hyper service answers the requests; a [`ConnectionHandler`] makes one for each
//! connection.

mod acceptor;
mod activity;
mod connection;
mod counters;
mod files;
mod log;
mod options;
mod reasons;
mod slots;
mod text;

pub use acceptor::{Acceptor, ConnectionHandler};
pub use connection::{Link, Listener, Peer, Security, TlsProvider};
pub use counters::{Counters, Counts};
pub use files::raise_open_files;
pub use log::LogLimit;
pub use options::{BACKLOG, Bounds, Deadlines, Http, Options, Protocol};
pub use reasons::Refused;
pub use slots::Source;
pub use text::{ClientText, LogLines, clean, is_safe};
