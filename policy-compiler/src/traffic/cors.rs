//! Cross-origin requests of browsers: the origins that may read answers, and the answers to preflight requests.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// The scripts that may send requests and read the responses. The caller's sidecar answers preflight requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cors {
    /// The origins that are allowed, sorted. None: no origin is.
    pub origins: Vec<Origin>,
    /// The methods that are allowed beside GET, HEAD and POST.
    pub methods: Listed,
    /// The headers of requests that are allowed.
    pub headers: Listed,
    /// The headers of responses that scripts see.
    pub exposed: Listed,
    /// The seconds for which a browser keeps the answer to a preflight request.
    pub max_age: u32,
    /// Whether requests may have credentials, such as cookies.
    pub credentials: bool,
}

/// The scheme, host and port of a page.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Every origin.
    Any,
    /// This origin, as browsers send it: `https://shop.example.com`.
    Exact(Arc<str>),
    /// Those with this scheme and this end of host and port: `https://` and `.example.com:8443`. Before it are one character or more of the
    /// host.
    Suffix(Arc<str>, Arc<str>),
}

/// The names of methods or headers in an answer to a browser.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Listed {
    /// Every name.
    All,
    /// These names, in this order.
    These(Vec<Arc<str>>),
}

impl Default for Listed {
    fn default() -> Self {
        Self::These(Vec::new())
    }
}

impl Listed {
    /// The value of a header that lists the names, for a browser that asks for some. None: no name is allowed, and there is no header.
    fn value(&self, asked: &str) -> Option<String> {
        match self {
            Self::All => Some(asked.to_owned()),
            Self::These(names) if names.is_empty() => None,
            Self::These(_) => Some(self.to_string()),
        }
    }
}

impl Origin {
    /// Whether it is the origin of a page, as its browser sends it.
    fn is(&self, origin: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(own) => **own == *origin,
            Self::Suffix(scheme, end) => {
                let rest = origin.strip_prefix(&**scheme);
                let begin = rest.and_then(|rest| rest.strip_suffix(&**end));
                begin.is_some_and(|begin| !begin.is_empty() && !begin.contains(['/', ':']))
            }
        }
    }
}

impl Cors {
    /// Whether scripts of an origin may read responses.
    #[must_use]
    pub fn allows(&self, origin: &str) -> bool {
        self.origins.iter().any(|of| of.is(origin))
    }

    /// The headers by which a response lets scripts of an origin read it. Without consent there is none.
    pub(super) fn consent(&self, origin: &str) -> BTreeMap<&'static str, String> {
        let mut headers = BTreeMap::new();
        if self.allows(origin) {
            headers.insert("access-control-allow-origin", origin.to_owned());
            if self.credentials {
                headers.insert("access-control-allow-credentials", "true".to_owned());
            }
            if self.exposed != Listed::default() {
                let exposed = self.exposed.to_string();
                headers.insert("access-control-expose-headers", exposed);
            }
        }
        headers
    }

    /// The headers of the answer to a preflight request of an origin for a method and headers. Another origin learns them too, but has no
    /// consent.
    pub(super) fn preflight(
        &self,
        origin: &str,
        method: &str,
        headers: &str,
    ) -> BTreeMap<&'static str, String> {
        let mut answer = self.consent(origin);
        if self.credentials {
            answer.insert("access-control-allow-credentials", "true".to_owned());
        }
        if let Some(methods) = self.methods.value(method) {
            answer.insert("access-control-allow-methods", methods);
        }
        if let Some(headers) = self.headers.value(headers) {
            answer.insert("access-control-allow-headers", headers);
        }
        answer.insert("access-control-max-age", self.max_age.to_string());
        answer
    }
}

impl fmt::Display for Listed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("*"),
            Self::These(names) => f.write_str(&names.join(", ")),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Exact(origin) => f.write_str(origin),
            Self::Suffix(scheme, end) => write!(f, "{scheme}*{end}"),
        }
    }
}

impl fmt::Display for Cors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let origins: Vec<String> = self.origins.iter().map(ToString::to_string).collect();
        let origins = match &*origins {
            [] => "no origin".to_owned(),
            origins => origins.join(", "),
        };
        f.write_str(&origins)?;
        let lists = [
            ("methods", &self.methods),
            ("headers", &self.headers),
            ("exposes", &self.exposed),
        ];
        for (name, list) in lists {
            if *list != Listed::default() {
                write!(f, "; {name} {list}")?;
            }
        }
        f.write_str(if self.credentials {
            "; credentials"
        } else {
            ""
        })
    }
}
