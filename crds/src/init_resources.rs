//! Compute resources of the init container.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// Compute resources of the init container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InitResources {
    /// The reservation.
    #[serde(default)]
    pub requests: InitRequests,
    /// The upper bound.
    #[serde(default)]
    pub limits: InitLimits,
}

/// The reservation of the init container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InitRequests {
    /// Processor time, in cores.
    #[serde(default = "requested_cpu")]
    #[schemars(schema_with = "crate::schema::quantity")]
    pub cpu: Quantity,
    /// Memory, in bytes.
    #[serde(default = "requested_memory")]
    #[schemars(schema_with = "crate::schema::quantity")]
    pub memory: Quantity,
}

impl Default for InitRequests {
    fn default() -> Self {
        Self {
            cpu: requested_cpu(),
            memory: requested_memory(),
        }
    }
}

fn requested_cpu() -> Quantity {
    Quantity("10m".to_owned())
}

fn requested_memory() -> Quantity {
    Quantity("16Mi".to_owned())
}

/// The upper bound of the init container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InitLimits {
    /// Processor time, in cores. Left out: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::quantity")]
    pub cpu: Option<Quantity>,
    /// Memory, in bytes.
    #[serde(default = "memory_limit")]
    #[schemars(schema_with = "crate::schema::quantity")]
    pub memory: Quantity,
}

impl Default for InitLimits {
    fn default() -> Self {
        Self {
            cpu: None,
            memory: memory_limit(),
        }
    }
}

fn memory_limit() -> Quantity {
    Quantity("64Mi".to_owned())
}
