//! Server names of TLS (SNI), by which connections are routed.

use std::cmp::Reverse;
use std::fmt;
use std::sync::Arc;

/// The server names that a rule for connections takes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ServerName {
    /// This name, in lower case.
    Exact(Arc<str>),
    /// All names below this one: `b.example` has `a.b.example` and `x.a.b.example`, and not itself.
    Below(Arc<str>),
}

/// The place of a name among those of a port: the smaller one is tried first.
pub(crate) type NameRank = (bool, Reverse<usize>);

impl ServerName {
    /// Whether a connection with a name is one of these.
    #[must_use]
    pub fn takes(&self, sent: &str) -> bool {
        let sent = sent.to_ascii_lowercase();
        match self {
            Self::Exact(name) => **name == *sent,
            Self::Below(name) => {
                let rest = sent.strip_suffix(&**name);
                rest.is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
            }
        }
    }

    /// An exact name comes before a wildcard, and the longer wildcard before the shorter one.
    pub(crate) fn rank(&self) -> NameRank {
        let (Self::Exact(name) | Self::Below(name)) = self;
        (matches!(self, Self::Below(_)), Reverse(name.len()))
    }

    pub(crate) fn len(&self) -> usize {
        let (Self::Exact(name) | Self::Below(name)) = self;
        name.len()
    }
}

/// As Envoy and Gateway API write it: `a.example`, `*.example`.
impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Below(name) => write!(f, "*.{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_is_for_names_below_it() {
        for (name, sent, expected) in [
            (ServerName::Exact("a.b".into()), "A.b", true),
            (ServerName::Exact("a.b".into()), "x.a.b", false),
            (ServerName::Below("b.c".into()), "a.b.c", true),
            (ServerName::Below("b.c".into()), "x.a.B.c", true),
            (ServerName::Below("b.c".into()), "b.c", false),
            (ServerName::Below("b.c".into()), ".b.c", false),
            (ServerName::Below("b.c".into()), "ab.c", false),
            (ServerName::Below("b.c".into()), "", false),
        ] {
            assert_eq!(name.takes(sent), expected, "{name} {sent}");
        }
    }

    #[test]
    fn exact_names_and_longer_wildcards_come_first() {
        let below = |name: &str| ServerName::Below(name.into());
        let mut names = [below("c"), below("b.c"), ServerName::Exact("a".into())];
        names.sort_by_key(ServerName::rank);
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["a", "*.b.c", "*.c"]);
    }
}
