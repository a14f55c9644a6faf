//! Request matchers: the conditions for a rule to apply.

use std::fmt;
use std::sync::Arc;

use super::server_name::ServerName;

/// One alternative of a rule: all of it must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestMatcher {
    /// The server name of TLS; None: every connection. Only rules for connections have one, and nothing else.
    pub server_name: Option<ServerName>,
    /// The path, without the query.
    pub path: PathMatcher,
    /// The method, in the case of the request; None: every method.
    pub method: Option<Arc<str>>,
    /// The conditions on headers, sorted by name, each name once.
    pub headers: Vec<HeaderMatcher>,
    /// The conditions on cookies, sorted by name, each name once.
    pub cookies: Vec<CookieMatcher>,
    /// The conditions on parameters of the query, sorted by name, each name once.
    pub query: Vec<QueryMatcher>,
}

impl RequestMatcher {
    /// Whether every request matches.
    #[must_use]
    pub fn is_any(&self) -> bool {
        self.server_name.is_none()
            && self.path == PathMatcher::Any
            && self.method.is_none()
            && self.headers.is_empty()
            && self.cookies.is_empty()
            && self.query.is_empty()
    }

    /// Its headers, cookies and query parameters by name.
    fn named(&self) -> impl Iterator<Item = (&Arc<str>, &ValueMatcher)> {
        let headers = self.headers.iter().map(|of| (&of.name, &of.value));
        let cookies = self.cookies.iter().map(|of| (&of.name, &of.value));
        let query = self.query.iter().map(|of| (&of.name, &of.value));
        headers.chain(cookies).chain(query)
    }

    /// Returns the length of all names and values, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let path = match &self.path {
            PathMatcher::Any => 0,
            PathMatcher::Exact(text) | PathMatcher::Prefix(text) | PathMatcher::Regex(text) => {
                text.len()
            }
            PathMatcher::Grpc(of) => of.service.len() + of.method.len(),
        };
        let named = self.named().map(|(name, value)| name.len() + value.bytes());
        let server_name = self.server_name.as_ref().map_or(0, ServerName::len);
        server_name
            + path
            + self.method.as_ref().map_or(0, |method| method.len())
            + named.sum::<usize>()
    }

    /// Returns the number of its regular expressions, each of which Envoy compiles.
    #[must_use]
    pub fn expressions(&self) -> usize {
        let named = self.named();
        let of_values = named.filter(|(_, value)| matches!(value, ValueMatcher::Regex(_)));
        let path = match &self.path {
            PathMatcher::Any | PathMatcher::Exact(_) | PathMatcher::Prefix(_) => false,
            PathMatcher::Regex(_) => true,
            PathMatcher::Grpc(of) => matches!(of.path(), PathMatcher::Regex(_)),
        };
        of_values.count() + usize::from(path)
    }
}

/// The path of a request as it was sent, escapes included.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum PathMatcher {
    /// Every path.
    #[default]
    Any,
    /// This path alone.
    Exact(Arc<str>),
    /// This path, and those below it: `/v2` matches `/v2/a` and not `/v2a`. Without a slash at its end.
    Prefix(Arc<str>),
    /// A path that a regular expression matches as a whole.
    Regex(Arc<str>),
    /// The path of some methods of gRPC.
    Grpc(GrpcMethod),
}

/// Methods of gRPC: `Get` of the service `shop.Carts` has the path `/shop.Carts/Get`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GrpcMethod {
    /// The full name of the service.
    pub service: GrpcName,
    /// The name of the method.
    pub method: GrpcName,
}

/// The name of a service or method of gRPC.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum GrpcName {
    /// Every name.
    #[default]
    Any,
    /// This name.
    Exact(Arc<str>),
    /// A name that a regular expression matches as a whole.
    Regex(Arc<str>),
}

impl GrpcName {
    /// Returns the length of the text, in bytes.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Any => 0,
            Self::Exact(text) | Self::Regex(text) => text.len(),
        }
    }

    fn expression(&self) -> String {
        match self {
            Self::Any => "[^/]+".to_owned(),
            Self::Exact(text) => regex::escape(text),
            Self::Regex(text) => format!("(?:{text})"),
        }
    }
}

impl GrpcMethod {
    /// Returns the equal matcher without methods of gRPC.
    pub(crate) fn path(&self) -> PathMatcher {
        match (&self.service, &self.method) {
            (GrpcName::Exact(service), GrpcName::Exact(method)) => {
                PathMatcher::Exact(format!("/{service}/{method}").into())
            }
            // All methods of a service are below the path of its name.
            (GrpcName::Exact(service), GrpcName::Any) => {
                PathMatcher::Prefix(format!("/{service}").into())
            }
            (service, method) => {
                let (service, method) = (service.expression(), method.expression());
                PathMatcher::Regex(format!("/{service}/{method}").into())
            }
        }
    }
}

impl fmt::Display for GrpcMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |name: &GrpcName| match name {
            GrpcName::Any => "*".to_owned(),
            GrpcName::Exact(text) => text.to_string(),
            GrpcName::Regex(text) => format!("~{text}"),
        };
        let (service, method) = (name(&self.service), name(&self.method));
        write!(f, "gRPC {service}/{method}")
    }
}

/// A parameter of a request's query, as it was sent, escapes included. Of a parameter that comes twice the first value counts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct QueryMatcher {
    /// The name of the parameter.
    pub name: Arc<str>,
    /// The value. A parameter without `=` has the empty value.
    pub value: ValueMatcher,
}

/// A condition on a header of a request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HeaderMatcher {
    /// The name, in lower case; `:authority` is the host.
    pub name: Arc<str>,
    /// The value. Of a header that comes in several lines one must match.
    pub value: ValueMatcher,
}

/// A cookie of a request. Of a cookie that comes twice the first value counts, without quotes around it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CookieMatcher {
    /// The name of the cookie.
    pub name: Arc<str>,
    /// The value that the cookie must have.
    pub value: ValueMatcher,
}

/// The value of a header, a cookie or a query parameter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ValueMatcher {
    /// This value.
    Exact(Arc<str>),
    /// A value that begins with this.
    Prefix(Arc<str>),
    /// A value that a regular expression matches as a whole.
    Regex(Arc<str>),
    /// Any value, also an empty one.
    Present,
    /// The request has no header, cookie or parameter of the name.
    Absent,
}

impl fmt::Display for RequestMatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_any() {
            return f.write_str("any request");
        }
        let server_name = self.server_name.iter();
        let mut parts: Vec<String> = server_name.map(|name| format!("TLS {name}")).collect();
        parts.extend(self.method.iter().map(ToString::to_string));
        match &self.path {
            PathMatcher::Any => {}
            PathMatcher::Exact(path) => parts.push(format!("path = {path}")),
            PathMatcher::Prefix(path) => parts.push(format!("path {path} and below")),
            PathMatcher::Regex(path) => parts.push(format!("path ~ {path}")),
            PathMatcher::Grpc(method) => parts.push(method.to_string()),
        }
        let headers = self.headers.iter();
        parts.extend(headers.map(|header| header.value.of(&header.name)));
        let cookies = self.cookies.iter();
        parts.extend(cookies.map(|of| of.value.of(&format!("cookie {}", of.name))));
        let query = self.query.iter();
        parts.extend(query.map(|query| query.value.of(&format!("?{}", query.name))));
        f.write_str(&parts.join(", "))
    }
}

impl ValueMatcher {
    fn bytes(&self) -> usize {
        match self {
            Self::Exact(text) | Self::Prefix(text) | Self::Regex(text) => text.len(),
            Self::Present | Self::Absent => 0,
        }
    }

    /// The condition on something of this name.
    fn of(&self, name: &str) -> String {
        match self {
            Self::Exact(value) => format!("{name}: {value}"),
            Self::Prefix(value) => format!("{name}: {value}*"),
            Self::Regex(value) => format!("{name} ~ {value}"),
            Self::Present => format!("{name} present"),
            Self::Absent => format!("{name} absent"),
        }
    }
}
