//! TLS from sidecars to servers that they call for the mesh itself.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// TLS from the sidecar to a host. The certificate of the host must be valid for its name or address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HostTls {
    /// The certificates of the authorities that may have issued that of the host, in PEM, 1 to 32 and no private key. Left out: the
    /// public authorities in the image of the sidecar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 65536))]
    pub ca_certificates: Option<String>,
}
