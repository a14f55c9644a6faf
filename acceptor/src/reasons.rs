//! The reasons for which a connection is refused or closed early.

/// Why a connection gets no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The server is full.
    Full,
    /// The source address has all the connections that one source may have.
    Source,
}

/// The deadline that a connection exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Overdue {
    FirstRequest,
    Idle,
    Request,
}
