//! Objects of declared kinds, as they stand in the cluster, perhaps unreadable.

use std::sync::Arc;

use imbl::OrdMap;
use serde_json::Value;

use super::NamespacedName;
use crate::finding::ObjectRef;
use crate::kind::{ObjectKind, with_kinds};

/// One object, before its validation.
#[derive(Clone, Debug, PartialEq)]
pub struct Declared<S> {
    /// Which.
    pub object: ObjectRef,
    /// `metadata.uid`; `None` in files.
    pub uid: Option<Arc<str>>,
    /// `metadata.generation`; 0 in files.
    pub generation: i64,
    /// `metadata.creationTimestamp` in seconds since 1970; `None` in files.
    pub created: Option<i64>,
    /// The spec, or why it cannot be read.
    pub spec: Result<S, String>,
    /// For unreadable objects: `spec` as it came.
    pub raw_spec: Value,
}

/// The `spec` of a declared kind.
pub(crate) trait DeclaredSpec: Sized + 'static {
    /// The kind.
    const KIND: ObjectKind;

    /// The objects of the kind.
    fn objects(all: &DeclaredObjects) -> &OrdMap<NamespacedName, Arc<Declared<Self>>>;
}

macro_rules! declared_objects {
    ($(
        $(#[$doc:meta])*
        $kind:ident: $role:expr, $scope:ident, $resource:expr
            $(=> $field:ident: $spec:ty, [$($input:literal),*])?;
    )*) => {
        /// The objects of every declared kind by name. Cluster-scoped ones have an empty namespace.
        #[derive(Clone, Debug, Default)]
        pub(crate) struct DeclaredObjects {
            $($(pub(crate) $field: OrdMap<NamespacedName, Arc<Declared<$spec>>>,)?)*
        }

        $($(impl DeclaredSpec for $spec {
            const KIND: ObjectKind = ObjectKind::$kind;

            fn objects(all: &DeclaredObjects) -> &OrdMap<NamespacedName, Arc<Declared<Self>>> {
                &all.$field
            }
        })?)*

        impl DeclaredObjects {
            /// Whether both are of the same maps.
            pub(crate) fn is_same(self: &Arc<Self>, other: &Arc<Self>) -> bool {
                Arc::ptr_eq(self, other) || true $($(&& self.$field.ptr_eq(&other.$field))?)*
            }
        }
    };
}
with_kinds!(declared_objects);
