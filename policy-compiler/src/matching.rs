//! Texts that regular expressions match, as examples of requests.

use regex_syntax::hir::{Class, Hir, HirKind};

/// The longest text.
const MAX_TEXT: usize = 256;

/// Returns a short text that the expression matches as a whole. `None`: none was found.
pub(crate) fn text(expression: &str) -> Option<String> {
    let parsed = regex_syntax::parse(expression).ok()?;
    let mut text = String::new();
    append(&parsed, &mut text).then_some(text)
}

/// Appends a text. Returns whether there is one.
fn append(expression: &Hir, text: &mut String) -> bool {
    if text.len() > MAX_TEXT {
        return false;
    }
    match expression.kind() {
        HirKind::Empty | HirKind::Look(_) => true,
        HirKind::Literal(literal) => match std::str::from_utf8(&literal.0) {
            Ok(literal) => {
                text.push_str(literal);
                true
            }
            Err(_) => false,
        },
        HirKind::Class(class) => {
            let printable = |start: char, end: char| {
                let letter = Some('a').filter(|letter| (start..=end).contains(letter));
                let first = Some(start.max('!')).filter(|first| *first <= end && *first <= '~');
                letter.or(first)
            };
            let character = match class {
                Class::Unicode(class) => {
                    let mut ranges = class.iter();
                    ranges.find_map(|range| printable(range.start(), range.end()))
                }
                Class::Bytes(class) => {
                    let mut ranges = class.iter();
                    ranges.find_map(|range| printable(range.start().into(), range.end().into()))
                }
            };
            text.extend(character);
            character.is_some()
        }
        HirKind::Repetition(repetition) => {
            (0..repetition.min).all(|_| append(&repetition.sub, text))
        }
        HirKind::Capture(capture) => append(&capture.sub, text),
        HirKind::Concat(parts) => parts.iter().all(|part| append(part, text)),
        HirKind::Alternation(parts) => parts.first().is_some_and(|part| append(part, text)),
    }
}
