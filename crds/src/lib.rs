//! The API of Heddle: group `heddle.dev`, version `v1alpha1`.
//!
//! One file per kind in `kinds/`, with the groups of fields of a `TrafficPolicy` in `traffic_policy/`. The CRD YAML in `config/crd/` and the field tables in `docs/api.md` are generated from
//! these types by `cargo xtask gen`; a default, a limit or a sentence of help is written here and nowhere else.
//!
//! # Guarantees
//!
//! - A value that deserializes is valid by its type: durations are durations, ports are not zero, lists
//!   that mean "any of these" are not empty unless they were left out.
//! - An unknown field in a `spec` is an error, so that a misspelt field is reported and never ignored.
//!   In a `status` it is ignored, so that an older reader survives a newer writer.
//!
//! # Deliberately absent
//!
//! A Kubernetes client, Envoy, and any judgment that needs more than the one object: whether a service exists,
//! whether an address block parses, which object wins a conflict. These are the compiler's.

// Printer columns repeat their keys.
#![allow(clippy::duplicated_attributes)]

mod bypass;
mod conditions;
mod crd;
mod duration;
mod foreign;
mod host_tls;
mod init_resources;
mod kinds;
mod missing;
mod patterns;
mod percent;
mod rate_limit_settings;
mod request_match;
mod schema;
mod smi;
mod strict;
mod tracing;
mod traffic_policy;
mod unknown;

pub use bypass::BypassedNamespace;
pub use conditions::*;
use crd::Definition;
pub use crd::Scope;
pub use duration::{HumanDuration, InvalidDuration};
pub use foreign::*;
pub use host_tls::*;
pub use init_resources::*;
pub use kinds::*;
pub use patterns::pattern_in_words;
pub use percent::Percent;
pub use rate_limit_settings::*;
pub use request_match::*;
pub use smi::*;
pub use tracing::*;
pub use traffic_policy::*;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde::Deserialize;
use serde_json::Value;

/// The API group of every kind.
pub const GROUP: &str = "heddle.dev";
/// The one served and stored version.
pub const VERSION: &str = "v1alpha1";
/// `apiVersion` of every object.
pub const API_VERSION: &str = "heddle.dev/v1alpha1";

macro_rules! kinds {
    ($($kind:ident: $scope:ident [$($condition:ident),*]),* $(,)?) => {
        /// The kinds of the API, in the order in which documentation and installation name them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind {
            $(#[doc = concat!("The kind `", stringify!($kind), "`.")] $kind),*
        }

        impl Kind {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$kind),*];

            /// The name as written in `kind:`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$kind => stringify!($kind)),* }
            }

            /// Whether objects live in a namespace.
            #[must_use]
            pub const fn scope(self) -> Scope {
                match self { $(Self::$kind => Scope::$scope),* }
            }

            /// The conditions that its status holds, in order. The last one is True when all is done.
            #[must_use]
            pub const fn conditions(self) -> &'static [ConditionType] {
                match self { $(Self::$kind => &[$(ConditionType::$condition),*]),* }
            }

            /// The definition to install in a cluster.
            #[must_use]
            pub fn crd(self) -> CustomResourceDefinition {
                match self { $(Self::$kind => crd::polished($kind::crd(), $kind::NULLS)),* }
            }

            /// Compares an object with the type of the kind.
            ///
            /// # Errors
            /// The object does not fit the type.
            pub fn check_type(self, object: &Value) -> Result<(), serde_json::Error> {
                match self { $(Self::$kind => $kind::deserialize(object).map(drop)),* }
            }
        }
    };
}

// Our own kinds, with scope and conditions: everything that the API server must know of them. The list of all kinds that the compiler reads, with
// their roles, is in `policy-compiler/src/kind.rs`.
kinds! {
    Mesh: Cluster [Accepted],
    TrafficSplit: Namespaced [Accepted, ResolvedRefs, Conflicted, Programmed],
    TrafficPolicy: Namespaced [Accepted, ResolvedRefs, Conflicted, Programmed],
    AuthPolicy: Namespaced [Accepted, ResolvedRefs, Conflicted, Enforced, Programmed],
    Telemetry: Namespaced [Accepted, ResolvedRefs, Conflicted, Programmed],
    ExternalService: Namespaced [Accepted, ResolvedRefs, Conflicted, Programmed],
}

impl Kind {
    /// The kind of that name, if it is one of ours.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.name() == name)
    }

    /// The plural as it stands in URLs and RBAC rules.
    #[must_use]
    pub fn plural(self) -> String {
        self.crd().spec.names.plural
    }
}
