//! `ExternalService`: hosts outside the mesh that applications call by name.

use std::num::NonZeroU16;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::crd::{Definition, Nulls};
use crate::{LastGood, strict};

/// Names hosts outside the mesh that applications may call, also where other destinations outside are refused.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "heddle.dev",
    version = "v1alpha1",
    kind = "ExternalService",
    plural = "externalservices",
    namespaced,
    category = "heddle",
    category = "mesh-policies",
    status = "ExternalServiceStatus",
    derive = "PartialEq",
    doc = "Names hosts outside the mesh that applications may call, also where other destinations outside are refused.",
    printcolumn(name = "Hosts", type_ = "string", json_path = ".spec.hosts"),
    printcolumn(
        name = "Proxies",
        type_ = "string",
        json_path = ".status.proxies",
        description = "Sidecars that run this generation, of all that should."
    ),
    printcolumn(
        name = "Programmed",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Programmed")].status"#
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("has(self.hosts) == self.ports.exists(port, port.protocol != 'TCP')").message(
    "spec.hosts: ports with HTTP or TLS take hosts, and no other ports do; add the missing part, or remove hosts"
))]
#[x_kube(validation = Rule::new("has(self.addresses) == self.ports.exists(port, port.protocol == 'TCP')").message(
    "spec.addresses: ports with TCP take addresses, and no other ports do; add the missing part, or remove addresses"
))]
#[x_kube(validation = Rule::new(
    "!has(self.privateAddresses) || (has(self.hosts) && self.hosts.exists(host, host.startsWith('*.')))"
).message("spec.privateAddresses: only names below a wildcard are kept from private addresses; remove the field, or name a host with *."))]
pub struct ExternalServiceSpec {
    /// The names of the hosts, such as `api.example.com`, 1 to 32, in lower case and in full; for ports with `HTTP` or `TLS`. The
    /// sidecar of the caller asks DNS for the addresses of the name, independently of the address that the application has called.
    /// `*.example.com` stands for all names below `example.com`, of any depth, but not for `example.com`. A host that is named in full
    /// wins over wildcards, and a longer wildcard over a shorter one. Of two objects that name the same host and port, one of the
    /// caller's own namespace wins, then the one with the smaller namespace, then the smaller name.
    #[serde(
        default,
        deserialize_with = "strict::list",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(schema_with = "crate::schema::hosts")]
    pub hosts: Vec<String>,

    /// The addresses of the hosts as CIDR blocks, such as `192.0.2.7/32`, 1 to 64; for ports with `TCP`, where no name is in the
    /// connection.
    #[serde(
        default,
        deserialize_with = "strict::list",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(schema_with = "crate::schema::ip_blocks")]
    pub addresses: Vec<String>,

    /// Blocks of private addresses to which the names below wildcards may lead, such as `10.20.0.0/16`, 1 to 64. Left out: those names
    /// lead to public addresses only. Blocks of the cluster would let names lead to its pods and services without mTLS.
    #[serde(
        default,
        deserialize_with = "strict::list",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(schema_with = "crate::schema::ip_blocks")]
    pub private_addresses: Vec<String>,

    /// The ports that applications call, 1 to 16.
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["port".into()]))]
    pub ports: Vec<ExternalPort>,

    /// Further namespaces with workloads that may call the hosts, 1 to 64; `*` stands for all. Left out: the namespace of this object
    /// alone.
    #[serde(
        default,
        deserialize_with = "strict::list",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(schema_with = "crate::schema::namespaces_or_all")]
    pub visible_to: Vec<String>,
}

impl Definition for ExternalService {
    const NULLS: Nulls = Nulls::Pruned;
}

/// A port of hosts outside the mesh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("!has(self.tls) || self.protocol == 'HTTP'").message(
    "tls: only HTTP can be sent by TLS of the sidecar; remove tls, or name the protocol HTTP"
))]
pub struct ExternalPort {
    /// The number of the port. The ports of the sidecar itself are refused.
    pub port: NonZeroU16,

    /// How applications speak there.
    pub protocol: ExternalProtocol,

    /// TLS that the sidecar begins to the hosts, for applications that speak HTTP without it. Left out: requests leave as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ExternalTls>,
}

/// TLS from the sidecar to hosts outside the mesh. The certificate of a host must be valid for its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExternalTls {
    /// The number of the port at which the hosts listen for TLS.
    #[serde(default = "https")]
    pub port: NonZeroU16,

    /// The certificates of the authorities that may have issued those of the hosts, in PEM, 1 to 32 and no private key. Left out: the
    /// public authorities in the image of the sidecar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 65536))]
    pub ca_certificates: Option<String>,
}

fn https() -> NonZeroU16 {
    NonZeroU16::MIN.saturating_add(442)
}

/// How applications speak to a host outside the mesh. A sidecar recognizes the host by a name in the first bytes.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum ExternalProtocol {
    /// HTTP without TLS. The header `Host` names the host.
    #[serde(rename = "HTTP")]
    Http,
    /// TLS of the application, such as HTTPS, which the sidecar passes on as it is. The server name (SNI) names the host.
    #[serde(rename = "TLS")]
    Tls,
    /// Any bytes, such as those of a database. The address names the host: connections to `addresses` pass, as by `outbound: Allow`.
    #[serde(rename = "TCP")]
    Tcp,
}

/// The status of an [`ExternalService`], written by the control plane.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExternalServiceStatus {
    /// The generation of the spec that the conditions are about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Accepted`, `ResolvedRefs`, `Conflicted`, `Programmed`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// The last spec that was accepted; it stays in force while the present one is unusable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_good: Option<LastGood>,
    /// Sidecars that run this generation, of all that should, as `n/m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxies: Option<String>,
}
