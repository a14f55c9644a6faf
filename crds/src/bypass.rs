//! A namespace that the mesh bypasses.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// A namespace with sidecars that enforce nothing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BypassedNamespace {
    /// The namespace.
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
    )]
    pub namespace: String,
}
