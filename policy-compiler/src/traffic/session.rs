//! Sessions: the requests of a session get the same endpoint, by a token that the caller's sidecar gave to the client.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};

/// The place of the token in requests and responses. The token names an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Session {
    /// A cookie. Each backend of each rule has one of its own, so that its presence names the backend.
    Cookie {
        /// The beginning of the name of the cookie; a digest of the backend follows.
        name: Arc<str>,
        /// How long a session lasts. None: until that of the client ends.
        max_age: Option<Duration>,
    },
    /// A header, in lower case. The rule has one backend.
    Header(Arc<str>),
}

impl Session {
    /// The name of the cookie of a backend; None for a header.
    #[must_use]
    pub fn cookie(&self, rule: &impl fmt::Display, backend: &impl fmt::Display) -> Option<String> {
        let Self::Cookie { name, .. } = self else {
            return None;
        };
        let digest = Sha256::digest(format!("{rule}\n{backend}"));
        let digits = digest.iter().take(8).map(|byte| format!("{byte:02x}"));
        Some(format!("{name}-{}", digits.collect::<String>()))
    }
}

impl fmt::Display for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cookie { name, .. } => write!(f, "cookie {name}"),
            Self::Header(name) => write!(f, "header {name}"),
        }
    }
}
