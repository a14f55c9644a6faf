//! The many spellings of one path.
//!
//! Applications differ in the spellings that they take for the same path: `//admin`, `/./admin`, `/;x/admin`, `/%61dmin`, `/admin;x`, `\admin`,
//! `//x/admin`, `/admin/`, `/ADMIN`. The mesh cannot know them, and must not rewrite requests. So a Deny rule matches every spelling that some application
//! might read as its path, and an Allow rule only the plain one. Ambiguous paths ([`AMBIGUOUS`]) could mean anything: Deny rules match them, Allow
//! rules do not.
//!
//! Every expression is for Envoy's RE2, which reads bytes (Latin-1), and for the whole path without its query; with [`QUERY`] behind it, for
//! the whole path with its query. So none of them matches `?` or `#`.

use std::fmt::Write;

use super::PathPattern;

/// A query, or none. A fragment, which Envoy answers with 400, counts as one.
pub(crate) const QUERY: &str = r"(?:[?#](?s:.*))?";

/// Servers take these for `/`.
const SEPARATOR: &str = r"(?:[/\\]|%(?:2[fF]|5[cC]))";
/// Windows drops dots and blanks at the end of a segment; servlet containers drop the parameters behind them.
const SEGMENT_END: &str = r"(?:\.|%2[eE]|%20)*(?:(?:;|%3[bB])[^/?#]*)?";
/// One or more separators, with at most dots, blanks or parameters between them.
const GAP: &str = r"(?:[/\\]|%(?:2[fF]|5[cC]))(?:(?:\.|%2[eE]|%20)*(?:(?:;|%3[bB])[^/?#]*)?(?:[/\\]|%(?:2[fF]|5[cC])))*";
/// Two or more separators begin an authority for servers that read the path as a reference to a URL (RFC 3986, 4.2): `//x/admin`.
const AUTHORITY: &str = r"(?:(?:[/\\]|%(?:2[fF]|5[cC])){2,}[^/\\?#]*)?";
/// An escaped `?` or `#`: a server that decodes first ends the path here.
const ESCAPED_QUERY: &str = r"(?:%(?:3[fF]|23)[^?#]*)?";

/// The i with its dot in upper case and without it in lower case: their other case is a letter of ASCII. Words of Turkish have them, so that
/// other paths with them are not ambiguous.
const TURKISH: &str = "|%[cC]4%[bB][01]";

/// Matches the paths that a server may read as nearly any other path: a segment `..`, an escape within an escape, `%u`, escaped control
/// characters, overlong UTF-8, full-width forms of the characters of paths, the signs for Kelvin and the long s, of which the lower or upper
/// case is a letter of ASCII, and bytes that RFC 3986 does not allow (HTTP/2 passes them).
pub(crate) const AMBIGUOUS: &str = concat!(
    r"[^?#]*(?:(?:[/\\]|%(?:2[fF]|5[cC]))(?:\.|%2[eE]){2}(?:%20)*(?:(?:;|%3[bB])[^/?#]*)?(?:(?:[/\\]|%(?:2[fF]|5[cC]))[^?#]*)?",
    r"|(?:[^!-~]|%(?:25[0-9a-fA-F]{2}|[uU]|[01][0-9a-fA-F]|7[fF]|[cC][01]|[cC]5%[bB][fF]|[eE]2%84%[aA][aA]|[eE]0%[89]|[fF]0%8",
    r"|[eE][fF]%(?:[bB][cC]%(?:8[5dDeEfF]|9[0-9bB]|[aA][1-9a-fA-F]|[bB][0-9aAcCfF])|[bB][dD]%(?:8[1-9a-fA-F]|9[0-9aA]))))[^?#]*)",
);

/// Matches the paths that every server reads as they are: unreserved and sub-delimiter characters but `;`, no escapes, no empty segment, and
/// dots only within a segment.
pub(crate) const PLAIN: &str =
    r"(?:/[A-Za-z0-9_~!$&'()*+,=:@-]+(?:\.+[A-Za-z0-9_~!$&'()*+,=:@-]+)*)*/?";

/// The same, without letters in upper case.
pub(crate) const PLAIN_LOWER: &str =
    r"(?:/[a-z0-9_~!$&'()*+,=:@-]+(?:\.+[a-z0-9_~!$&'()*+,=:@-]+)*)*/?";

/// An expression for all spellings of a Deny rule's path.
pub(crate) fn denied(pattern: &PathPattern, ignore_case: bool) -> String {
    let (segments, open) = segments(pattern);
    let mut expression = String::new();
    if ignore_case {
        expression.push_str("(?i)");
    }
    if !open && segments == [""] {
        // The path behind an authority may be empty.
        let _ = write!(
            expression,
            r"(?:{SEPARATOR}{{2,}}[^/\\?#]*|{AUTHORITY}{GAP}{SEGMENT_END}(?:{SEPARATOR}{SEGMENT_END})*){ESCAPED_QUERY}"
        );
        return expression;
    }
    expression.push_str(AUTHORITY);
    let last = segments.len().saturating_sub(1);
    for (index, segment) in segments.iter().enumerate() {
        expression.push_str(GAP);
        for byte in decoded(segment) {
            spell(&mut expression, byte, ignore_case);
        }
        // A prefix may end within a segment.
        if index < last || !open {
            expression.push_str(SEGMENT_END);
        }
    }
    if open {
        expression.push_str("[^?#]*");
    } else {
        let _ = write!(expression, r"(?:{SEPARATOR}{SEGMENT_END})*{ESCAPED_QUERY}");
    }
    expression
}

/// The path of a Deny rule as [`PLAIN`] paths spell it; `None` if none of them does.
pub(crate) fn plain(pattern: &PathPattern) -> Option<(String, bool)> {
    let (segments, open) = segments(pattern);
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"_~!$&'()*+,=:@-.".contains(byte);
    let mut path = String::new();
    for segment in segments {
        path.push('/');
        let bytes = decoded(segment);
        if !bytes.iter().all(allowed) {
            return None;
        }
        path.extend(bytes.iter().copied().map(char::from));
    }
    Some((path, open))
}

/// The segments of a pattern, without empty segments and `.`, and whether it is a prefix.
fn segments(pattern: &PathPattern) -> (Vec<&str>, bool) {
    let (path, open) = match pattern {
        PathPattern::Exact(path) => (path, false),
        PathPattern::Prefix(path) => (path, true),
    };
    let all: Vec<&str> = path.strip_prefix('/').unwrap_or(path).split('/').collect();
    let last = all.len().saturating_sub(1);
    let mut segments: Vec<&str> = all
        .into_iter()
        .enumerate()
        .filter(|(index, segment)| (open && *index == last) || !matches!(*segment, "" | "."))
        .map(|(_, segment)| segment)
        .collect();
    if segments.is_empty() {
        segments.push("");
    }
    (segments, open)
}

/// One byte, plain or escaped.
fn spell(expression: &mut String, byte: u8, ignore_case: bool) {
    expression.push_str("(?:");
    // A separator inside a segment can only have been meant escaped, as can the beginning of a query.
    let escaped = matches!(byte, b'/' | b'\\' | b'?' | b'#' | b'%');
    if byte.is_ascii_graphic() && !escaped {
        if !byte.is_ascii_alphanumeric() {
            expression.push('\\');
        }
        expression.push(char::from(byte));
        expression.push('|');
    }
    expression.push('%');
    if ignore_case && byte.is_ascii_alphabetic() {
        // The codes of a letter's two cases differ in one bit of the high digit.
        expression.push_str(if byte & 0x10 == 0 { "[46]" } else { "[57]" });
        hexadecimal(expression, byte & 0x0f);
        if byte.eq_ignore_ascii_case(&b'i') {
            expression.push_str(TURKISH);
        }
    } else {
        hexadecimal(expression, byte >> 4);
        hexadecimal(expression, byte & 0x0f);
    }
    expression.push(')');
}

fn hexadecimal(expression: &mut String, digit: u8) {
    let Some(digit) = char::from_digit(u32::from(digit), 16) else {
        return;
    };
    if digit.is_ascii_alphabetic() {
        let _ = write!(expression, "[{digit}{}]", digit.to_ascii_uppercase());
    } else {
        expression.push(digit);
    }
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
