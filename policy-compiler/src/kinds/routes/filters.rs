//! `filters` of a rule, and of a backend.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::backends::{self, Reference, ReferenceFields};
use super::cors::{self, CorsFields};
use super::matches::{check_name, check_path};
use super::notes::Notes;
use super::same;
use crate::kinds::headers::{FRAMING, MAX_VALUE, is_odd, is_of_sidecars};
use crate::traffic::{
    Cors, HeaderChanges, HeaderPolicy, Millionths, PathMatcher, PathRewrite, PresentLines,
    Redirect, RedirectStatus, RequestMatcher, Rewrite, Scheme,
};
use crate::world::{Port, is_dns_label};

/// The filters of a rule.
#[derive(Default)]
pub(super) struct Filters {
    pub(super) headers: HeaderPolicy,
    pub(super) rewrite: Rewrite,
    pub(super) redirect: Option<Answer>,
    pub(super) mirrors: Vec<Copies>,
    pub(super) cors: Option<Cors>,
}

/// A redirect, for any port of a parent.
pub(super) struct Answer {
    scheme: Option<Scheme>,
    host: Option<Arc<str>>,
    port: Option<Port>,
    path: Option<PathRewrite>,
    status: RedirectStatus,
}

/// The backend that gets copies of requests.
pub(super) struct Copies {
    pub(super) reference: Reference,
    pub(super) share: Millionths,
}

impl Answer {
    /// The redirect of a port of a parent.
    pub(super) fn at(&self, parent: Port) -> Redirect {
        Redirect {
            scheme: self.scheme,
            host: self.host.clone(),
            port: self.named_port(parent),
            path: self.path.clone(),
            status: self.status,
        }
    }

    /// The port that the location names. Without one the client takes that of the scheme, or that in `Host` of its request.
    fn named_port(&self, parent: Port) -> Option<Port> {
        let port = match (self.port, self.scheme) {
            (Some(port), _) => port,
            (None, Some(scheme)) => Port::try_from(i32::from(scheme.port())).ok()?,
            // `Host` of the request has it.
            (None, None) if self.host.is_none() => return None,
            (None, None) => parent,
        };
        let usual = port.get() == self.scheme.unwrap_or(Scheme::Http).port();
        let host_has_none = self.host.is_some() || parent.get() == Scheme::Http.port();
        (!(usual && host_has_none)).then_some(port)
    }
}

/// A filter of a rule or of a backend: both types of Gateway API have the same fields.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Filter {
    r#type: String,
    request_header_modifier: Option<Modifier>,
    response_header_modifier: Option<Modifier>,
    request_mirror: Option<MirrorFields>,
    request_redirect: Option<RedirectFields>,
    url_rewrite: Option<RewriteFields>,
    extension_ref: Option<Value>,
    cors: Option<CorsFields>,
    external_auth: Option<Value>,
}

#[derive(Deserialize)]
struct Modifier {
    #[serde(default)]
    set: Vec<Header>,
    #[serde(default)]
    add: Vec<Header>,
    #[serde(default)]
    remove: Vec<String>,
}

#[derive(Deserialize)]
struct Header {
    name: String,
    value: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MirrorFields {
    backend_ref: ReferenceFields,
    percent: Option<i64>,
    fraction: Option<Fraction>,
}

#[derive(Deserialize)]
struct Fraction {
    numerator: i64,
    denominator: Option<i64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RedirectFields {
    scheme: Option<String>,
    hostname: Option<String>,
    port: Option<i32>,
    path: Option<PathFields>,
    status_code: Option<i64>,
}

#[derive(Deserialize)]
struct RewriteFields {
    hostname: Option<String>,
    path: Option<PathFields>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PathFields {
    r#type: String,
    replace_full_path: Option<String>,
    replace_prefix_match: Option<String>,
}

/// Reads the filters of a rule with these matchers.
pub(super) fn of_rule<F: Serialize>(
    field: &str,
    filters: Option<&Vec<F>>,
    matchers: &[RequestMatcher],
    notes: &mut Notes,
) -> Filters {
    let mut read = Filters::default();
    let mut seen = Vec::new();
    for (index, filter) in filters.into_iter().flatten().enumerate() {
        let field = format!("{field}.filters[{index}]");
        let Some(filter) = same::<Filter>(filter) else {
            notes.unsupported(field, "the filter cannot be read", "remove it");
            continue;
        };
        if !is_complete(&field, &filter, notes) {
            continue;
        }
        if seen.contains(&filter.r#type) && filter.r#type != "RequestMirror" {
            let message = format!("{} is named before", filter.r#type);
            notes.unsupported(&*field, message, "keep one");
        }
        seen.push(filter.r#type.clone());
        read.add(&field, filter, matchers, notes);
    }
    let excluded = ["URLRewrite", "RequestMirror"];
    if read.redirect.is_some() && seen.iter().any(|name| excluded.contains(&name.as_str())) {
        let message = "a redirect excludes URLRewrite and RequestMirror: nothing is sent on";
        notes.incompatible(format!("{field}.filters"), message, "remove one of them");
    }
    if read.redirect.is_some() && !read.headers.request.is_empty() {
        let message = "a redirect sends no request on: its RequestHeaderModifier has no effect";
        notes.ignored(format!("{field}.filters"), message.to_owned());
    }
    read
}

/// Reads the filters of a backend.
pub(super) fn of_backend<F: Serialize>(
    field: &str,
    filters: Option<&Vec<F>>,
    notes: &mut Notes,
) -> HeaderPolicy {
    let read = of_rule(field, filters, &[], notes);
    let others = read.redirect.is_some() || read.cors.is_some() || !read.mirrors.is_empty();
    if others || read.rewrite != Rewrite::default() {
        let message =
            "a backend has no filters but RequestHeaderModifier and ResponseHeaderModifier";
        let fix = "set it in the filters of the rule";
        notes.unsupported(format!("{field}.filters"), message, fix);
    }
    read.headers
}

/// Whether the filter has exactly the field of its type, and a type that is supported.
fn is_complete(field: &str, filter: &Filter, notes: &mut Notes) -> bool {
    let Filter {
        r#type,
        request_header_modifier,
        response_header_modifier,
        request_mirror,
        request_redirect,
        url_rewrite,
        extension_ref,
        cors,
        external_auth,
    } = filter;
    let fields = [
        ("RequestHeaderModifier", request_header_modifier.is_some()),
        ("ResponseHeaderModifier", response_header_modifier.is_some()),
        ("RequestMirror", request_mirror.is_some()),
        ("RequestRedirect", request_redirect.is_some()),
        ("URLRewrite", url_rewrite.is_some()),
        ("ExtensionRef", extension_ref.is_some()),
        ("CORS", cors.is_some()),
        ("ExternalAuth", external_auth.is_some()),
    ];
    let unsupported = match r#type.as_str() {
        "ExtensionRef" => Some((
            "ExtensionRef is not supported: no kind of filter is defined for it",
            "remove the filter; a TrafficPolicy has faults, limits and headers",
        )),
        "ExternalAuth" => Some((
            "ExternalAuth is not supported: sidecars ask no server about a request",
            "remove the filter; an AuthPolicy decides about callers and requests",
        )),
        _ => None,
    };
    if let Some((message, fix)) = unsupported {
        notes.unsupported(format!("{field}.type"), message, fix);
        return false;
    }
    let right = fields
        .iter()
        .all(|(name, there)| *there == (name == r#type));
    if !right {
        let message = format!(
            "a filter of type {} takes exactly the field of that name",
            r#type
        );
        notes.unsupported(field, message, "correct type or field");
    }
    right
}

impl Filters {
    fn add(&mut self, field: &str, filter: Filter, matchers: &[RequestMatcher], notes: &mut Notes) {
        if let Some(of) = &filter.request_header_modifier {
            let field = format!("{field}.requestHeaderModifier");
            self.headers.request = changes(&field, of, notes);
        }
        if let Some(of) = &filter.response_header_modifier {
            let field = format!("{field}.responseHeaderModifier");
            self.headers.response = changes(&field, of, notes);
        }
        if let Some(of) = &filter.cors {
            self.cors = Some(cors::cors(&format!("{field}.cors"), of, notes));
        }
        if let Some(of) = filter.request_mirror {
            let field = format!("{field}.requestMirror");
            self.mirrors.push(copies(&field, of, notes));
        }
        if let Some(of) = filter.request_redirect {
            let field = format!("{field}.requestRedirect");
            self.redirect = Some(answer(&field, &of, matchers, notes));
        }
        if let Some(of) = filter.url_rewrite {
            let field = format!("{field}.urlRewrite");
            let path = of.path.as_ref();
            self.rewrite = Rewrite {
                host: hostname(&field, of.hostname.as_ref(), notes),
                path: path.and_then(|of| path_rewrite(&field, of, matchers, notes)),
            };
        }
    }
}

fn changes(field: &str, of: &Modifier, notes: &mut Notes) -> HeaderChanges {
    let mut changes = HeaderChanges::default();
    let name = |field: &str, name: &str, notes: &mut Notes| -> Arc<str> {
        check_name(field, name, notes);
        let name = name.to_ascii_lowercase();
        if FRAMING.contains(&&*name) {
            let message = format!("the header {name} is not changed by routes");
            let fix = "remove it; the host is changed by urlRewrite.hostname";
            notes.unsupported(field, message, fix);
        } else if is_of_sidecars(&name) {
            let message = format!("the header {name} belongs to sidecars, which set or remove it");
            notes.unsupported(field, message, "use a header of the application");
        }
        name.into()
    };
    for (index, removed) in of.remove.iter().enumerate() {
        let name = name(&format!("{field}.remove[{index}]"), removed, notes);
        changes.0.entry(name).or_default().present = PresentLines::Remove;
    }
    for (list, headers) in [("set", &of.set), ("add", &of.add)] {
        let mut seen = Vec::new();
        for (index, header) in headers.iter().enumerate() {
            let field = format!("{field}.{list}[{index}]");
            let name = name(&field, &header.name, notes);
            check_value(&field, &header.value, notes);
            if seen.contains(&name) {
                let message = format!("{name:?} is named before, and only the first one counts");
                notes.ignored(field, message);
                continue;
            }
            let change = changes.0.entry(Arc::clone(&name)).or_default();
            match list {
                "set" => change.present = PresentLines::Set(header.value.as_str().into()),
                _ => change.add.push(header.value.as_str().into()),
            }
            seen.push(name);
        }
    }
    changes
}

/// Checks the value of a header: Envoy refuses line breaks, and servers other control characters.
fn check_value(field: &str, value: &str, notes: &mut Notes) {
    if value.len() > MAX_VALUE || value.chars().any(is_odd) {
        let message = format!("{value:?} is not the value of a header");
        let fix = "remove control characters; 4096 bytes at most";
        notes.unsupported(format!("{field}.value"), message, fix);
    }
}

fn copies(field: &str, of: MirrorFields, notes: &mut Notes) -> Copies {
    let share = match (of.percent, of.fraction) {
        (None, None) => Some(Millionths::ALL),
        (Some(percent), None) => share(percent, 100),
        (None, Some(of)) => share(of.numerator, of.denominator.unwrap_or(100)),
        (Some(_), Some(_)) => None,
    };
    if share.is_none() {
        let message = "the share of requests is not from 0 to all of them";
        let fix = "name percent from 0 to 100, or a fraction of at most 1";
        notes.unsupported(field, message, fix);
    }
    let field = format!("{field}.backendRef");
    Copies {
        reference: of.backend_ref.read(field, notes),
        share: share.unwrap_or(Millionths::ALL),
    }
}

fn share(numerator: i64, denominator: i64) -> Option<Millionths> {
    let (numerator, denominator) = (u32::try_from(numerator), u32::try_from(denominator));
    Millionths::of(numerator.ok()?, denominator.ok()?)
}

fn answer(
    field: &str,
    of: &RedirectFields,
    matchers: &[RequestMatcher],
    notes: &mut Notes,
) -> Answer {
    let scheme = of.scheme.as_deref().and_then(|scheme| match scheme {
        "https" => Some(Scheme::Https),
        "http" => Some(Scheme::Http),
        other => {
            let message = format!("{other:?} is not a scheme");
            notes.unsupported(format!("{field}.scheme"), message, "use http or https");
            None
        }
    });
    let code = of.status_code.unwrap_or(302);
    let mut all = RedirectStatus::ALL.into_iter();
    let status = all.find(|status| i64::from(status.code()) == code);
    if status.is_none() {
        let message = format!("{code} is not the status of a redirect");
        let fix = "use 301, 302, 303, 307 or 308";
        notes.unsupported(format!("{field}.statusCode"), message, fix);
    }
    let path = of.path.as_ref();
    Answer {
        scheme,
        host: hostname(field, of.hostname.as_ref(), notes),
        port: backends::port(field, of.port, notes),
        path: path.and_then(|of| path_rewrite(field, of, matchers, notes)),
        status: status.unwrap_or(RedirectStatus::Found),
    }
}

fn hostname(field: &str, name: Option<&String>, notes: &mut Notes) -> Option<Arc<str>> {
    let name = name?;
    if name.len() > 253 || !name.split('.').all(is_dns_label) {
        let message = format!("{name:?} is not a host name");
        let fix = "use labels of lower-case letters, digits and dashes";
        notes.unsupported(format!("{field}.hostname"), message, fix);
    }
    Some(name.as_str().into())
}

/// The new path of requests. None: it stays.
fn path_rewrite(
    field: &str,
    of: &PathFields,
    matchers: &[RequestMatcher],
    notes: &mut Notes,
) -> Option<PathRewrite> {
    let field = format!("{field}.path");
    match (&*of.r#type, &of.replace_full_path, &of.replace_prefix_match) {
        ("ReplaceFullPath", Some(path), None) => {
            check_path(&format!("{field}.replaceFullPath"), path, notes);
            Some(PathRewrite::Full(path.as_str().into()))
        }
        ("ReplacePrefixMatch", None, Some(prefix)) => {
            let field = format!("{field}.replacePrefixMatch");
            if !prefix.is_empty() {
                check_path(&field, prefix, notes);
            }
            let any = |matcher: &RequestMatcher| matcher.path == PathMatcher::Any;
            let prefixes = |matcher: &RequestMatcher| match matcher.path {
                PathMatcher::Any | PathMatcher::Prefix(_) => true,
                PathMatcher::Exact(_) | PathMatcher::Regex(_) | PathMatcher::Grpc(_) => false,
            };
            if !matchers.iter().all(prefixes) {
                let message = "only the prefix of a match by prefix is replaced";
                notes.unsupported(field, message, "match by PathPrefix alone");
            }
            let prefix = prefix.trim_end_matches('/');
            // The root takes the place of the root.
            let same = prefix.is_empty() && matchers.iter().all(any);
            (!same).then(|| PathRewrite::Prefix(prefix.into()))
        }
        _ => {
            let message = "a path takes exactly the field of its type";
            notes.unsupported(field, message, "correct type or field");
            None
        }
    }
}
