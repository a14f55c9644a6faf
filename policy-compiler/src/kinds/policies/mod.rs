//! The policies, one file per kind. The list is written by `cargo xtask gen`.

pub(crate) mod auth_policy;
pub(crate) mod external_service;
pub(crate) mod grpc_route;
pub(crate) mod http_route;
pub(crate) mod smi_traffic_split;
pub(crate) mod tcp_route;
pub(crate) mod telemetry;
pub(crate) mod tls_route;
pub(crate) mod traffic_policy;
pub(crate) mod traffic_split;
pub(crate) mod x_backend_traffic_policy;
