//! Standard output that may go away: `heddle analyze | head` is not an error.

use std::fmt::Arguments;
use std::io::{IsTerminal, Write};

use anyhow::Result;
use clap::ValueEnum;
use heddle_acceptor::{clean, is_safe};
use serde::Serialize;

/// The longest single line, in characters.
const MAX_LINE: usize = 16 << 10;
/// The commands to the terminal that texts for people have: colors, and their end.
const COLORS: [&str; 9] = [
    "\x1b[0m",
    "\x1b[1m",
    "\x1b[2m",
    "\x1b[31m",
    "\x1b[32m",
    "\x1b[33m",
    "\x1b[36m",
    "\x1b[1;31m",
    "\x1b[1;36m",
];
/// Clears the screen and its history.
const CLEAR: &str = "\x1b[H\x1b[2J\x1b[3J";

/// Like `println!`, which would panic. The text may have several lines.
macro_rules! say {
    ($($part:tt)*) => {
        $crate::out::text(format_args!("{}\n", format_args!($($part)*)))
    };
}

/// Writes one line to standard output. Ends of lines in its parts become spaces.
macro_rules! tell {
    ($($part:tt)*) => {
        $crate::out::line(format_args!($($part)*))
    };
}

/// Writes one line to standard error. Ends of lines in its parts become spaces.
macro_rules! note {
    ($($part:tt)*) => {
        $crate::out::note_line(format_args!($($part)*))
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
    /// If the document cannot be written as JSON or YAML.
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
    /// If the document cannot be written as JSON or YAML.
    pub fn print_next(
        self,
        document: &impl Serialize,
        text: impl FnOnce() -> String,
    ) -> Result<()> {
        match self {
            Self::Text => {
                // So that one look is on the screen.
                if std::io::stdout().is_terminal() {
                    raw(CLEAR);
                }
                say!("{}", text());
            }
            Self::Json => raw(&format!("{}\n", escaped(&serde_json::to_string(document)?))),
            Self::Yaml => {
                say!("---");
                yaml(document)?;
            }
        }
        Ok(())
    }
}

/// Whether text for people has colors: on a terminal only, and never where `NO_COLOR` asks for none.
pub fn has_colors() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// Writes a JSON document.
///
/// # Errors
///
/// If the value cannot be written as JSON.
pub fn json(document: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(document)?;
    raw(&format!("{}\n", escaped(&text)));
    Ok(())
}

/// Writes a YAML document.
///
/// # Errors
///
/// If the value cannot be written as YAML.
pub fn yaml(document: &impl Serialize) -> Result<()> {
    raw(&as_yaml(document)?);
    Ok(())
}

/// A document as YAML.
///
/// # Errors
///
/// If the value cannot be written as YAML.
pub fn as_yaml(document: &impl Serialize) -> Result<String> {
    let text = serde_saphyr::to_string(document)?;
    // JSON is YAML, and can escape every character.
    match text
        .chars()
        .all(|character| character == '\n' || is_safe(character))
    {
        true => Ok(text),
        false => Ok(escaped(&serde_json::to_string_pretty(document)?) + "\n"),
    }
}

/// JSON with escapes for the characters in its texts that command a terminal or hide.
fn escaped(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for character in json.chars() {
        if character == '\n' || is_safe(character) {
            text.push(character);
            continue;
        }
        let mut units = [0; 2];
        for unit in character.encode_utf16(&mut units) {
            text.push_str(&format!("\\u{unit:04x}"));
        }
    }
    text
}

/// Writes text for people: lines, and the colors of this program. All other commands to the terminal are left out.
pub fn text(text: Arguments<'_>) {
    raw(&shown(&text.to_string()));
}

/// Writes one line.
pub fn line(text: Arguments<'_>) {
    raw(&(clean(&text.to_string(), MAX_LINE) + "\n"));
}

/// Writes one line to standard error.
pub fn note_line(text: Arguments<'_>) {
    let line = clean(&text.to_string(), MAX_LINE) + "\n";
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// Writes text as it is. It must have no text of others.
pub fn raw(text: &str) {
    // The reader has closed the pipe, so an error could not be printed either.
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// A text with a space in the place of every character that is not shown, but for ends of lines and colors.
fn shown(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        let color = COLORS.iter().find(|color| rest.starts_with(**color));
        if let Some(color) = color {
            shown.push_str(color);
            rest = rest.get(color.len()..).unwrap_or_default();
            continue;
        }
        let safe = character == '\n' || is_safe(character);
        shown.push(if safe { character } else { ' ' });
        rest = rest.get(character.len_utf8()..).unwrap_or_default();
    }
    shown
}

pub(crate) use {note, say, tell};

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn text_for_people_keeps_lines_and_colors_alone() {
        for (text, expected) in [
            ("a\nb\n", "a\nb\n"),
            ("\u{1b}[31mred\u{1b}[0m", "\u{1b}[31mred\u{1b}[0m"),
            ("\u{1b}[2Ja\u{9b}2Jb\r\u{202e}c", " [2Ja 2Jb  c"),
            ("\u{1b}]0;title\u{7}", " ]0;title "),
            ("\u{1b}[31", " [31"),
        ] {
            assert_eq!(shown(text), expected, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn documents_keep_their_texts_and_command_no_terminal(text in any::<String>(), name in any::<String>()) {
            let document = json!({"a": [text], "b": {name: "\u{9b}2J\u{202e}"}});
            let json = escaped(&serde_json::to_string_pretty(&document).unwrap());
            let read: Value = serde_json::from_str(&json).unwrap();
            prop_assert_eq!(&read, &document);
            let yaml = as_yaml(&document).unwrap();
            let read: Value = serde_saphyr::from_str(&yaml).unwrap();
            prop_assert_eq!(&read, &document);
            for text in [json, yaml] {
                prop_assert!(text.chars().all(|c| c == '\n' || is_safe(c)), "{:?}", text);
            }
        }
    }

    fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => sources(&path, found),
                false if path.extension().is_some_and(|of| of == "rs") => found.push(path),
                false => {}
            }
        }
    }

    /// Every output of the program comes through this file, which leaves commands to the terminal out.
    #[test]
    fn no_other_file_writes_to_the_terminal() {
        let mut files = Vec::new();
        sources(
            &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
            &mut files,
        );
        let others = files.iter().filter(|path| !path.ends_with("src/out.rs"));
        for path in others {
            let text = std::fs::read_to_string(path).unwrap();
            for way in [
                "println!(",
                "print!(",
                "stdout().write",
                "stdout(),",
                "stderr().write",
                "stderr(),",
            ] {
                assert!(!text.contains(way), "{}: {way}", path.display());
            }
        }
    }
}
