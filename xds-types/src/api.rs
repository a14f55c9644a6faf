//! The HTTP API of each replica of the control plane: its paths, for the router, the command line, the rights and the document.

/// The version of the API, as in the paths. Fields may be added without a new version; readers ignore fields that they do not know.
pub const VERSION: &str = "v1";

/// A path of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Endpoint {
    /// The sidecars.
    Proxies,
    /// The traffic of edges.
    Edges,
    /// The ends of pods.
    Receipts,
    /// Live requests.
    Tap,
    /// The metrics of the replica, for Prometheus; their path has no version.
    Metrics,
}

impl Endpoint {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Proxies,
        Self::Edges,
        Self::Receipts,
        Self::Tap,
        Self::Metrics,
    ];

    /// The path.
    #[must_use]
    pub const fn path(self) -> &'static str {
        match self {
            Self::Proxies => "/api/v1/proxies",
            Self::Edges => "/api/v1/edges",
            Self::Receipts => "/api/v1/receipts",
            Self::Tap => "/api/v1/tap",
            Self::Metrics => "/metrics",
        }
    }

    /// The path of an earlier release, which still answers for one release.
    #[must_use]
    pub const fn earlier_path(self) -> Option<&'static str> {
        match self {
            Self::Proxies => Some("/debug/proxies"),
            Self::Edges | Self::Receipts | Self::Tap | Self::Metrics => None,
        }
    }

    /// The right that a caller needs to read it: `get` on this `nonResourceURL`. It is never below `/api`, which the role `system:discovery` of
    /// Kubernetes lets every authenticated caller read. None: the right is one on a resource.
    #[must_use]
    pub const fn right(self) -> Option<&'static str> {
        match self {
            Self::Proxies => Some("/heddle/v1/proxies"),
            Self::Edges => Some("/heddle/v1/edges"),
            Self::Receipts => Some("/heddle/v1/receipts"),
            Self::Metrics => Some("/metrics"),
            Self::Tap => None,
        }
    }

    /// The right for a path of a request: that of an earlier path is the path itself, as it was when the path was the only one.
    #[must_use]
    pub fn right_of(path: &str) -> Option<&'static str> {
        let mut all = Self::ALL.iter();
        all.find_map(|of| match of.earlier_path() {
            Some(earlier) if earlier == path => Some(earlier),
            _ if of.path() == path => of.right(),
            _ => None,
        })
    }

    /// Whether it is read with `GET`. Others take a `POST`.
    #[must_use]
    pub const fn is_read(self) -> bool {
        match self {
            Self::Proxies | Self::Edges | Self::Receipts | Self::Metrics => true,
            Self::Tap => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The paths that the role `system:discovery` of Kubernetes lets every authenticated caller read, and those of `system:public-info-viewer`.
    const READ_BY_ALL: [&str; 8] = [
        "/api",
        "/apis",
        "/openapi",
        "/version",
        "/healthz",
        "/livez",
        "/readyz",
        "/.well-known",
    ];

    #[test]
    fn no_right_is_one_that_every_caller_has() {
        for endpoint in Endpoint::ALL {
            let rights = [endpoint.right(), endpoint.earlier_path()];
            for right in rights.into_iter().flatten() {
                let read = READ_BY_ALL
                    .iter()
                    .find(|by_all| right.starts_with(**by_all));
                assert_eq!(read, None, "{right}");
                let path = if Some(right) == endpoint.right() {
                    endpoint.path()
                } else {
                    right
                };
                assert_eq!(Endpoint::right_of(path), Some(right), "{endpoint:?}");
            }
        }
        assert_eq!(Endpoint::right_of("/other"), None);
        assert_eq!(Endpoint::right_of(Endpoint::Tap.path()), None);
    }

    #[test]
    fn paths_have_the_version_and_are_different() {
        for endpoint in Endpoint::ALL {
            let versioned = endpoint.path().starts_with(&format!("/api/{VERSION}/"));
            assert_eq!(versioned, endpoint != Endpoint::Metrics, "{endpoint:?}");
        }
        let earlier = Endpoint::ALL.iter().filter_map(|of| of.earlier_path());
        let mut all: Vec<&str> = Endpoint::ALL
            .iter()
            .map(|of| of.path())
            .chain(earlier)
            .collect();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }
}
