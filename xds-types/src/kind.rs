//! The list of kinds.

use std::fmt;

/// Generates [`ResourceKind`] and [`PerKind`] from the list: a new kind is one entry.
macro_rules! kinds {
    ($(
        #[doc = $doc:literal]
        $variant:ident, $field:ident: $message:literal, $label:literal, complete: $complete:literal, optional: $optional:literal;
    )*) => {
        /// The kinds of resources that the mesh uses, in the order in which responses are sent: make before break.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum ResourceKind {
            $(#[doc = $doc] $variant,)*
        }

        impl ResourceKind {
            /// All kinds, in the order in which they are sent.
            pub const ALL: [Self; [$($label),*].len()] = [$(Self::$variant),*];

            /// The full name of the protobuf message.
            #[must_use]
            pub const fn message(self) -> &'static str {
                match self { $(Self::$variant => $message,)* }
            }

            /// The type URL, as it stands in requests and in `Any`.
            #[must_use]
            pub const fn type_url(self) -> &'static str {
                match self { $(Self::$variant => concat!("type.googleapis.com/", $message),)* }
            }

            /// The short name of the discovery service, for logs and metric labels.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)* }
            }

            /// Whether an empty first subscription means all resources, and a state-of-the-world response is always complete.
            ///
            /// The protocol defines this for LDS and CDS only; clients subscribe to the other kinds by name.
            #[must_use]
            pub const fn is_complete(self) -> bool {
                match self { $(Self::$variant => $complete,)* }
            }

            /// Whether some clients never subscribe to the kind. They lack nothing of it.
            #[must_use]
            pub const fn is_optional(self) -> bool {
                match self { $(Self::$variant => $optional,)* }
            }
        }

        /// One value for each kind.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct PerKind<T> {
            $(#[doc = $doc] pub $field: T,)*
        }

        impl<T> PerKind<T> {
            /// Returns the value of a kind.
            #[must_use]
            pub const fn get(&self, kind: ResourceKind) -> &T {
                match kind { $(ResourceKind::$variant => &self.$field,)* }
            }

            /// Returns the value of a kind, to change it.
            #[must_use]
            pub const fn get_mut(&mut self, kind: ResourceKind) -> &mut T {
                match kind { $(ResourceKind::$variant => &mut self.$field,)* }
            }

            /// Converts each value.
            #[must_use]
            pub fn map<U>(&self, of: impl Fn(&T) -> U) -> PerKind<U> {
                PerKind { $($field: of(&self.$field),)* }
            }
        }
    };
}

kinds! {
    #[doc = "`envoy.config.cluster.v3.Cluster`, CDS."]
    Cluster, cluster: "envoy.config.cluster.v3.Cluster", "cds", complete: true, optional: false;
    #[doc = "`envoy.config.endpoint.v3.ClusterLoadAssignment`, EDS; it has the name of its cluster."]
    Endpoints, endpoints: "envoy.config.endpoint.v3.ClusterLoadAssignment", "eds", complete: false, optional: false;
    #[doc = "`envoy.config.listener.v3.Listener`, LDS."]
    Listener, listener: "envoy.config.listener.v3.Listener", "lds", complete: true, optional: false;
    #[doc = "`envoy.config.route.v3.RouteConfiguration`, RDS."]
    Route, route: "envoy.config.route.v3.RouteConfiguration", "rds", complete: false, optional: false;
    #[doc = "`envoy.config.core.v3.TypedExtensionConfig`, ECDS: a filter that a listener names."]
    Extension, extension: "envoy.config.core.v3.TypedExtensionConfig", "ecds", complete: false, optional: false;
    #[doc = "`envoy.service.runtime.v3.Runtime`, RTDS; gRPC and sidecars with a bootstrap of before version 1 do not subscribe to it."]
    Runtime, runtime: "envoy.service.runtime.v3.Runtime", "rtds", complete: false, optional: true;
}

impl ResourceKind {
    /// Returns the kind of a type URL, if it is one of the list.
    #[must_use]
    pub fn from_type_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == url)
    }
}

impl fmt::Display for ResourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_found_by_its_type_url() {
        for kind in ResourceKind::ALL {
            assert_eq!(ResourceKind::from_type_url(kind.type_url()), Some(kind));
            assert!(kind.type_url().ends_with(kind.message()));
        }
        assert_eq!(ResourceKind::from_type_url("type.googleapis.com/a.B"), None);
    }
}
