//! The scope of a proxy: destinations by names that outlive addresses.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

pub use crate::world::Family;
use crate::world::{NamespacedName, Port};

/// A known destination by its name: `service/<namespace>/<name>:<port>` or `pod/<namespace>/<name>:<port>`, and with `/6` at the end its
/// IPv6 address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Destination {
    /// The kind of the object.
    pub kind: DestinationKind,
    /// Namespace and name.
    pub name: NamespacedName,
    /// The port that is dialled.
    pub port: Port,
    /// Which of its addresses.
    pub family: Family,
}

/// The kind of object that a destination names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DestinationKind {
    /// A service by its cluster address.
    Service,
    /// A pod by its own address.
    Pod,
}

impl DestinationKind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Pod => "pod",
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = match self.family {
            Family::V4 => "",
            Family::V6 => "/6",
        };
        let kind = self.kind.as_str();
        write!(f, "{kind}/{}:{}{family}", self.name, self.port)
    }
}

/// A text that names no destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidDestination(String);

impl fmt::Display for InvalidDestination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is not a destination; write service/<namespace>/<name>:<port> or pod/<namespace>/<name>:<port>, with /6 for IPv6",
            self.0
        )
    }
}

impl std::error::Error for InvalidDestination {}

impl FromStr for Destination {
    type Err = InvalidDestination;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        read(text).ok_or_else(|| InvalidDestination(text.to_owned()))
    }
}

fn read(text: &str) -> Option<Destination> {
    let (kind, rest) = text.split_once('/')?;
    let kind = [DestinationKind::Service, DestinationKind::Pod]
        .into_iter()
        .find(|known| known.as_str() == kind)?;
    let (rest, family) = rest
        .strip_suffix("/6")
        .map_or((rest, Family::V4), |rest| (rest, Family::V6));
    let (name, port) = rest.rsplit_once(':')?;
    let (namespace, name) = name.split_once('/')?;
    if namespace.is_empty() || name.is_empty() || name.contains('/') {
        return None;
    }
    Some(Destination {
        kind,
        name: NamespacedName::new(namespace, name),
        port: Port::try_from(port.parse::<i32>().ok()?).ok()?,
        family,
    })
}

/// The scope of one proxy, beside the declared destinations.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    /// Destinations with their listener and all behind it.
    pub active: &'a BTreeSet<Destination>,
    /// Destinations with all behind them but no listener: connections may still drain.
    pub draining: &'a BTreeSet<Destination>,
    /// The on-demand names that the proxy requested and gets.
    pub granted: &'a BTreeSet<Arc<str>>,
    /// The granted names that are absent while the destination has its listener.
    pub retired: &'a BTreeSet<Arc<str>>,
    /// The names that the proxy requested and does not get.
    pub denied: &'a BTreeSet<Arc<str>>,
    /// Whether the proxy sends its requests to its agent, for taps.
    pub tapped: bool,
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn names_read_as_they_are_written() {
        for text in [
            "service/shop/reviews:9080",
            "pod/shop/store-0:7000",
            "service/shop/reviews:9080/6",
        ] {
            assert_eq!(text.parse::<Destination>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "service/shop/reviews",
            "service/shop:80",
            "service//a:80",
            "service/a/b/c:80",
            "node/a/b:80",
            "pod/a/b:0",
            "pod/a/b:70000",
            "pod/a/b:80/4",
        ] {
            assert!(text.parse::<Destination>().is_err(), "{text}");
        }
    }
}
