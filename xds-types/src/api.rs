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
