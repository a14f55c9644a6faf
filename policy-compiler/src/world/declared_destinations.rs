//! The pod annotation that declares the destinations of an application.

use std::sync::Arc;

use super::names::{NamespacedName, Port};

/// The annotation.
pub const DESTINATIONS: &str = "heddle.dev/destinations";

/// One entry of the annotation `heddle.dev/destinations`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeclaredDestination {
    /// `<namespace>/<service>[:<port>]`: one port, or all.
    Service(NamespacedName, Option<Port>),
    /// `<namespace>/*`
    Namespace(Arc<str>),
}
