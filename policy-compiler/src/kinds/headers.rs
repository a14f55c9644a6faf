//! The names and values of headers.

use crate::traffic::unrouted;

/// Headers that frame a message or belong to one connection: another value breaks the connection.
pub(super) const FRAMING: [&str; 9] = [
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// The beginning of the names of headers that sidecars give each other.
const OWN: &str = "x-heddle-";

/// Whether a header belongs to sidecars, by its name in lower case. A rule that set such a header would give the caller's Envoy a command, as
/// to send a request again, for routes change headers before they obey them.
pub(super) fn is_of_sidecars(name: &str) -> bool {
    name.starts_with(OWN) || unrouted::is_removed(name)
}

/// The fault of a header that no request has where rules are asked: message and fix.
pub(super) fn removed(name: &str) -> (String, &'static str) {
    let message = format!("sidecars remove header {name:?} before they ask rules");
    (message, "use a header of the application")
}

/// The longest value of a header.
pub(super) const MAX_VALUE: usize = 4096;

/// Whether a character is in no value of a header: Envoy refuses line breaks, and servers other control characters.
pub(super) fn is_odd(c: char) -> bool {
    c.is_control() && c != '\t'
}

/// Whether a text is the value of a header as servers get it, without blanks around it.
pub(super) fn is_value(text: &str) -> bool {
    text.len() <= MAX_VALUE && !text.contains(is_odd) && text.trim_matches([' ', '\t']) == text
}

/// Whether a text is a token (RFC 9110, 5.6.2), as names of headers and cookies are.
pub(super) fn is_token(text: &str) -> bool {
    let of_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+.^_`|~-".contains(&b);
    !text.is_empty() && text.bytes().all(of_token)
}
