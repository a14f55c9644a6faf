//! A resource that the client rejected.

use std::sync::Arc;

/// The longest text of a rejection that is kept, in characters.
pub const MAX_TEXT: usize = 4096;

/// A resource that the client rejected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The rejected version.
    pub version: Arc<str>,
    /// The client's own words, clean and cut to [`MAX_TEXT`].
    pub text: Arc<str>,
}
