//! The reports of sidecars, as plain data without Kubernetes' types and Envoy's.

use std::sync::Arc;

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

/// The form of a line of the access log; all but [`Self::Record`] go to the standard output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum LineFormat {
    /// An object of JSON.
    #[default]
    Json,
    /// `name=value` for each field.
    Text,
    /// A log record of OTLP for the collector, with the fields as attributes.
    Record,
}

/// An attribute of every span.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SpanTag {
    /// Its name.
    pub(crate) name: Arc<str>,
    /// The source of its value.
    pub(crate) value: TagValue,
}

/// The source of the value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum TagValue {
    /// This text.
    Literal(Arc<str>),
    /// A header of the request, in lower case.
    Header(Arc<str>),
}
