//! `sessionPersistence` of a rule (GEP-1619).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::notes::Notes;
use super::{duration, same};
use crate::kinds::headers::{FRAMING, is_token};
use crate::traffic::{Session, unrouted};

/// The beginning of the names of cookies, if the rule does not say it.
const COOKIE: &str = "heddle-session";
/// The name of the header, if the rule does not say it.
const HEADER: &str = "x-session";
/// Headers of messages with a meaning of their own (IANA, permanent), those of the path of a call, and those of traces. A token in their
/// place would be read as such a value, and the value of an application would be lost.
const STANDARD: [&str; 47] = [
    "accept",
    "age",
    "allow",
    "alt-svc",
    "authorization",
    "b3",
    "baggage",
    "cache-control",
    "clear-site-data",
    "cookie",
    "date",
    "early-data",
    "etag",
    "expect",
    "expires",
    "forwarded",
    "from",
    "http2-settings",
    "last-modified",
    "link",
    "location",
    "max-forwards",
    "origin",
    "pragma",
    "prefer",
    "preference-applied",
    "priority",
    "range",
    "referer",
    "referrer-policy",
    "refresh",
    "retry-after",
    "server",
    "server-timing",
    "set-cookie",
    "strict-transport-security",
    "traceparent",
    "tracestate",
    "user-agent",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "x-content-type-options",
    "x-frame-options",
    "x-real-ip",
    "x-request-id",
];
/// The beginnings of the names of more such headers.
const FAMILIES: [&str; 12] = [
    "accept-",
    "access-control-",
    "content-",
    "cross-origin-",
    "grpc-",
    "if-",
    "proxy-",
    "sec-",
    "x-b3-",
    "x-envoy-",
    "x-forwarded-",
    "x-heddle-",
];
/// The longest name, as the definition has it.
const MAX_NAME: usize = 128;

/// The fields: those of all kinds of routes are the same.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SessionFields {
    absolute_timeout: Option<String>,
    cookie_config: Option<CookieFields>,
    idle_timeout: Option<String>,
    session_name: Option<String>,
    r#type: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CookieFields {
    lifetime_type: Option<String>,
}

/// Reads the sessions of a rule with so many backends.
pub(super) fn session(
    field: &str,
    of: Option<&impl Serialize>,
    backends: usize,
    notes: &mut Notes,
) -> Option<Session> {
    let field = format!("{field}.sessionPersistence");
    let Some(of) = same::<SessionFields>(of?) else {
        notes.unsupported(field, "it cannot be read", "remove it");
        return None;
    };
    if of.idle_timeout.is_some() {
        let message = "sidecars keep no state of sessions, so they do not see that one is idle";
        let fix = "remove it; use absoluteTimeout";
        notes.unsupported(format!("{field}.idleTimeout"), message, fix);
    }
    match of.r#type.as_deref() {
        Some("Header") => header(&field, &of, backends, notes),
        Some("Cookie") | None => cookie(&field, &of, notes),
        Some(other) => {
            let message = format!("{other:?} is not a type of sessions");
            notes.unsupported(format!("{field}.type"), message, "use Cookie or Header");
            None
        }
    }
}

fn name<'a>(
    field: &str,
    of: &'a SessionFields,
    default: &'a str,
    usable: impl Fn(&str) -> bool,
    notes: &mut Notes,
) -> &'a str {
    let name = of.session_name.as_deref().filter(|name| !name.is_empty());
    let name = name.unwrap_or(default);
    if name.len() > MAX_NAME || !is_token(name) || !usable(name) {
        let message = format!("{name:?} cannot name a session");
        let fix = "use letters, digits and dashes, and no name with a meaning of its own";
        notes.unsupported(format!("{field}.sessionName"), message, fix);
    }
    name
}

fn header(field: &str, of: &SessionFields, backends: usize, notes: &mut Notes) -> Option<Session> {
    let usable = |name: &str| {
        let lower = name.to_ascii_lowercase();
        let of_family = FAMILIES.iter().any(|family| lower.starts_with(family));
        let standard = of_family || STANDARD.contains(&&*lower);
        !standard && !FRAMING.contains(&&*lower) && !unrouted::is_removed(&lower)
    };
    let name = name(field, of, HEADER, usable, notes);
    if backends > 1 {
        let message = "a header names the endpoint of a session, and not its backend";
        let fix = "use type Cookie, or write one backend";
        notes.unsupported(format!("{field}.type"), message, fix);
    }
    if of.absolute_timeout.is_some() {
        let message = "a header has no lifetime";
        let fix = "remove it, or use type Cookie";
        notes.unsupported(format!("{field}.absoluteTimeout"), message, fix);
    }
    if of.cookie_config.is_some() {
        let message = "it is for type Cookie alone";
        notes.unsupported(format!("{field}.cookieConfig"), message, "remove it");
    }
    Some(Session::Header(name.to_ascii_lowercase().into()))
}

fn cookie(field: &str, of: &SessionFields, notes: &mut Notes) -> Option<Session> {
    // Browsers take such cookies over TLS alone.
    let usable = |name: &str| !name.starts_with("__");
    let name = name(field, of, COOKIE, usable, notes);
    let config = of.cookie_config.as_ref();
    let permanent = match config.and_then(|config| config.lifetime_type.as_deref()) {
        Some("Permanent") => true,
        Some("Session") | None => false,
        Some(other) => {
            let message = format!("{other:?} is not a type of lifetimes");
            let at = format!("{field}.cookieConfig.lifetimeType");
            notes.unsupported(at, message, "use Permanent or Session");
            false
        }
    };
    let at = format!("{field}.absoluteTimeout");
    let timeout = duration(&at, of.absolute_timeout.as_ref(), notes);
    match timeout {
        None if permanent && of.absolute_timeout.is_none() => {
            let message = "a cookie with lifetimeType Permanent needs its lifetime";
            notes.unsupported(at, message, "write for example 24h");
        }
        Some(_) if !permanent => {
            let message = "Envoy ends a session only by the lifetime of its cookie, which a cookie with lifetimeType Session does not have";
            let fix = "remove it, or write cookieConfig.lifetimeType: Permanent";
            notes.unsupported(at, message, fix);
        }
        Some(age) if age < Duration::from_secs(1) || age.subsec_nanos() > 0 => {
            let message = "a cookie lives for a number of whole seconds";
            notes.unsupported(at, message, "write for example 24h");
        }
        Some(_) | None => {}
    }
    Some(Session::Cookie {
        name: name.into(),
        max_age: timeout,
    })
}
