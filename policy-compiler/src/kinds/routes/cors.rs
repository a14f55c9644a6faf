//! The filter `cors` of a rule.

use std::sync::Arc;

use serde::Deserialize;

use super::notes::Notes;
use crate::kinds::headers::is_token;
use crate::traffic::{Cors, Listed, Origin};
use crate::world::is_dns_label;

/// The methods of RFC 9110 and 5789.
const METHODS: [&str; 9] = [
    "CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE",
];
/// The most origins, methods or headers.
const MAX_LISTED: usize = 64;
/// The seconds for which a browser keeps an answer, if the filter does not say it.
const MAX_AGE: i64 = 5;

/// The fields of the filter.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CorsFields {
    allow_credentials: Option<bool>,
    #[serde(default)]
    allow_headers: Vec<String>,
    #[serde(default)]
    allow_methods: Vec<String>,
    #[serde(default)]
    allow_origins: Vec<String>,
    #[serde(default)]
    expose_headers: Vec<String>,
    max_age: Option<i64>,
}

/// Reads the filter.
pub(super) fn cors(field: &str, of: &CorsFields, notes: &mut Notes) -> Cors {
    for (name, list) in [
        ("allowOrigins", &of.allow_origins),
        ("allowMethods", &of.allow_methods),
        ("allowHeaders", &of.allow_headers),
        ("exposeHeaders", &of.expose_headers),
    ] {
        if list.len() > MAX_LISTED {
            let message = format!("{} items are more than {MAX_LISTED}", list.len());
            notes.unsupported(format!("{field}.{name}"), message, "remove some");
        }
    }
    let credentials = of.allow_credentials.unwrap_or_default();
    let origins = of.allow_origins.iter().enumerate();
    let origins = origins.filter_map(|(index, text)| {
        let found = origin(text);
        if found.is_none() {
            let message = format!("{text:?} is not an origin");
            let fix = "write for example https://www.example.com, https://*.example.com:8443 or *";
            notes.unsupported(format!("{field}.allowOrigins[{index}]"), message, fix);
        }
        found
    });
    let mut origins: Vec<Origin> = origins.collect();
    if of.allow_origins.is_empty() {
        let message = "no script may read the responses, for allowOrigins names no origin";
        notes.ignored(format!("{field}.allowOrigins"), message.to_owned());
    }
    origins.sort();
    origins.dedup();
    let exposed = names(&format!("{field}.exposeHeaders"), &of.expose_headers, notes);
    if credentials && exposed == Listed::All {
        let message = "browsers take * literally in answers to requests with credentials";
        notes.unsupported(
            format!("{field}.exposeHeaders"),
            message,
            "name the headers",
        );
    }
    Cors {
        origins,
        methods: methods(&format!("{field}.allowMethods"), &of.allow_methods, notes),
        headers: names(&format!("{field}.allowHeaders"), &of.allow_headers, notes),
        exposed,
        max_age: max_age(field, of.max_age, notes),
        credentials,
    }
}

fn max_age(field: &str, seconds: Option<i64>, notes: &mut Notes) -> u32 {
    let seconds = seconds.unwrap_or(MAX_AGE);
    let found = u32::try_from(seconds).ok().filter(|age| *age > 0);
    if found.is_none() {
        let message = format!("{seconds} is not a number of seconds from 1 to 4294967295");
        let fix = "use a number from 1 to 4294967295";
        notes.unsupported(format!("{field}.maxAge"), message, fix);
    }
    found.unwrap_or_default()
}

fn methods(field: &str, of: &[String], notes: &mut Notes) -> Listed {
    if of.iter().any(|method| method == "*") {
        return Listed::All;
    }
    for (index, method) in of.iter().enumerate() {
        if !METHODS.contains(&method.as_str()) {
            let message = format!("{method:?} is not a method of RFC 9110 or RFC 5789");
            let fix = "use a method of RFC 9110 or PATCH, in capitals, or *";
            notes.unsupported(format!("{field}[{index}]"), message, fix);
        }
    }
    listed(of)
}

fn names(field: &str, of: &[String], notes: &mut Notes) -> Listed {
    if of.iter().any(|name| name == "*") {
        return Listed::All;
    }
    for (index, name) in of.iter().enumerate() {
        if !is_token(name) {
            let message = format!("{name:?} is not the name of a header");
            notes.unsupported(format!("{field}[{index}]"), message, "correct the name");
        }
    }
    listed(of)
}

/// The names without repetitions, regardless of case.
fn listed(of: &[String]) -> Listed {
    let mut names = Vec::<Arc<str>>::new();
    for name in of {
        if !names.iter().any(|own| own.eq_ignore_ascii_case(name)) {
            names.push(name.as_str().into());
        }
    }
    Listed::These(names)
}

/// Reads an origin as browsers write it: in lower case, without the port of its scheme.
fn origin(text: &str) -> Option<Origin> {
    if text == "*" {
        return Some(Origin::Any);
    }
    let text = text.to_ascii_lowercase();
    let (scheme, usual, rest) = if let Some(rest) = text.strip_prefix("https://") {
        ("https://", 443, rest)
    } else {
        ("http://", 80, text.strip_prefix("http://")?)
    };
    let (host, port) = match rest.rsplit_once(':') {
        None => (rest, String::new()),
        Some((host, port)) => match port.parse::<u16>().ok()? {
            0 => return None,
            port if port == usual => (host, String::new()),
            port => (host, format!(":{port}")),
        },
    };
    let is_host = |host: &str| host.len() <= 253 && host.split('.').all(is_dns_label);
    if let Some(end) = host.strip_prefix('*') {
        let known = end.is_empty() || end.strip_prefix('.').is_some_and(is_host);
        return known.then(|| Origin::Suffix(scheme.into(), format!("{end}{port}").into()));
    }
    is_host(host).then(|| Origin::Exact(format!("{scheme}{host}{port}").into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_read_as_browsers_write_it() {
        for (text, read) in [
            ("*", Some("*")),
            ("https://Www.Example.com", Some("https://www.example.com")),
            ("https://a.test:443", Some("https://a.test")),
            ("http://a.test:443", Some("http://a.test:443")),
            ("http://10.0.0.1:8080", Some("http://10.0.0.1:8080")),
            ("https://*.a.test", Some("https://*.a.test")),
            ("https://*.a.test:8443", Some("https://*.a.test:8443")),
            ("http://*", Some("http://*")),
            ("https://a.*.test", None),
            ("https://*a.test", None),
            ("https://a.test/", None),
            ("https://a.test:0", None),
            ("ftp://a.test", None),
            ("a.test", None),
            ("https://", None),
        ] {
            let found = origin(text).map(|origin| origin.to_string());
            assert_eq!(found.as_deref(), read, "{text}");
        }
    }
}
