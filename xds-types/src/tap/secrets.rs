//! Secrets in requests: by the name of a header or parameter, and by the form of a value.

/// The text in the place of a secret.
pub const REDACTED: &str = "[redacted]";

/// Words in the names of headers and parameters with secrets. The rule of the Mesh for the headers of spans lists them, too.
pub const SECRET_WORDS: [&str; 21] = [
    "apikey",
    "api-key",
    "api_key",
    "access-key",
    "access_key",
    "assertion",
    "auth_code",
    "authorization",
    "client-cert",
    "cookie",
    "credential",
    "jwt",
    "passphrase",
    "passw",
    "saml",
    "secret",
    "session",
    "signature",
    "ticket",
    "token",
    "verifier",
];
/// Whole names with secrets: the parameters of OAuth, signed URLs, and headers.
pub const SECRET_NAMES: [&str; 7] = ["auth", "code", "key", "otp", "pwd", "sig", "sid"];
/// The ends of names with secrets.
pub const SECRET_ENDS: [&str; 2] = ["-auth", "_auth"];
/// The beginning of a JSON web token: `{"` in base64.
const JWT: &str = "eyJ";
/// Schemes of `authorization` that stand before credentials.
const SCHEMES: [&str; 4] = ["bearer ", "basic ", "digest ", "negotiate "];

/// Whether the value of a header or parameter of this name is a secret.
#[must_use]
pub fn is_secret_name(name: &str) -> bool {
    let name = decoded(name).to_ascii_lowercase();
    SECRET_NAMES.contains(&&*name)
        || SECRET_ENDS.iter().any(|end| name.ends_with(end))
        || SECRET_WORDS.iter().any(|word| name.contains(word))
}

/// Returns the value with its secrets replaced, by their form.
#[must_use]
pub fn value_without_secrets(value: &str) -> String {
    let start = value.trim_start().to_ascii_lowercase();
    if has_token(value) || SCHEMES.iter().any(|scheme| start.starts_with(scheme)) {
        return REDACTED.to_owned();
    }
    match value.split_once("://") {
        // The user and password of a URL.
        Some((scheme, rest)) => match rest.split_once('@') {
            Some((user, host)) if !user.contains('/') => format!("{scheme}://{REDACTED}@{host}"),
            Some(_) | None => value.to_owned(),
        },
        None => value.to_owned(),
    }
}

/// Returns a path with its secrets replaced, with its query if asked for.
#[must_use]
pub fn path_without_secrets(path: &str, with_query: bool) -> String {
    // A fragment is not part of a request, and yet some clients send it.
    let path = path.split('#').next().unwrap_or_default();
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let segments = path.split('/').map(segment);
    let path = segments.collect::<Vec<_>>().join("/");
    if !with_query || query.is_empty() {
        return path;
    }
    let parameters = query.split(['&', ';']).map(parameter);
    format!("{path}?{}", parameters.collect::<Vec<_>>().join("&"))
}

/// A segment of a path, which may have parameters, as `cart;jsessionid=...`.
fn segment(text: &str) -> String {
    if has_token(text) {
        return REDACTED.to_owned();
    }
    let mut parts = text.split(';');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |path, part| match part.split_once('=') {
        Some((name, _)) if is_secret_name(name) => format!("{path};{name}={REDACTED}"),
        Some(_) | None => format!("{path};{part}"),
    })
}

fn parameter(parameter: &str) -> String {
    match parameter.split_once('=') {
        Some((name, _)) if is_secret_name(name) => format!("{name}={REDACTED}"),
        Some((name, value)) => format!("{name}={}", nested(&decoded(value))),
        None => nested(&decoded(parameter)),
    }
}

/// The value of a parameter, which may be a URL with a query of its own. That query is left out.
fn nested(value: &str) -> String {
    let (start, query) = value.split_once('?').unwrap_or((value, ""));
    let start = value_without_secrets(start);
    match query.is_empty() {
        true => value_without_secrets(value),
        false => format!("{start}?{REDACTED}"),
    }
}

/// Whether there is a JSON web token in the text: header and payload, each of some length.
fn has_token(text: &str) -> bool {
    let text = decoded(text);
    let of_base64 = |c: char| c.is_ascii_alphanumeric() || "-_=".contains(c);
    text.match_indices(JWT).any(|(at, _)| {
        let rest = text.get(at..).unwrap_or_default();
        let mut parts = rest.split('.');
        let header = parts.next().unwrap_or_default();
        let payload = parts.next().unwrap_or_default();
        header.len() >= 8 && header.chars().all(of_base64) && payload.starts_with(of_base64)
    })
}

/// The text without percent-encoding, as far as it is text.
fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while let Some(byte) = bytes.get(at) {
        let pair = bytes.get(at + 1..at + 3).filter(|_| *byte == b'%');
        let pair = pair.and_then(|pair| std::str::from_utf8(pair).ok());
        match pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()) {
            Some(decoded) => {
                out.push(decoded);
                at += 3;
            }
            None => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0.c2ln";

    #[test]
    fn names_of_secrets_are_known_in_every_spelling() {
        for name in [
            "Authorization",
            "proxy-authorization",
            "Cookie",
            "x-api-key",
            "X-Auth-Token",
            "x-forwarded-client-cert",
            "id_token",
            "to%6ben",
            "code",
            "x-goog-iap-jwt-assertion",
            "X-Amz-Signature",
            "basic-auth",
        ] {
            assert!(is_secret_name(name), "{name}");
        }
        for name in ["accept", "x-request-id", "page", "q", "author", "keyword"] {
            assert!(!is_secret_name(name), "{name}");
        }
    }

    #[test]
    fn paths_lose_their_query_and_their_tokens() {
        for (path, with_query, expected) in [
            ("/a?b=c", false, "/a"),
            ("/a?b=c&token=x", true, "/a?b=c&token=[redacted]"),
            ("/a?to%6ben=x;b", true, "/a?to%6ben=[redacted]&b"),
            ("/a?", true, "/a"),
            ("/a#access_token=x", true, "/a"),
            ("*", false, "*"),
            (
                &format!("/reset/{TOKEN}/now"),
                false,
                "/reset/[redacted]/now",
            ),
            (&format!("/a?next={TOKEN}"), true, "/a?next=[redacted]"),
            (
                &format!("/a?next=%2Fb%3Fx%3D{}", TOKEN.replace("eyJh", "%65yJh")),
                true,
                "/a?next=/b?[redacted]",
            ),
            ("/eyJ.html", false, "/eyJ.html"),
            (
                "/cart;jsessionid=ABC;v=1/x",
                false,
                "/cart;jsessionid=[redacted];v=1/x",
            ),
            (
                "/a?next=https%3A%2F%2Fx%2F%3Ftoken%3DABC&ticket=ST-1",
                true,
                "/a?next=https://x/?[redacted]&ticket=[redacted]",
            ),
        ] {
            assert_eq!(path_without_secrets(path, with_query), expected, "{path}");
        }
    }

    #[test]
    fn values_lose_their_credentials() {
        for (value, expected) in [
            ("text/html", "text/html"),
            (TOKEN, REDACTED),
            ("Bearer abc", REDACTED),
            ("https://user:pw@host/x", "https://[redacted]@host/x"),
            ("https://host/a@b", "https://host/a@b"),
        ] {
            assert_eq!(value_without_secrets(value), expected, "{value}");
        }
    }
}
