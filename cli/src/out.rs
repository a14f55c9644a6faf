//! Standard output that may go away: `heddle analyze | head` is no error.

use std::fmt::Arguments;
use std::io::{IsTerminal, Write};

use anyhow::Result;
use serde::Serialize;

/// Whether text for people has colours: on a terminal only, and never where `NO_COLOR` asks for none.
pub fn has_colors() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// Writes a JSON document.
///
/// # Errors
///
/// If the value is no JSON.
pub fn json(document: &impl Serialize) -> Result<()> {
    text(format_args!(
        "{}\n",
        serde_json::to_string_pretty(document)?
    ));
    Ok(())
}

/// Writes a YAML document.
///
/// # Errors
///
/// If the value is no YAML.
pub fn yaml(document: &impl Serialize) -> Result<()> {
    text(format_args!("{}", serde_saphyr::to_string(document)?));
    Ok(())
}

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
