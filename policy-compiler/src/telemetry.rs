//! The reports of sidecars, as plain data without Kubernetes' types and Envoy's.

/// The requests and connections that have a line in the access log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct AccessLogs {
    /// The share of all of them, in parts of 10,000.
    pub(crate) share: u16,
    /// The share of failures, in parts of 10,000; at least `share`.
    pub(crate) failures: u16,
    /// The lowest status of a failure.
    pub(crate) from_status: u16,
}

impl AccessLogs {
    /// The same share of failures and of others.
    pub(crate) const fn alike(share: u16) -> Self {
        Self {
            share,
            failures: share,
            from_status: 500,
        }
    }
}

/// The form of a line of the access log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum LineFormat {
    /// An object of JSON.
    #[default]
    Json,
    /// `name=value` for each field.
    Text,
}
