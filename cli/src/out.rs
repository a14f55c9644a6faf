//! Standard output that may go away: `heddle analyze | head` is no error.

use std::fmt::Arguments;
use std::io::{IsTerminal, Write};

use anyhow::Result;
use clap::ValueEnum;
use serde::Serialize;

/// Like `println!`, which would panic.
macro_rules! say {
    ($($part:tt)*) => {
        $crate::out::text(format_args!("{}\n", format_args!($($part)*)))
    };
}

/// How a command prints its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// For programs: one JSON document.
    Json,
    /// For programs: one YAML document.
    Yaml,
}

impl Format {
    /// Writes a result: its document, or the text for people.
    ///
    /// # Errors
    ///
    /// If the document is no JSON or YAML.
    pub fn print(self, document: &impl Serialize, text: impl FnOnce() -> String) -> Result<()> {
        match self {
            Self::Text => say!("{}", text()),
            Self::Json => json(document)?,
            Self::Yaml => yaml(document)?,
        }
        Ok(())
    }

    /// Writes one of many results of a command that watches: JSON in one line, YAML as one of several documents, and text alone on the screen.
    ///
    /// # Errors
    ///
    /// If the document is no JSON or YAML.
    pub fn print_next(
        self,
        document: &impl Serialize,
        text: impl FnOnce() -> String,
    ) -> Result<()> {
        match self {
            Self::Text => {
                // Clears the screen and its history, so that one look is on it.
                let clear = match std::io::stdout().is_terminal() {
                    true => "\x1b[H\x1b[2J\x1b[3J",
                    false => "",
                };
                say!("{clear}{}", text());
            }
            Self::Json => say!("{}", serde_json::to_string(document)?),
            Self::Yaml => {
                say!("---");
                yaml(document)?;
            }
        }
        Ok(())
    }
}

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

pub(crate) use say;
