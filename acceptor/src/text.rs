//! Text that a client chose, made safe to log and to print.

use std::fmt;
use std::io::{self, Write};
use std::ops::Deref;
use std::sync::Arc;

/// The mark at the end of a text that was cut.
const CUT: char = '…';

/// A text from a client: at most a stated number of characters, without control characters, line breaks, escape
/// sequences, or marks that change the direction of writing. It is made once, where the text enters the process.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientText(Arc<str>);

impl ClientText {
    /// Cleans a text and cuts it to `max` characters.
    #[must_use]
    pub fn new(text: &str, max: usize) -> Self {
        Self(clean(text, max).into())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Deref for ClientText {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClientText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Returns the text with a space for each run of unsafe characters, cut to `max` characters. Only the part of the text that
/// is kept is looked at, so a long one costs no more than a short one.
#[must_use]
pub fn clean(text: &str, max: usize) -> String {
    // Each character has four bytes at most, and a run of unsafe ones is read no further than this.
    let mut clean = String::new();
    let (mut kept, mut read) = (0usize, 0usize);
    let bound = max.saturating_mul(4).saturating_add(16);
    for character in text.trim().chars() {
        read += 1;
        if kept >= max || read > bound {
            while kept >= max && clean.pop().is_some() {
                kept -= 1;
            }
            if max > 0 {
                clean.push(CUT);
            }
            return clean;
        }
        let safe = if is_safe(character) { character } else { ' ' };
        if safe == ' ' && (clean.is_empty() || clean.ends_with(' ')) {
            continue;
        }
        clean.push(safe);
        kept += 1;
    }
    clean.truncate(clean.trim_end().len());
    clean
}

/// The longest log line, in characters.
const MAX_LINE: usize = 16 << 10;

/// The start of an event in JSON that is kept if the event is longer than a line, in characters.
const MAX_START: usize = 1_000;

/// A writer of log lines: any event stays on one line, without escape sequences, and of bounded length. Of a longer event in JSON the
/// start becomes the message of another object, so that each line can be parsed. Each call of `write` is one event.
#[derive(Debug)]
pub struct LogLines<W>(pub W);

impl<W: Write> Write for LogLines<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let text = text.strip_suffix('\n').unwrap_or(&text);
        let safe = |character| if is_safe(character) { character } else { ' ' };
        let mut line = match text.starts_with('{') && text.chars().nth(MAX_LINE).is_some() {
            true => shortened(text),
            false => text.chars().take(MAX_LINE).map(safe).collect(),
        };
        line.push('\n');
        self.0.write_all(line.as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// An object of JSON in place of one that is too long. A clean text has two characters that a string of JSON escapes.
fn shortened(event: &str) -> String {
    let start = clean(event, MAX_START)
        .replace('\\', "\\\\")
        .replace('"', "\\\"");
    format!(
        "{{\"message\":\"a log event was longer than {MAX_LINE} characters and was cut: {start}\"}}"
    )
}

/// Returns whether a character only shows itself: no control character, line or paragraph separator, direction mark, or
/// invisible formatting character.
#[must_use]
pub fn is_safe(character: char) -> bool {
    !(character.is_control()
        || matches!(character,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}'
            | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn unsafe_characters_become_one_space() {
        for (text, expected) in [
            ("envoy 1.40.0", "envoy 1.40.0"),
            ("a\nb", "a b"),
            ("\u{1b}]0;title\u{7}x", "]0;title x"),
            ("\u{1b}[2J\r\n\tshop/web-1", "[2J shop/web-1"),
            ("a\u{9b}31mb", "a 31mb"),
            ("abc\u{202e}fed", "abc fed"),
            ("a\u{2066}\u{2028}b\u{feff}", "a b"),
            ("über 漢字", "über 漢字"),
            ("", ""),
            ("\n\n", ""),
        ] {
            assert_eq!(clean(text, 100), expected, "{text:?}");
        }
    }

    #[test]
    fn a_long_text_is_cut_and_marked() {
        assert_eq!(clean("abcdef", 6), "abcdef");
        assert_eq!(clean("abcdefg", 6), "abcde…");
        assert_eq!(clean("abc", 0), "");
        assert_eq!(clean(&"\n".repeat(1 << 20), 6), "");
        assert_eq!(clean(&format!("a{}b", "\n".repeat(1 << 20)), 6), "a …");
    }

    #[test]
    fn an_event_is_one_log_line() {
        let mut lines = LogLines(Vec::new());
        lines
            .write_all("INFO stream refused: a\n2026 ERROR forged \u{1b}[2J\u{202e}\n".as_bytes())
            .unwrap();
        lines.write_all(&vec![b'x'; 1 << 20]).unwrap();
        let text = String::from_utf8(lines.0).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "INFO stream refused: a 2026 ERROR forged  [2J ");
        assert_eq!((lines.len(), lines[1].len()), (2, MAX_LINE));
    }

    #[test]
    fn a_long_event_in_json_becomes_a_short_one() {
        let mut lines = LogLines(Vec::new());
        let event = |length| format!(r#"{{"a":"\n{}"}}"#, "x".repeat(length)) + "\n";
        lines.write_all(event(1 << 20).as_bytes()).unwrap();
        lines.write_all(event(10).as_bytes()).unwrap();
        let text = String::from_utf8(lines.0).unwrap();
        let (long, short) = text.split_once('\n').unwrap();
        // The start has eight characters before the run of x.
        let start = format!(r#"{{\"a\":\"\\n{}…"#, "x".repeat(MAX_START - 9));
        let expected = "a log event was longer than 16384 characters and was cut: ";
        assert_eq!(long, format!(r#"{{"message":"{expected}{start}"}}"#));
        assert_eq!(short, event(10));
    }

    proptest! {
        #[test]
        fn a_clean_text_is_short_and_safe(text in any::<String>(), max in 0usize..40) {
            let cleaned = clean(&text, max);
            prop_assert!(cleaned.chars().count() <= max.max(usize::from(max > 0)));
            prop_assert!(cleaned.chars().all(is_safe));
            prop_assert_eq!(clean(&cleaned, max), cleaned.clone(), "cleaning twice changes nothing");
        }
    }
}
