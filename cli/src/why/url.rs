//! URLs as applications call them.

use anyhow::{Result, bail};

/// The parts of a URL.
#[derive(Debug, PartialEq, Eq)]
pub struct Url {
    /// A name, or an address without brackets.
    pub host: String,
    /// The port; that of the scheme where none is named.
    pub port: u16,
    /// Whether the scheme is `https`.
    pub tls: bool,
    /// The path with query.
    pub path: String,
}

/// Whether a text is a method, or the name of a header.
pub fn is_token(text: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+.^_`|~-".contains(&byte);
    !text.is_empty() && text.bytes().all(known)
}

/// Reads a URL. Without a scheme it is `http`.
///
/// # Errors
/// The text is not a URL of `http` or `https`.
pub fn parse(text: &str) -> Result<Url> {
    let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
    let tls = match scheme {
        "http" => false,
        "https" => true,
        _ => bail!("{scheme:?} is not a scheme of HTTP; write http:// or https://"),
    };
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        bail!("{text:?} is not a URL; escape spaces and characters outside ASCII by %");
    }
    // A client sends no fragment.
    let rest = rest.split('#').next().unwrap_or_default();
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let path = match path {
        path if path.starts_with('/') => path.to_owned(),
        path => format!("/{path}"),
    };
    let default = if tls { 443 } else { 80 };
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((host, port)) => (host, port.strip_prefix(':')),
            None => bail!("{authority:?} is not a host; close the bracket of the IPv6 address"),
        },
        None => match authority.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let number = port.map_or(Some(default), |port| port.parse().ok());
    let Some(port) = number.filter(|port| *port > 0) else {
        let port = port.unwrap_or_default();
        bail!("{port:?} is not a port; use a number from 1 to 65535");
    };
    if host.is_empty() || host.contains('@') {
        bail!("{authority:?} is not a host; write NAME, NAME.NAMESPACE or an address");
    }
    Ok(Url {
        host: host.to_owned(),
        port,
        tls,
        path,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(host: &str, port: u16, tls: bool, path: &str) -> Url {
        Url {
            host: host.to_owned(),
            port,
            tls,
            path: path.to_owned(),
        }
    }

    #[test]
    fn urls_are_read_as_clients_read_them() {
        for (text, expected) in [
            ("reviews", url("reviews", 80, false, "/")),
            (
                "reviews:9080/a?b=c#d",
                url("reviews", 9080, false, "/a?b=c"),
            ),
            (
                "http://reviews.shop?x",
                url("reviews.shop", 80, false, "/?x"),
            ),
            ("https://10.0.0.1/", url("10.0.0.1", 443, true, "/")),
            ("http://[fd00::1]:8080/a", url("fd00::1", 8080, false, "/a")),
            ("http://[fd00::1]", url("fd00::1", 80, false, "/")),
            ("http://a//b/%2F", url("a", 80, false, "//b/%2F")),
        ] {
            assert_eq!(parse(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn faults_are_named_with_their_fix() {
        for (text, error) in [
            (
                "ftp://a",
                "\"ftp\" is not a scheme of HTTP; write http:// or https://",
            ),
            (
                "http://a:0/",
                "\"0\" is not a port; use a number from 1 to 65535",
            ),
            ("a:b", "\"b\" is not a port; use a number from 1 to 65535"),
            (
                "http:///a",
                "\"\" is not a host; write NAME, NAME.NAMESPACE or an address",
            ),
            (
                "[fd00::1",
                "\"[fd00::1\" is not a host; close the bracket of the IPv6 address",
            ),
            (
                "a/é",
                "\"a/é\" is not a URL; escape spaces and characters outside ASCII by %",
            ),
        ] {
            assert_eq!(parse(text).unwrap_err().to_string(), error, "{text}");
        }
    }
}
