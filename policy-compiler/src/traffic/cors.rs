//! Cross-origin requests of browsers: the origins that may read answers, and the answers to preflight requests.

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
