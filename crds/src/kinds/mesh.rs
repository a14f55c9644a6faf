//! `Mesh`: settings of the whole mesh.

use std::num::{NonZeroU16, NonZeroU32};

use k8s_openapi::{
    apimachinery::pkg::api::resource::Quantity, apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::crd::{Definition, Nulls};
use crate::{
    Action, BypassedNamespace, HumanDuration, InitResources, LastGood, MeshTelemetry,
    RateLimitSettings,
};

/// The name of the one [`Mesh`] that counts.
pub const MESH_NAME: &str = "default";

/// Settings of the whole mesh. Cluster-scoped; the one named `default` counts. Without it, the defaults below hold.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "heddle.dev",
    version = "v1alpha1",
    kind = "Mesh",
    plural = "meshes",
    shortname = "mesh",
    category = "heddle",
    category = "mesh-policies",
    status = "MeshStatus",
    derive = "PartialEq",
    doc = "Settings of the whole mesh. Cluster-scoped; the one named `default` counts.",
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.mode"),
    printcolumn(name = "Default", type_ = "string", json_path = ".spec.defaultAction"),
    printcolumn(name = "Outbound", type_ = "string", json_path = ".spec.outbound"),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Accepted")].status"#
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MeshSpec {
    /// The SPIFFE trust domain: the first part of every identity, `spiffe://<trustDomain>/ns/<namespace>/sa/<name>`.
    /// Cannot be changed.
    #[serde(default = "cluster_local")]
    #[schemars(
        length(min = 1, max = 255),
        regex(pattern = r"^[a-z0-9]([a-z0-9._-]*[a-z0-9])?$")
    )]
    #[x_kube(validation = Rule::new("self == oldSelf").message(
        "spec.trustDomain cannot be changed, for identities already issued would stop matching; for another trust domain delete the Mesh, create it with the new one, run `heddle ca reset`, and restart every pod of the mesh"
    ))]
    pub trust_domain: String,

    /// The DNS domain of the cluster, as in `<service>.<namespace>.svc.<clusterDomain>`.
    #[serde(default = "cluster_local")]
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$")
    )]
    pub cluster_domain: String,

    /// How much is enforced. `Observe`: plain text is accepted, every policy only reports, and neither the limits of servers nor `outbound`
    /// refuse anything. `Permissive`: plain text is accepted beside mTLS. `Strict`: only mTLS is accepted. An AuthPolicy can say otherwise
    /// for its workloads.
    #[serde(default)]
    pub mode: MeshMode,

    /// The decision about a request when no policy with an Allow rule selects its workload and port.
    #[serde(default)]
    pub default_action: Action,

    /// The treatment of a connection to a destination outside the mesh: `Allow` passes it through unchanged,
    /// `Deny` refuses it.
    #[serde(default)]
    pub outbound: Action,

    /// Namespaces with another `outbound` for their workloads, at most 256.
    #[serde(default)]
    #[schemars(length(max = 256))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["namespace".into()]))]
    pub outbound_namespaces: Vec<NamespaceOutbound>,

    /// Namespaces out of the way of the mesh, at most 64: their sidecars enforce nothing. They accept plain text beside mTLS, and apply
    /// no AuthPolicy, no route, no split and no TrafficPolicy; they go on reporting, and call sidecars by mTLS. `heddle mesh bypass` edits the list.
    #[serde(default)]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["namespace".into()]))]
    pub bypassed_namespaces: Vec<BypassedNamespace>,

    /// Services with endpoints without a sidecar that may be called in plain text although `mode` is `Strict` and `outbound` is `Deny`,
    /// such as an external database; others of that kind get no traffic. With other settings all may be called. The API server
    /// (`default/kubernetes`) is there by default: its clients speak TLS of their own.
    #[serde(default = "api_server")]
    #[schemars(length(max = 256))]
    pub plain_destinations: Vec<PlainDestination>,

    /// Which destinations a sidecar holds.
    #[serde(default)]
    pub scope: ScopeSettings,

    /// The certificates of workloads.
    #[serde(default)]
    pub certificates: Certificates,

    /// The reports of the sidecars: readers of metrics, access logs, traces.
    #[serde(default)]
    pub telemetry: MeshTelemetry,

    /// The counter of shared rate limits.
    #[serde(default)]
    pub rate_limits: RateLimitSettings,

    /// The sidecars themselves. A change holds for pods created after it.
    #[serde(default)]
    pub proxy: ProxySettings,
}

impl Definition for Mesh {
    const NULLS: Nulls = Nulls::Pruned;
}

impl Default for MeshSpec {
    fn default() -> Self {
        Self {
            trust_domain: cluster_local(),
            cluster_domain: cluster_local(),
            mode: MeshMode::default(),
            default_action: Action::default(),
            outbound: Action::default(),
            outbound_namespaces: Vec::new(),
            bypassed_namespaces: Vec::new(),
            plain_destinations: api_server(),
            scope: ScopeSettings::default(),
            certificates: Certificates::default(),
            telemetry: MeshTelemetry::default(),
            rate_limits: RateLimitSettings::default(),
            proxy: ProxySettings::default(),
        }
    }
}

fn cluster_local() -> String {
    "cluster.local".to_owned()
}

fn api_server() -> Vec<PlainDestination> {
    vec![PlainDestination {
        namespace: "default".to_owned(),
        service: "kubernetes".to_owned(),
    }]
}

/// The treatment of connections of a namespace's workloads to destinations outside the mesh.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NamespaceOutbound {
    /// The namespace.
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
    )]
    pub namespace: String,
    /// `Allow` or `Deny`, in the place of `spec.outbound`.
    pub outbound: Action,
}

/// A service, or all services of a namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PlainDestination {
    /// Its namespace.
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
    )]
    pub namespace: String,
    /// Its name, or `*` for all services of the namespace.
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = r"^(\*|[a-z]([-a-z0-9]*[a-z0-9])?)$")
    )]
    pub service: String,
}

/// How much of the mesh is enforced.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
)]
pub enum MeshMode {
    /// Plain text is accepted, and every policy audits.
    Observe,
    /// Plain text is accepted beside mTLS; policies are enforced.
    #[default]
    Permissive,
    /// Only mTLS is accepted; policies are enforced.
    Strict,
}

/// Which destinations a sidecar holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ScopeSettings {
    /// `Enabled`: a sidecar is told of a destination of the mesh when its application first connects there, and the whole workload
    /// keeps it. `Disabled`: it holds the destinations that are declared and no other of the mesh; they are declared by the pod
    /// annotation `heddle.dev/destinations` (`<namespace>/<service>[:<port>]` or `<namespace>/*`, separated by commas), and without
    /// it are the services of the pod's own namespace. Destinations that the mesh does not know follow `outbound` either way.
    #[serde(default)]
    pub on_demand: OnDemand,

    /// How long a destination that was told on demand stays after its last use, from 1s to 8760h. A destination that left costs a first call again, so below 10m suits tests only.
    #[serde(default = "one_day")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('8760h')").message(
        "spec.scope.idleAfter must be from 1s to 8760h; write for example 24h"
    ))]
    pub idle_after: HumanDuration,
}

impl Default for ScopeSettings {
    fn default() -> Self {
        Self {
            on_demand: OnDemand::default(),
            idle_after: one_day(),
        }
    }
}

/// Whether sidecars are told destinations of the mesh when they are first used.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
)]
pub enum OnDemand {
    /// At first use.
    #[default]
    Enabled,
    /// Declared destinations only.
    Disabled,
}

/// The certificates of workloads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Certificates {
    /// How long a workload's certificate is valid, from 1m to 168h. It is renewed well before its end.
    #[serde(default = "one_day")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1m') && duration(self) <= duration('168h')").message(
        "spec.certificates.lifetime must be from 1m to 168h; write for example 24h"
    ))]
    pub lifetime: HumanDuration,
}

impl Default for Certificates {
    fn default() -> Self {
        Self {
            lifetime: one_day(),
        }
    }
}

fn one_day() -> HumanDuration {
    HumanDuration::hours(24)
}

/// A service account.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceAccountRef {
    /// Its namespace.
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
    )]
    pub namespace: String,
    /// Its name.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$")
    )]
    pub service_account: String,
}

/// The sidecars themselves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProxySettings {
    /// How much Envoy logs.
    #[serde(default)]
    pub log_level: LogLevel,
    /// Worker threads of Envoy, 1 to 64.
    #[serde(default = "two_workers")]
    #[schemars(range(min = 1, max = 64))]
    pub concurrency: NonZeroU16,
    /// Seconds that a sidecar goes on serving after its pod was told to stop, 1 to 3600. The pod's
    /// `terminationGracePeriodSeconds` bounds it.
    #[serde(default = "ten_seconds")]
    #[schemars(range(min = 1, max = 3600))]
    pub drain_seconds: NonZeroU32,
    /// Compute resources of the sidecar's container. The pod annotation `heddle.dev/proxy-resources` replaces single values.
    #[serde(default)]
    pub resources: ProxyResources,
    /// Compute resources of the init container `heddle-init`, which sets up capture and ends. The pod annotation
    /// `heddle.dev/init-resources` replaces single values.
    #[serde(default)]
    pub init_resources: InitResources,
}

impl Default for ProxySettings {
    fn default() -> Self {
        Self {
            log_level: LogLevel::default(),
            concurrency: two_workers(),
            drain_seconds: ten_seconds(),
            resources: ProxyResources::default(),
            init_resources: InitResources::default(),
        }
    }
}

const fn two_workers() -> NonZeroU16 {
    const { NonZeroU16::new(2).unwrap() }
}

const fn ten_seconds() -> NonZeroU32 {
    const { NonZeroU32::new(10).unwrap() }
}

/// How much Envoy logs; the words are Envoy's.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Everything, one line per event.
    Trace,
    /// Messages for developers of Envoy.
    Debug,
    /// Normal events.
    Info,
    /// Possible faults.
    #[default]
    Warning,
    /// Faults.
    Error,
    /// Faults that end the process.
    Critical,
    /// Nothing.
    Off,
}

impl LogLevel {
    /// The word that `envoy --log-level` takes.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Critical => "critical",
            Self::Off => "off",
        }
    }
}

/// Compute resources of the sidecar's container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProxyResources {
    /// The reservation.
    #[serde(default)]
    pub requests: ProxyRequests,
    /// The upper bound.
    #[serde(default)]
    pub limits: ProxyLimits,
}

/// The reservation of a sidecar.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProxyRequests {
    /// Processor time, in cores (`10m` is a hundredth of one); raise it where sidecars compete with busy applications.
    #[serde(default = "requested_cpu")]
    #[schemars(schema_with = "crate::schema::quantity")]
    pub cpu: Quantity,
    /// Memory, in bytes.
    #[serde(default = "requested_memory")]
    #[schemars(schema_with = "crate::schema::quantity")]
    pub memory: Quantity,
}

impl Default for ProxyRequests {
    fn default() -> Self {
        Self {
            cpu: requested_cpu(),
            memory: requested_memory(),
        }
    }
}

/// A reservation counts even where it is not used: with 50m for each sidecar and 10m for each application, an idle node of two
/// cores was full with some 35 pods. With 10m, the kubelet's own limit of 110 pods comes first. A sidecar may still use all
/// idle time of its node, for there is no limit on the processor.
fn requested_cpu() -> Quantity {
    Quantity("10m".to_owned())
}

fn requested_memory() -> Quantity {
    Quantity("64Mi".to_owned())
}

/// The upper bound of a sidecar.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProxyLimits {
    /// Processor time, in cores. Left out: no limit, for a throttled proxy delays every request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::quantity")]
    pub cpu: Option<Quantity>,
    /// Memory, in bytes. A sidecar above it is killed and started again.
    #[serde(default = "memory_limit")]
    #[schemars(schema_with = "crate::schema::quantity")]
    pub memory: Quantity,
}

impl Default for ProxyLimits {
    fn default() -> Self {
        Self {
            cpu: None,
            memory: memory_limit(),
        }
    }
}

fn memory_limit() -> Quantity {
    Quantity("256Mi".to_owned())
}

/// The status of a [`Mesh`], written by the control plane.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct MeshStatus {
    /// The generation of the spec that the conditions are about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Accepted`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// The last spec that was accepted; its values replace fields of the present spec that cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_good: Option<LastGood>,
}
