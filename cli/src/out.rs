//! Standard output that may go away: `heddle analyze | head` is no error.

use std::fmt::Arguments;
use std::io::Write;

/// Writes text as it is.
pub fn text(text: Arguments<'_>) {
    // The reader has closed the pipe, so an error could not be printed either.
    let _ = std::io::stdout().write_fmt(text);
}

/// Like `println!`, which would panic.
macro_rules! say {
    ($($part:tt)*) => {
        $crate::out::text(format_args!("{}\n", format_args!($($part)*)))
    };
}

pub(crate) use say;
