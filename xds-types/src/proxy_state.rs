//! The report of the control plane on one sidecar.

use serde::{Deserialize, Serialize};

/// One sidecar, as in `/api/v1/proxies` and `proxies.json`. Fields may be missing: the replica may be of another version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct ProxyState {
    /// `<namespace>/<pod>`.
    pub proxy: String,
    /// Whether it has a stream to that replica.
    pub connected: bool,
    /// The time since which it is connected, or not; seconds since 1970. `None`: it never had a stream to that replica.
    pub since: Option<u64>,
    /// Whether the pod is ready.
    pub ready: bool,
    /// Whether it has acknowledged its whole view.
    pub in_sync: bool,
    /// Whether the Mesh bypasses its namespace, so that it enforces nothing. `None`: the replica does not report it.
    pub bypassed: Option<bool>,
    /// The generation of the Mesh `default` that is in force at the replica. `None`: there is none, or the replica does not report it.
    pub mesh_generation: Option<i64>,
    /// The number of resources of its view that it has not acknowledged.
    pub behind: usize,
    /// The time since which some are not acknowledged; seconds since 1970.
    pub behind_since: Option<u64>,
    /// The number of resources of its view.
    pub resources: usize,
    /// The number of destinations in its scope.
    pub scope: Option<usize>,
    /// The number of destinations that it requested on demand.
    pub on_demand: usize,
    /// The resources that it rejected, with Envoy's text.
    pub rejected: Vec<String>,
    /// Bytes of discovery responses to it.
    pub bytes: u64,
    /// Discovery responses to it.
    pub responses: u64,
    /// Program and version that it reports, such as `envoy 1.40.0`.
    pub version: String,
    /// The version of its bootstrap ([`crate::bootstrap::BOOTSTRAP_VERSION`]); 0: written before bootstraps had versions.
    pub bootstrap: Option<u32>,
    /// The identity in its certificate.
    pub identity: String,
    /// The newest certificate of the pod that the replica issued, or has seen. `None`: none.
    pub certificate: Option<CertificateTimes>,
}

/// The times of a certificate, in seconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct CertificateTimes {
    /// Valid from.
    pub not_before: u64,
    /// Valid until.
    pub not_after: u64,
}
