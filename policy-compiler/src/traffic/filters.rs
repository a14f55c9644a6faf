//! Filters of a rule: changes of a request and its response, and answers that redirect.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::world::Port;

/// Changes of the headers of a request or of a response, by name in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct HeaderChanges(pub BTreeMap<Arc<str>, HeaderChange>);

/// The change of one header: its present lines, then lines that are added.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct HeaderChange {
    /// The change of the lines that the header has.
    pub present: PresentLines,
    /// The values of the lines that are added, in this order.
    pub add: Vec<Arc<str>>,
}

/// The change of the present lines of a header.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum PresentLines {
    /// The lines stay.
    #[default]
    Keep,
    /// The lines are removed.
    Remove,
    /// One line with this value takes the place of the lines.
    Set(Arc<str>),
}

impl HeaderChanges {
    /// Whether no header changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns these changes followed by others, as one.
    #[must_use]
    pub fn then(&self, later: &Self) -> Self {
        let mut both = self.clone();
        for (name, change) in &later.0 {
            let own = both.0.entry(Arc::clone(name)).or_default();
            if change.present == PresentLines::Keep {
                own.add.extend(change.add.iter().cloned());
            } else {
                *own = change.clone();
            }
        }
        both
    }

    /// Changes headers, one entry a line with names in lower case.
    pub fn apply(&self, headers: &mut Vec<(String, String)>) {
        for (name, change) in &self.0 {
            let set = match &change.present {
                PresentLines::Keep => None,
                PresentLines::Remove | PresentLines::Set(_) => {
                    headers.retain(|(own, _)| **own != **name);
                    match &change.present {
                        PresentLines::Set(value) => Some(value),
                        PresentLines::Keep | PresentLines::Remove => None,
                    }
                }
            };
            let values = set.into_iter().chain(&change.add);
            headers.extend(values.map(|value| (name.to_string(), value.to_string())));
        }
    }
}

/// Changes of the headers of requests and of their responses.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct HeaderPolicy {
    /// Changes of the request, on its way to the backend.
    pub request: HeaderChanges,
    /// Changes of the response, on its way to the caller.
    pub response: HeaderChanges,
}

impl HeaderPolicy {
    /// Whether no header of the request or the response changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.request.is_empty() && self.response.is_empty()
    }

    /// Returns these changes before others, of requests and of responses.
    #[must_use]
    pub fn before(&self, later: &Self) -> Self {
        Self {
            request: self.request.then(&later.request),
            response: self.response.then(&later.response),
        }
    }

    /// Returns these changes around others: a request meets these first, a response last.
    #[must_use]
    pub fn around(&self, inner: &Self) -> Self {
        Self {
            request: self.request.then(&inner.request),
            response: inner.response.then(&self.response),
        }
    }
}

impl fmt::Display for HeaderPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [("request", &self.request), ("response", &self.response)];
        let mut parts = Vec::new();
        for (direction, changes) in all {
            for (name, change) in &changes.0 {
                match &change.present {
                    PresentLines::Keep => {}
                    PresentLines::Remove => parts.push(format!("{direction} removes {name}")),
                    PresentLines::Set(value) => {
                        parts.push(format!("{direction} sets {name}: {value}"));
                    }
                }
                let added = change.add.iter();
                parts.extend(added.map(|value| format!("{direction} adds {name}: {value}")));
            }
        }
        f.write_str(&parts.join(", "))
    }
}

/// Another host and path for a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rewrite {
    /// The new `Host`. None: that of the request.
    pub host: Option<Arc<str>>,
    /// The new path. None: that of the request.
    pub path: Option<PathRewrite>,
}

/// A change of the path of a request. The query stays.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PathRewrite {
    /// This path in the place of the whole path.
    Full(Arc<str>),
    /// This prefix in the place of that of the matcher, which is a prefix or matches every path. Without a slash at its end; empty:
    /// the matched prefix goes, and one slash of those after it stays.
    Prefix(Arc<str>),
}

/// An answer that sends the client elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Redirect {
    /// The scheme; None: that of the request.
    pub scheme: Option<Scheme>,
    /// The host; None: that of the request.
    pub host: Option<Arc<str>>,
    /// The port to name; None: that in `Host` of the request, or none with a host of its own.
    pub port: Option<Port>,
    /// The path; None: that of the request.
    pub path: Option<PathRewrite>,
    /// The status code of the answer.
    pub status: RedirectStatus,
}

/// The scheme of the URI to which a client is redirected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scheme {
    /// HTTP in plain text.
    Http,
    /// HTTP over TLS.
    Https,
}

impl Scheme {
    /// The scheme as a URI has it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The port that a URI need not name.
    #[must_use]
    pub const fn port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// The status code of a redirect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RedirectStatus {
    /// 301: permanent; the method may become GET.
    MovedPermanently,
    /// 302: temporary; the method may become GET.
    Found,
    /// 303: the client gets another resource by GET.
    SeeOther,
    /// 307: temporary; the method stays.
    TemporaryRedirect,
    /// 308: permanent; the method stays.
    PermanentRedirect,
}

impl RedirectStatus {
    /// Every status code of a redirect.
    pub const ALL: [Self; 5] = [
        Self::MovedPermanently,
        Self::Found,
        Self::SeeOther,
        Self::TemporaryRedirect,
        Self::PermanentRedirect,
    ];

    /// Returns the status code as a number.
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            Self::MovedPermanently => 301,
            Self::Found => 302,
            Self::SeeOther => 303,
            Self::TemporaryRedirect => 307,
            Self::PermanentRedirect => 308,
        }
    }
}

/// A share of requests, in millionths: 0 to 1,000,000.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Millionths(u32);

impl Millionths {
    /// All requests: 1,000,000 millionths.
    pub const ALL: Self = Self(1_000_000);

    /// Returns the share `numerator` of `denominator`, rounded; `None` if that is not a share.
    #[must_use]
    pub fn of(numerator: u32, denominator: u32) -> Option<Self> {
        if numerator > denominator || denominator == 0 {
            return None;
        }
        let (numerator, denominator) = (u64::from(numerator), u64::from(denominator));
        let rounded = (numerator * 1_000_000 + denominator / 2) / denominator;
        u32::try_from(rounded).ok().map(Self)
    }

    /// Returns the number of millionths.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Millionths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / 10_000, self.0 % 10_000);
        match format!("{rest:04}").trim_end_matches('0') {
            "" => write!(f, "{whole}%"),
            rest => write!(f, "{whole}.{rest}%"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn changes() -> impl Strategy<Value = HeaderChanges> {
        let present = prop_oneof![
            Just(PresentLines::Keep),
            Just(PresentLines::Remove),
            "[pq]".prop_map(|value| PresentLines::Set(value.into())),
        ];
        let add = proptest::collection::vec("[st]".prop_map(Arc::from), 0..3);
        let change = (present, add).prop_map(|(present, add)| HeaderChange { present, add });
        let name = "[ab]".prop_map(Arc::from);
        proptest::collection::btree_map(name, change, 0..3).prop_map(HeaderChanges)
    }

    fn sorted(mut headers: Vec<(String, String)>) -> Vec<(String, String)> {
        headers.sort_by(|a, b| a.0.cmp(&b.0));
        headers
    }

    proptest! {
        #[test]
        fn two_changes_as_one_have_the_same_effect(
            headers in proptest::collection::vec(("[ab]", "[xy]"), 0..4), first in changes(), later in changes(),
        ) {
            let (mut one, mut two) = (headers.clone(), headers);
            first.then(&later).apply(&mut one);
            first.apply(&mut two);
            later.apply(&mut two);
            prop_assert_eq!(sorted(one), sorted(two));
        }
    }

    #[test]
    fn a_share_is_rounded_and_printed_as_a_percentage() {
        let share = |numerator, denominator| {
            Millionths::of(numerator, denominator).map(|share| share.to_string())
        };
        assert_eq!(share(1, 3).as_deref(), Some("33.3333%"));
        assert_eq!(share(25, 100).as_deref(), Some("25%"));
        assert_eq!(share(1, 200).as_deref(), Some("0.5%"));
        assert_eq!(share(7, 7).as_deref(), Some("100%"));
        assert_eq!(share(2, 1), None);
        assert_eq!(share(0, 0), None);
    }
}
