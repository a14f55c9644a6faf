//! The effects of an update: the views that may have changed, and the amount that was compiled.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::dependency::Dependency;
use crate::kind::{ObjectKind, with_policies};
use crate::resource::Part;
use crate::world::NamespacedName;

/// The differences between a compile and the compile that it was updated from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Every view may have changed: there was no compile before, or the settings of the mesh changed. `touched` is empty then.
    pub all: bool,
    /// The dependencies that changed. A view without any of them is unchanged, except for parts that are replaced.
    pub touched: BTreeSet<Dependency>,
    /// Parts that others have replaced, in views that are otherwise unchanged. Old and new part have the same resource keys.
    pub replaced: Vec<Replaced>,
    /// The amount that was compiled.
    pub recompiled: Recompiled,
}

/// A service's endpoints, routes or clusters changed, and nothing else: every view with the old part now has the new part.
#[derive(Clone, Debug)]
pub struct Replaced {
    /// Views that have the part depend on this service.
    pub service: NamespacedName,
    /// The part as it was.
    pub old: Arc<Part>,
    /// The part as it is.
    pub new: Arc<Part>,
}

/// Compares parts by identity.
impl PartialEq for Replaced {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.old, &other.old) && Arc::ptr_eq(&self.new, &other.new)
    }
}

impl Eq for Replaced {}

macro_rules! recompiled {
    ($(
        $(#[$doc:meta])*
        $kind:ident: $role:expr, $scope:ident, $resource:expr
            => $field:ident: $spec:ty, [$($input:literal),*];
    )*) => {
        /// The numbers of compiled units, by kind.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Recompiled {
            /// The settings of the mesh.
            pub settings: usize,
            $(
                #[doc = concat!("Namespaces with a `", stringify!($kind), "` that were validated.")]
                pub $field: usize,
            )*
            /// Pod templates for which the server's side was compiled.
            pub inbound: usize,
            /// Services for which caller filters were made.
            pub caller_filters: usize,
            /// Services for which the client's side was compiled.
            pub clients: usize,
            /// Proxies that were added, removed, or described again.
            pub proxies: usize,
        }

        impl Recompiled {
            /// Every kind with its count.
            #[must_use]
            pub fn by_kind(&self) -> Vec<(&'static str, usize)> {
                vec![
                    ("settings", self.settings),
                    $((stringify!($field), self.$field),)*
                    ("inbound", self.inbound),
                    ("caller_filters", self.caller_filters),
                    ("clients", self.clients),
                    ("proxies", self.proxies),
                ]
            }

            /// Counts the validation of a namespace.
            pub(super) fn add_policies(&mut self, kind: ObjectKind) {
                $(if kind == ObjectKind::$kind {
                    self.$field += 1;
                })*
            }
        }
    };
}
with_policies!(recompiled);
