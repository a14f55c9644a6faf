//! The many spellings of one path.
//!
//! Applications differ in what they take for the same path: `//admin`, `/./admin`, `/%61dmin`, `/admin;x`, `\admin`, `/admin/`. The mesh cannot
//! know, and must not rewrite what it forwards. So a Deny rule matches every spelling that some application might read as its path, and an
//! Allow rule only the plain one. Paths with a `..` segment, whatever its spelling, could mean anything: Deny rules match, Allow rules do not.

use std::fmt::Write;

use super::PathPattern;

/// What some servers take for `/`.
const SEPARATOR: &str = r"(?:[/\\]|%(?:2[fF]|5[cC]))";
/// Parameters of a segment.
const PARAMETERS: &str = "(?:(?:;|%3[bB])[^/]*)?";
/// One or more separators with nothing or single dots between.
const GAP: &str = r"(?:(?:[/\\]|%(?:2[fF]|5[cC]))(?:(?:\.|%2[eE])(?:(?:;|%3[bB])[^/]*)?(?:[/\\]|%(?:2[fF]|5[cC])))*)+";

/// Matches every path with a segment `..`.
pub(crate) const DOT_DOT: &str = r".*(?:[/\\]|%(?:2[fF]|5[cC]))(?:\.|%2[eE])(?:\.|%2[eE])(?:(?:;|%3[bB])[^/]*)?(?:(?:[/\\]|%(?:2[fF]|5[cC])).*)?";

/// An expression (RE2, for the whole path without query) for all spellings of a Deny rule's path.
pub(crate) fn denied(pattern: &PathPattern) -> String {
    let (path, open) = match pattern {
        PathPattern::Exact(path) => (path, false),
        PathPattern::Prefix(path) => (path, true),
    };
    let mut expression = String::new();
    let segments: Vec<&str> = path.strip_prefix('/').unwrap_or(path).split('/').collect();
    let last = segments.len().saturating_sub(1);
    for (index, segment) in segments.iter().enumerate() {
        expression.push_str(GAP);
        for byte in decoded(segment) {
            spell(&mut expression, byte);
        }
        let unfinished = index == last && open;
        if !unfinished && !segment.is_empty() {
            expression.push_str(PARAMETERS);
        }
    }
    if open {
        expression.push_str(".*");
    } else {
        // A slash more or less at the end.
        let _ = write!(expression, r"(?:{SEPARATOR}+(?:\.|%2[eE])?)*");
    }
    expression
}

/// One byte, plain or escaped.
fn spell(expression: &mut String, byte: u8) {
    expression.push_str("(?:");
    let separator = byte == b'/' || byte == b'\\';
    // A separator inside a segment can only have been meant escaped.
    if byte.is_ascii_graphic() && !separator && byte != b'%' {
        if !byte.is_ascii_alphanumeric() {
            expression.push('\\');
        }
        expression.push(char::from(byte));
        expression.push('|');
    }
    expression.push('%');
    for digit in format!("{byte:02x}").chars() {
        if digit.is_ascii_alphabetic() {
            let _ = write!(expression, "[{digit}{}]", digit.to_ascii_uppercase());
        } else {
            expression.push(digit);
        }
    }
    expression.push(')');
}

/// The segment with its escapes resolved once.
fn decoded(segment: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = segment.as_bytes();
    while let [first, tail @ ..] = rest {
        if let (b'%', [high, low, after @ ..]) = (first, tail)
            && let (Some(high), Some(low)) = (
                char::from(*high).to_digit(16),
                char::from(*low).to_digit(16),
            )
            && let Ok(byte) = u8::try_from(high * 16 + low)
        {
            bytes.push(byte);
            rest = after;
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    bytes
}

/// A header's name in the spellings that CGI-like servers take for the same: `-` and `_`. For Deny rules only.
pub(crate) fn header_names(name: &str) -> Vec<String> {
    let dashes = name.bytes().filter(|b| *b == b'-').count();
    // Each mixture doubles the list; beyond four dashes only the two pure spellings are worth it.
    if dashes > 4 {
        return vec![name.to_owned(), name.replace('-', "_")];
    }
    let mut names = vec![String::new()];
    for character in name.chars() {
        if character == '-' {
            names = names
                .iter()
                .flat_map(|n| [format!("{n}-"), format!("{n}_")])
                .collect();
        } else {
            names.iter_mut().for_each(|n| n.push(character));
        }
    }
    names
}
